// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/ports.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>

#include "base/fork.h"

namespace lldd::mock {
namespace {

using std::chrono::nanoseconds;

// Less than one byte is left over by rounding.
constexpr double kNothing = 1e-3;
// Longer than any deadline, and short enough to be added to a point in time.
constexpr double kLongestSeconds = 1e6;

nanoseconds Seconds(double seconds) {
    return nanoseconds(static_cast<int64_t>(std::min(seconds, kLongestSeconds) * 1e9) + 1);
}

double SecondsOf(nanoseconds time) { return static_cast<double>(time.count()) * 1e-9; }

constexpr double kSlowest = 1e-3;

// What is left of a port while capacity is given out.
struct Share {
    double capacity = 0;
    size_t flows = 0;  // that have no rate yet
};

// A flow that has no rate yet, and what is left of its ports.
struct Waiting {
    Ports::Flow *flow;
    std::vector<Share *> shares;

    double Most(double most) const {
        for (const Share *share : shares) {
            most = std::min(most, share->capacity / static_cast<double>(share->flows));
        }
        // Rounding must not leave a port with nothing: the flow would never end.
        return std::max(most, kSlowest);
    }
};

}  // namespace

Ports &Ports::OfThisProcess() { return lldd::OfThisProcess<Ports>(); }

Ports::Flow::Flow(std::vector<Port> through, double bytes, double most)
    : through_(std::move(through)), most_(most), left_(bytes) {
    Ports &ports = OfThisProcess();
    MutexLock lock(ports.mutex_);
    ports.EnterLocked(this);
}

Ports::Flow::~Flow() {
    Ports &ports = OfThisProcess();
    MutexLock lock(ports.mutex_);
    if (!done_) ports.LeaveLocked(this);
}

bool Ports::Flow::Await(const Deadline &deadline, const std::function<bool()> &ended, Time *end) {
    Ports &ports = OfThisProcess();
    UniqueLock lock(ports.mutex_);
    for (;;) {
        const Time now = Deadline::Clock::now();
        ports.AdvanceLocked(now);
        if (done_) {
            *end = end_;
            return true;
        }
        if (ended() || deadline.passed(now)) return false;
        const uint64_t version = ports.version_;
        const Time then = now + Seconds(left_ / rate_);
        WaitUntil(ports.changed_, lock.native(), deadline.OrAt(then),
                  [&]() LLDD_REQUIRES(ports.mutex_) { return ports.version_ != version; });
    }
}

bool Ports::AwaitTime(Time when, const Deadline &deadline, const std::function<bool()> &ended) {
    UniqueLock lock(mutex_);
    WaitUntil(changed_, lock.native(), deadline.OrAt(when), ended);
    return Deadline::Clock::now() >= when;
}

void Ports::WakeAll() {
    MutexLock lock(mutex_);
    ++version_;
    changed_.notify_all();
}

void Ports::EnterLocked(Flow *flow) {
    AdvanceLocked(Deadline::Clock::now());
    flows_.push_back(flow);
    ShareOutLocked();
}

void Ports::LeaveLocked(const Flow *flow) {
    AdvanceLocked(Deadline::Clock::now());
    const auto found = std::find(flows_.begin(), flows_.end(), flow);
    if (found == flows_.end()) return;  // its bytes have passed just now
    flows_.erase(found);
    ShareOutLocked();
}

void Ports::AdvanceLocked(Time now) {
    while (!flows_.empty() && now_ < now) {
        Time until = now;
        for (const Flow *flow : flows_) {
            until = std::min(until, now_ + Seconds(flow->left_ / flow->rate_));
        }
        const double seconds = SecondsOf(until - now_);
        for (Flow *flow : flows_) {
            flow->left_ -= flow->rate_ * seconds;
            flow->done_ = flow->left_ < kNothing;
            if (flow->done_) flow->end_ = until;
        }
        now_ = until;
        const size_t before = flows_.size();
        flows_.remove_if([](const Flow *flow) { return flow->done_; });
        if (flows_.size() != before) ShareOutLocked();
    }
    now_ = now;
}

// Fills all rates alike, until a flow has what it takes at most or a port is full.
void Ports::ShareOutLocked() {
    ++version_;
    changed_.notify_all();
    std::map<std::string, Share> shares;
    std::vector<Waiting> rest;
    for (Flow *flow : flows_) {
        Waiting &waiting = rest.emplace_back(Waiting{flow, {}});
        for (const Port &port : flow->through_) {
            Share &share = shares[port.name];
            share.capacity = share.flows == 0 ? port.bytes_per_second
                                              : std::min(share.capacity, port.bytes_per_second);
            ++share.flows;
            waiting.shares.push_back(&share);
        }
    }
    while (!rest.empty()) {
        size_t least = 0;
        double rate = rest[0].Most(rest[0].flow->most_);
        for (size_t i = 1; i < rest.size(); ++i) {
            const double most = rest[i].Most(rest[i].flow->most_);
            if (most >= rate) continue;
            rate = most;
            least = i;
        }
        rest[least].flow->rate_ = rate;
        for (Share *share : rest[least].shares) {
            share->capacity -= rate;
            --share->flows;
        }
        rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(least));
    }
}

}  // namespace lldd::mock
