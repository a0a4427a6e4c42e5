// The owner's side of request mode: caches that a peer's pull is reading, and the keys that pulls
// use up.
//
// A resolved request pins its cache until the peer releases it or its link closes. A key that the
// pull would use up is pinned by one pull at a time; others wait for it here, so that the second of
// two pulls finds it gone. There is no lock: OwnerService has it guarded by the I/O thread.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/cache_store.h"
#include "engine/wire.h"

namespace lldd {

class OwnerPins {
public:
    // Gets the answer to one request; may run at once or when another peer's pull is over.
    using Answer = std::function<void(const wire::ResolveReply &reply)>;

    OwnerPins(CacheStore *store, bool has_device_pool)
        : store_(store), has_device_pool_(has_device_pool) {}
    OwnerPins(const OwnerPins &) = delete;
    OwnerPins &operator=(const OwnerPins &) = delete;

    // `holder` names the link that asks.
    void Resolve(const void *holder, const wire::Resolve &resolve, Answer answer);
    // Ends a pin of that holder, or its wait for one; no effect if there is none. A pull that is
    // done uses the key up, or the tensors of it that were pulled.
    void Release(const void *holder, const wire::Release &release);
    // The link is closed: its pins end, as failed ones.
    void Drop(const void *holder);

private:
    // Pins of different links may have the same number.
    using PinName = std::pair<const void *, uint64_t>;
    struct Pin {
        NamedEntry entry;
    };
    struct Waiting {
        PinName name;
        lldd_cache_key key;
        Answer answer;
    };
    // Which tensors of a key's cache no pull has taken yet. The cache tells a key from a later one
    // of the same name.
    struct Remaining {
        int64_t cache_id;
        std::vector<bool> tensors;
        uint64_t count;
    };

    Status Find(const lldd_cache_key &key, NamedEntry *entry) const;
    void UseUp(const NamedEntry &entry, const wire::Release &release);
    void Serve(const PinName &name, const lldd_cache_key &key, Answer answer);
    void StopWaiting(const PinName &name);
    void ServeWaiting(const Pin &ended);
    void SweepRemaining();

    CacheStore *const store_;
    const bool has_device_pool_;
    std::map<PinName, Pin> pins_;
    // The consumable keys that are pinned, and the requests that wait for each of them, in order.
    std::map<CacheName, std::list<Waiting>> taken_;
    // Where each of those waits: a puller that gives up is found there.
    std::map<PinName, CacheName> waits_for_;
    std::map<CacheName, Remaining> remaining_;
    static constexpr size_t kSweepFrom = 1024;
    size_t swept_at_ = kSweepFrom;
};

}  // namespace lldd
