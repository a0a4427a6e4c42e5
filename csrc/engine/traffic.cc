// SPDX-License-Identifier: Apache-2.0
#include "engine/traffic.h"

#include <algorithm>
#include <chrono>
#include <numeric>

namespace lldd {
namespace {

uint64_t Read(const std::atomic<uint64_t> &counter) {
    return counter.load(std::memory_order_relaxed);
}

template <size_t kSize>
std::array<uint64_t, kSize> ReadAll(const std::array<std::atomic<uint64_t>, kSize> &counters) {
    std::array<uint64_t, kSize> read{};
    std::transform(counters.begin(), counters.end(), read.begin(), Read);
    return read;
}

template <size_t kSize>
uint64_t Sum(const std::array<uint64_t, kSize> &numbers) {
    return std::accumulate(numbers.begin(), numbers.end(), uint64_t{0});
}

template <size_t kSize, typename Merge>
void MergeAll(std::array<uint64_t, kSize> *to, const std::array<uint64_t, kSize> &from,
              const Merge &merge) {
    std::transform(to->begin(), to->end(), from.begin(), to->begin(), merge);
}

template <typename Merge>
void MergeNumbers(TrafficNumbers *to, const TrafficNumbers &from, const Merge &merge) {
    to->pulls = merge(to->pulls, from.pulls);
    to->pushes = merge(to->pushes, from.pushes);
    MergeAll(&to->pulled, from.pulled, merge);
    MergeAll(&to->pushed, from.pushed, merge);
    MergeAll(&to->failures, from.failures, merge);
    MergeAll(&to->latency, from.latency, merge);
    to->latency_us = merge(to->latency_us, from.latency_us);
    to->last_success = std::max(to->last_success, from.last_success);
    const LastError &error = from.last_error;
    if (error.status != LLDD_SUCCESS && error.at >= to->last_error.at) to->last_error = error;
}

}  // namespace

size_t FailureKind(lldd_status status) {
    const auto *found = std::find(kFailureStatuses.begin(), kFailureStatuses.end(), status);
    return found == kFailureStatuses.end() ? kFailureKinds - 1
                                           : static_cast<size_t>(found - kFailureStatuses.begin());
}

size_t LatencyBucket(uint64_t us) {
    if (us == 0) return 0;
    const auto bits = static_cast<size_t>(64 - __builtin_clzll(us));
    return std::min(bits, kLatencyBuckets - 1);
}

uint64_t TrafficNumbers::bytes_pulled() const { return Sum(pulled); }
uint64_t TrafficNumbers::bytes_pushed() const { return Sum(pushed); }
uint64_t TrafficNumbers::failed() const { return Sum(failures); }

void TrafficNumbers::Add(const TrafficNumbers &other) {
    MergeNumbers(this, other, [](uint64_t a, uint64_t b) { return a + b; });
}

void TrafficNumbers::Raise(const TrafficNumbers &other) {
    MergeNumbers(this, other, [](uint64_t a, uint64_t b) { return std::max(a, b); });
}

void Traffic::Count(Counter *transfers, std::array<Counter, kNumPaths> *bytes,
                    const PathBytes &moved) {
    transfers->fetch_add(1, std::memory_order_relaxed);
    for (size_t path = 0; path < kNumPaths; ++path) {
        if (moved[path] != 0) (*bytes)[path].fetch_add(moved[path], std::memory_order_relaxed);
    }
}

void Traffic::NoteTimes(TrafficNumbers::Point entry, TrafficNumbers::Point end) {
    const auto us = static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(end - entry).count());
    latency_[LatencyBucket(us)].fetch_add(1, std::memory_order_relaxed);
    latency_us_.fetch_add(us, std::memory_order_relaxed);
    last_success_.store(end.time_since_epoch().count(), std::memory_order_relaxed);
}

void Traffic::NoteFailure(const Status &status, const std::string &text) {
    failures_[FailureKind(status.code())].fetch_add(1, std::memory_order_relaxed);
    MutexLock lock(error_mutex_);
    last_error_.status = status.code();
    last_error_.at = Deadline::Clock::now();
    last_error_.text = text.substr(0, LastError::kMostText);
}

uint64_t Traffic::ended() const {
    return lldd::Read(pulls_) + lldd::Read(pushes_) + Sum(ReadAll(failures_));
}

TrafficNumbers Traffic::Read() const {
    TrafficNumbers read;
    read.pulls = lldd::Read(pulls_);
    read.pushes = lldd::Read(pushes_);
    read.pulled = ReadAll(pulled_);
    read.pushed = ReadAll(pushed_);
    read.failures = ReadAll(failures_);
    read.latency = ReadAll(latency_);
    read.latency_us = lldd::Read(latency_us_);
    read.last_success = TrafficNumbers::Point(
        TrafficNumbers::Point::duration(last_success_.load(std::memory_order_relaxed)));
    MutexLock lock(error_mutex_);
    read.last_error = last_error_;
    return read;
}

bool LinkTraffic::Told(const TrafficNumbers &numbers) {
    MutexLock lock(told_mutex_);
    const uint64_t before = told_.failed();
    told_.Raise(numbers);
    return told_.failed() != before;
}

TrafficNumbers LinkTraffic::Peers() const {
    MutexLock lock(told_mutex_);
    return told_;
}

void TrafficTotals::Add(const LinkTraffic *link) {
    MutexLock lock(mutex_);
    links_.insert(link);
}

void TrafficTotals::Remove(const LinkTraffic *link) {
    MutexLock lock(mutex_);
    links_.erase(link);
    own_.Add(link->own.Read());
    peers_.Add(link->Peers());
}

TrafficNumbers TrafficTotals::Own() const {
    MutexLock lock(mutex_);
    TrafficNumbers sum = own_;
    for (const LinkTraffic *link : links_) sum.Add(link->own.Read());
    return sum;
}

TrafficNumbers TrafficTotals::Peers() const {
    MutexLock lock(mutex_);
    TrafficNumbers sum = peers_;
    for (const LinkTraffic *link : links_) sum.Add(link->Peers());
    return sum;
}

}  // namespace lldd
