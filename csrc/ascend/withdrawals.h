// Memory that its owner withdraws: every peer that may know it is asked to stop using it.
//
// HIXL gives the owner of memory no way to end a peer's access: it can deregister only what no
// connection knows. So the peers are asked, over the control connections of their links.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "ascend/gone_peers.h"
#include "ascend/hixl_engine.h"
#include "ascend/own_memory.h"
#include "base/deadline.h"
#include "base/mutex.h"
#include "base/status.h"

namespace lldd::ascend {

// A peer that may use this device's memory over one link, as the owner asks it. LLDD_TIMEOUT: it
// does not answer.
class MemoryUser {
public:
    virtual ~MemoryUser() = default;

    // It begins no transfer in the region any more.
    virtual Status Forget(uint64_t region, const Deadline &deadline) = 0;
    // It has no HIXL connection until it may come back.
    virtual Status StayAway(const Deadline &deadline) = 0;
    // Does not wait.
    virtual void ComeBack() = 0;
};

// Thread-safe.
class Withdrawals {
public:
    // Both outlive it.
    Withdrawals(HixlEngine *engine, OwnMemory *memory) : engine_(engine), memory_(memory) {}

    void Add(MemoryUser *user);
    // Waits while it is being asked.
    void Remove(MemoryUser *user);

    // Peers whose links ended without their word that they have left this memory.
    GonePeers &gone() { return gone_; }

    // Returns once no peer is in the memory any more. HIXL does not know it by then, unless what is
    // left of peers that have ended keeps it from being deregistered. LLDD_TIMEOUT: a peer may still
    // be in it.
    Status Finish(const OwnMemory::Withdrawn &withdrawn, const Deadline &deadline);

private:
    class Isolation;

    Status FinishOnce(const OwnMemory::Withdrawn &withdrawn, const Deadline &deadline, bool *done);

    std::vector<MemoryUser *> Users();
    Status AskEverybody(const std::vector<MemoryUser *> &users,
                        const std::function<Status(MemoryUser *)> &ask);
    // False: it is not there any more.
    bool BeginAsking(MemoryUser *user);
    void EndAsking(MemoryUser *user);

    HixlEngine *const engine_;
    OwnMemory *const memory_;
    GonePeers gone_;

    Mutex mutex_;
    std::condition_variable asked_;
    // Each with the number of threads that are asking it.
    std::map<MemoryUser *, size_t> users_ LLDD_GUARDED_BY(mutex_);
};

}  // namespace lldd::ascend
