// Takes registered memory back, and goes on with what an earlier call has left.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>

#include "base/deadline.h"
#include "base/mutex.h"
#include "base/status.h"
#include "engine/cache_store.h"
#include "engine/call_gate.h"
#include "runtime/runtime.h"

namespace lldd {

// Thread-safe.
class Unregistrations {
public:
    // request_mode: all registered memory is known to the device, whatever its flag.
    Unregistrations(CacheStore *store, CachesInUse *in_use, Device *device, bool request_mode)
        : store_(store), in_use_(in_use), device_(device), request_mode_(request_mode) {}
    Unregistrations(const Unregistrations &) = delete;
    Unregistrations &operator=(const Unregistrations &) = delete;

    // Removes a cache and waits until no transfer is in its memory. After a call that did not
    // succeed, the next one with that id waits for the rest of it.
    Status Unregister(int64_t cache_id, const Deadline &deadline);

private:
    Status Withdraw(const Cache &cache, bool again, const Deadline &deadline);
    CacheRef Left(int64_t cache_id) const;
    void Leave(const CacheRef &cache, bool in_use);

    CacheStore *const store_;
    CachesInUse *const in_use_;
    Device *const device_;
    const bool request_mode_;
    mutable Mutex mutex_;
    // Those that are gone, but whose memory may be in use.
    std::map<int64_t, CacheRef> left_ LLDD_GUARDED_BY(mutex_);
};

}  // namespace lldd
