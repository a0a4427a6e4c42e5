// A point in time until which a blocking call may last, and what may end it before.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "base/interpreter.h"
#include "base/interruption.h"
#include "base/mutex.h"

namespace lldd {

class Deadline {
public:
    using Clock = std::chrono::steady_clock;

    static Deadline In(std::chrono::nanoseconds time) { return Deadline(Clock::now() + time); }
    static Deadline InMs(uint64_t ms) {
        return In(std::chrono::milliseconds(std::min<uint64_t>(ms, kLongestMs)));
    }
    static Deadline At(Clock::time_point when) { return Deadline(when); }
    static Deadline Passed() { return Deadline(Clock::time_point::min()); }

    // The same one, which passes at once when it is interrupted. `interruption` must outlive it.
    Deadline InterruptedBy(Interruption *interruption) const {
        Deadline interrupted = *this;
        interrupted.interruption_ = interruption;
        return interrupted;
    }
    // The same one, if `when` is not earlier.
    Deadline OrAt(Clock::time_point when) const {
        Deadline earlier = *this;
        earlier.when_ = std::min(when_, when);
        return earlier;
    }

    Clock::time_point when() const { return when_; }
    bool passed() const { return passed(Clock::now()); }
    bool passed(Clock::time_point now) const {
        return cause() != InterruptCause::kNone || now >= when_;
    }
    InterruptCause cause() const {
        return interruption_ == nullptr ? InterruptCause::kNone : interruption_->cause();
    }

    // What is left, rounded up so that a wait never ends early; 0 when passed.
    int RemainingMs() const {
        if (cause() != InterruptCause::kNone) return 0;
        const auto now = Clock::now();
        if (when_ <= now) return 0;
        const auto left = when_ - now;
        const auto ms =
            std::chrono::duration_cast<std::chrono::milliseconds>(left + kAlmostOneMs).count();
        return static_cast<int>(std::min<int64_t>(ms, static_cast<int64_t>(kLongestMs)));
    }
    // For poll() and its kind, in a loop that ends when `passed`: how long to wait before the next
    // look. 0 when passed.
    int NextLookMs() const {
        const int left = RemainingMs();
        return interruption_ == nullptr ? left : std::min(left, kLookAgainMs);
    }
    // The same for a condition.
    Clock::time_point NextLook() const {
        if (interruption_ == nullptr) return when_;
        return std::min(when_, Clock::now() + std::chrono::milliseconds(kLookAgainMs));
    }

    // What a wait does before it waits again: Ctrl-C interrupts the call. No lock may be held.
    void LookAtCaller() const {
        if (interruption_ != nullptr && CallerInterrupted())
            interruption_->Raise(InterruptCause::kCaller);
    }

    // A wait that can be interrupted ends at most so long after the interruption.
    static constexpr int kLookAgainMs = 50;

private:
    explicit Deadline(Clock::time_point when) : when_(when) {}

    static constexpr uint64_t kLongestMs = 0x7FFFFFFF;
    static constexpr std::chrono::nanoseconds kAlmostOneMs{999999};

    Clock::time_point when_;
    Interruption *interruption_ = nullptr;
};

// Looks at the caller every Deadline::kLookAgainMs, for a call that moves bytes or is woken often: one
// that only waited might never get to it. Of one thread.
class CallerWatch {
public:
    bool Due(Deadline::Clock::time_point now) {
        if (next_ == Deadline::Clock::time_point::min()) Restart(now);
        return now >= next_;
    }
    // No lock may be held.
    void Look(const Deadline &deadline, Deadline::Clock::time_point now) {
        if (!Due(now)) return;
        deadline.LookAtCaller();
        Restart(now);
    }

private:
    void Restart(Deadline::Clock::time_point now) {
        next_ = now + std::chrono::milliseconds(Deadline::kLookAgainMs);
    }

    Deadline::Clock::time_point next_ = Deadline::Clock::time_point::min();
};

// Waits until `condition()`, which is asked with the lock held. False: the deadline has passed. Not
// analysed: which mutex the condition requires is known to the caller only.
template <typename Condition>
bool WaitUntil(std::condition_variable &changed, std::unique_lock<std::mutex> &lock,
               const Deadline &deadline, const Condition &condition) LLDD_NOT_ANALYSED {
    CallerWatch watch;
    while (!condition()) {
        auto now = Deadline::Clock::now();
        if (deadline.passed(now)) return false;
        if (watch.Due(now)) {
            lock.unlock();
            watch.Look(deadline, now);
            lock.lock();
            continue;
        }
        changed.wait_until(lock, deadline.NextLook());
    }
    return true;
}

}  // namespace lldd
