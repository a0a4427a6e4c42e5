// A lock whose waiters have deadlines: the turn of a link.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>

#include "base/deadline.h"
#include "base/mutex.h"

namespace lldd {

// Entering and leaving cost one atomic operation each while no thread waits. clang does not look into
// them: the atomic is the lock.
class LLDD_CAPABILITY("turn") TurnLock {
public:
    // The caller has it, see Mutex.
    void AssertHeld() const LLDD_ASSERT_HELD() {}
    bool TryEnter() LLDD_TRY_ACQUIRE(true) LLDD_NOT_ANALYSED {
        uint32_t state = kFree;
        return state_.compare_exchange_strong(state, kTaken);
    }
    // False: another thread has it at the deadline.
    bool Enter(const Deadline &deadline) LLDD_TRY_ACQUIRE(true) LLDD_NOT_ANALYSED {
        if (TryEnter()) return true;
        UniqueLock lock(mutex_);
        // The thread that has it sees that somebody waits, and takes the mutex to tell it.
        return WaitUntil(left_, lock.native(), deadline,
                         [this] { return state_.exchange(kAwaited) == kFree; });
    }
    void Leave() LLDD_RELEASE() LLDD_NOT_ANALYSED {
        if (state_.exchange(kFree) == kTaken) return;
        MutexLock lock(mutex_);
        left_.notify_one();
    }
    // All waiting threads look at their deadlines.
    void WakeAll() {
        MutexLock lock(mutex_);
        left_.notify_all();
    }

private:
    // kAwaited: taken, and perhaps a thread waits.
    static constexpr uint32_t kFree = 0;
    static constexpr uint32_t kTaken = 1;
    static constexpr uint32_t kAwaited = 2;

    std::atomic<uint32_t> state_{kFree};
    Mutex mutex_;
    std::condition_variable left_;
};

}  // namespace lldd
