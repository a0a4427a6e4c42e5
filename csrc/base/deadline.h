// A point in time until which a blocking call may last.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

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

    Clock::time_point when() const { return when_; }
    bool passed() const { return Clock::now() >= when_; }

    // For poll() and its kind: what is left, rounded up so that a wait never ends early; 0 when
    // passed.
    int RemainingMs() const {
        const auto now = Clock::now();
        if (when_ <= now) return 0;
        const auto left = when_ - now;
        const auto ms =
            std::chrono::duration_cast<std::chrono::milliseconds>(left + kAlmostOneMs).count();
        return static_cast<int>(std::min<int64_t>(ms, static_cast<int64_t>(kLongestMs)));
    }

private:
    explicit Deadline(Clock::time_point when) : when_(when) {}

    static constexpr uint64_t kLongestMs = 0x7FFFFFFF;
    static constexpr std::chrono::nanoseconds kAlmostOneMs{999999};

    Clock::time_point when_;
};

}  // namespace lldd
