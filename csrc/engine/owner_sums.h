// The owner's side of LLM_DATADIST_VERIFY: checksums of memory that a peer has read or written.
//
// Reading the memory takes time, so it is not done on the I/O thread but on one of its own, which
// begins with the first request. A peer is not trusted: only memory that it may reach over its link
// is summed, and what it may have waiting is bounded.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <thread>

#include "base/event_loop.h"
#include "base/mutex.h"
#include "engine/link.h"
#include "engine/wire.h"

namespace lldd {

class OwnerSums {
public:
    explicit OwnerSums(EventLoop *loop) : loop_(loop) {}
    ~OwnerSums();
    OwnerSums(const OwnerSums &) = delete;
    OwnerSums &operator=(const OwnerSums &) = delete;

    // A request of the peer of this link, which is answered from the other thread. On the I/O thread;
    // does not block.
    void Ask(const std::shared_ptr<Link> &link, uint32_t request_id, wire::Sums asked);

private:
    // A peer asks once for each transfer, of which there is one at a time; what it gave up on may
    // still wait.
    static constexpr size_t kMostPerLink = 4;

    struct Request {
        std::weak_ptr<Link> link;
        const void *of;  // the same, to be compared only
        uint32_t id;
        wire::Sums asked;
    };

    // Why it cannot be answered, or nothing.
    Status Take(const std::shared_ptr<Link> &link, uint32_t request_id, wire::Sums asked)
        LLDD_REQUIRES(*loop_);
    void Run();
    wire::SumsReply Summed(const Link &link, const wire::Sums &asked, char *chunk) const;

    EventLoop *const loop_;
    std::thread thread_;  // made on the I/O thread, joined when no link is left
    std::atomic<bool> stopping_{false};
    Mutex mutex_;
    std::condition_variable changed_;
    std::deque<Request> requests_ LLDD_GUARDED_BY(mutex_);
};

}  // namespace lldd
