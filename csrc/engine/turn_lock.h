// A lock whose waiters have deadlines: the turn of a link.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "base/deadline.h"

namespace lldd {

// Entering and leaving cost one atomic operation each while no thread waits.
class TurnLock {
public:
    bool TryEnter() {
        uint32_t state = kFree;
        return state_.compare_exchange_strong(state, kTaken);
    }
    // False: another thread has it at the deadline.
    bool Enter(const Deadline &deadline) {
        if (TryEnter()) return true;
        std::unique_lock<std::mutex> lock(mutex_);
        // The thread that has it sees that somebody waits, and takes the mutex to tell it.
        return WaitUntil(left_, lock, deadline,
                         [this] { return state_.exchange(kAwaited) == kFree; });
    }
    void Leave() {
        if (state_.exchange(kFree) == kTaken) return;
        std::lock_guard<std::mutex> lock(mutex_);
        left_.notify_one();
    }
    // All waiting threads look at their deadlines.
    void WakeAll() {
        std::lock_guard<std::mutex> lock(mutex_);
        left_.notify_all();
    }

private:
    // kAwaited: taken, and perhaps a thread waits.
    static constexpr uint32_t kFree = 0;
    static constexpr uint32_t kTaken = 1;
    static constexpr uint32_t kAwaited = 2;

    std::atomic<uint32_t> state_{kFree};
    std::mutex mutex_;
    std::condition_variable left_;
};

}  // namespace lldd
