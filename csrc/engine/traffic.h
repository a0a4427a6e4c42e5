// What transfers over one link have come to: those of this end, and those of the peer as it reports
// them; and the sums over all links of an engine.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>

#include "base/deadline.h"
#include "base/mutex.h"
#include "base/status.h"
#include "runtime/runtime.h"

namespace lldd {

// By which statuses failures are counted; the last one counts all others.
constexpr size_t kFailureKinds = 8;
constexpr std::array<lldd_status, kFailureKinds> kFailureStatuses = {
    LLDD_TIMEOUT,       LLDD_KV_CACHE_NOT_EXIST,  LLDD_PARAM_INVALID,        LLDD_NOT_YET_LINK,
    LLDD_OUT_OF_MEMORY, LLDD_FEATURE_NOT_ENABLED, LLDD_SUSPECT_REMOTE_ERROR, LLDD_FAILED};
size_t FailureKind(lldd_status status);

// Bucket k has the transfers that took less than 2^k us, and not less than half of that; the last one
// has all longer ones.
constexpr size_t kLatencyBuckets = 28;
size_t LatencyBucket(uint64_t us);

using FailureCounts = std::array<uint64_t, kFailureKinds>;
using LatencyCounts = std::array<uint64_t, kLatencyBuckets>;

// The last failure of some transfers.
struct LastError {
    using Point = Deadline::Clock::time_point;

    static constexpr size_t kMostText = 240;

    lldd_status status = LLDD_SUCCESS;  // LLDD_SUCCESS: there was none
    Point at;
    std::string text;  // at most kMostText bytes
};

// Numbers that only grow, as they were at one moment, each on its own.
struct TrafficNumbers {
    using Point = Deadline::Clock::time_point;

    uint64_t pulls = 0;   // that succeeded, as all up to the failures
    uint64_t pushes = 0;  // layers
    PathBytes pulled{};
    PathBytes pushed{};
    FailureCounts failures{};
    LatencyCounts latency{};  // of transfers that succeeded, from the call to its end
    uint64_t latency_us = 0;  // their sum
    Point last_success;       // the epoch: there was none
    LastError last_error;

    uint64_t bytes_pulled() const;
    uint64_t bytes_pushed() const;
    uint64_t failed() const;
    // Adds those of other transfers; the later success and the later failure are the last ones.
    void Add(const TrafficNumbers &other);
    // Takes the larger one of each: what a peer tells cannot take back what it has told.
    void Raise(const TrafficNumbers &other);
};

// Of the transfers of this end over one link. Any thread; no lock but for failures.
class Traffic {
public:
    void CountPull(const PathBytes &moved) { Count(&pulls_, &pulled_, moved); }
    void CountPush(const PathBytes &moved) { Count(&pushes_, &pushed_, moved); }
    // Where clocks are read: of one that succeeded.
    void NoteTimes(TrafficNumbers::Point entry, TrafficNumbers::Point end);
    void NoteFailure(const Status &status, const std::string &text);

    TrafficNumbers Read() const;
    // How many transfers have ended: it changes when anything does.
    uint64_t ended() const;
    uint64_t failures(size_t kind) const { return failures_[kind].load(std::memory_order_relaxed); }

private:
    using Counter = std::atomic<uint64_t>;

    static void Count(Counter *transfers, std::array<Counter, kNumPaths> *bytes,
                      const PathBytes &moved);

    Counter pulls_{0};
    Counter pushes_{0};
    std::array<Counter, kNumPaths> pulled_{};
    std::array<Counter, kNumPaths> pushed_{};
    std::array<Counter, kFailureKinds> failures_{};
    std::array<Counter, kLatencyBuckets> latency_{};
    Counter latency_us_{0};
    std::atomic<TrafficNumbers::Point::rep> last_success_{0};

    mutable Mutex error_mutex_;
    LastError last_error_ LLDD_GUARDED_BY(error_mutex_);
};

// Both sides of one link.
class LinkTraffic {
public:
    Traffic own;

    // What the peer reports of its transfers. True: it has seen failures of which it had not told.
    bool Told(const TrafficNumbers &numbers);
    TrafficNumbers Peers() const;

    // ended() of what this end last reported to the peer.
    std::atomic<uint64_t> reported{0};

private:
    mutable Mutex told_mutex_;
    TrafficNumbers told_ LLDD_GUARDED_BY(told_mutex_);
};

// The sums over the links of an engine, also of those that are gone. Thread-safe; nothing here is
// called for a transfer.
class TrafficTotals {
public:
    void Add(const LinkTraffic *link);
    // The link ends: its numbers stay in the sums.
    void Remove(const LinkTraffic *link);

    TrafficNumbers Own() const;
    TrafficNumbers Peers() const;

private:
    mutable Mutex mutex_;
    std::set<const LinkTraffic *> links_ LLDD_GUARDED_BY(mutex_);
    TrafficNumbers own_ LLDD_GUARDED_BY(mutex_);    // of links that are gone
    TrafficNumbers peers_ LLDD_GUARDED_BY(mutex_);  // the same
};

}  // namespace lldd
