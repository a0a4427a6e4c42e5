// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/shaped_transfer.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <utility>

#include "base/fork.h"
#include "base/log.h"
#include "mock_runtime/fabric.h"

namespace lldd::mock {
namespace {

using std::chrono::nanoseconds;

// A transfer that took the machine more than this part longer than the fabric is one with which the
// machine does not keep up.
constexpr double kLate = 0.1;

// A port carries both ways at once.
std::string PortName(const ChannelName &device, bool out) {
    return std::string(reinterpret_cast<const char *>(device.data()), device.size()) +
           (out ? ">" : "<");
}

// Of this process: which transfer gets which delay depends on its threads anyway.
struct Chance {
    Mutex mutex;
    std::mt19937_64 random LLDD_GUARDED_BY(mutex){std::random_device{}()};

    nanoseconds UpTo(nanoseconds most) {
        if (most.count() == 0) return most;
        MutexLock lock(mutex);
        const double part = static_cast<double>(random() >> 11) * 0x1p-53;
        return nanoseconds(static_cast<int64_t>(part * static_cast<double>(most.count())));
    }
};

}  // namespace

Placement ShapedTransfer::PlacementOf(uint64_t addr) {
    if (known_.size == 0 || !known_.Contains(addr, 1)) {
        known_placement_ = device_->memory->PlacementOf(addr, &known_);
    }
    return known_placement_;
}

Status ShapedTransfer::Begin(const Run *runs, size_t count) {
    const Fabric &fabric = *device_->settings.fabric;
    const bool reads = direction_ == Direction::kRead;
    double rate = 0;
    std::pair<size_t, uint64_t> rate_of{kFabricDirectionCount, 0};
    peer_->BeginTransfer();
    for (const Run *run = runs; run != runs + count; ++run) {
        const PeerRegion *const region = peer_->Use(run->remote);
        if (region == nullptr) continue;  // the transfer says why it is refused
        const size_t direction =
            Fabric::DirectionOf(reads, PlacementOf(run->local), region->placement);
        // Runs are mostly of one size.
        if (rate_of != std::pair{direction, run->length}) {
            rate = fabric.BytesPerSecond(direction, run->length);
            rate_of = {direction, run->length};
        }
        if (rate == 0) return fabric.NotCarried(direction);
        bytes_ += static_cast<double>(run->length);
        seconds_ += static_cast<double>(run->length) / rate;
    }
    if (bytes_ == 0) return Status::Ok();
    const double capacity = fabric.port_bytes_per_second();
    std::vector<Port> ports{{PortName(device_->channel->name(), !reads), capacity},
                            {PortName(peer_->channel(), reads), capacity}};
    flow_.emplace(std::move(ports), bytes_, bytes_ / seconds_);
    moved_by_ = Deadline::Clock::now() +
                nanoseconds(static_cast<int64_t>(seconds_ * (1 + kLate) * 1e9)) + fabric.latency();
    return Status::Ok();
}

Status ShapedTransfer::Await(const Deadline &deadline, const std::atomic<bool> &peer_gone) {
    if (!flow_.has_value()) return Status::Ok();
    const Fabric &fabric = *device_->settings.fabric;
    if (Deadline::Clock::now() > moved_by_ && !device_->behind_fabric.exchange(true)) {
        LLDD_LOG(LLDD_LOG_WARNING,
                 "this machine does not keep up with the fabric %s: %.0f bytes, which take %.3f ms "
                 "there, took longer here; a :scale= makes it slower",
                 fabric.Words().c_str(), bytes_, seconds_ * 1e3);
    }
    const auto gone = [&peer_gone] { return peer_gone.load(); };
    Ports::Time end;
    bool passed = flow_->Await(deadline, gone, &end);
    if (passed) {
        end += fabric.latency() + OfThisProcess<Chance>().UpTo(fabric.jitter());
        passed = Ports::OfThisProcess().AwaitTime(end, deadline, gone);
    }
    if (passed || gone()) return Status::Ok();
    return Failure(
        LLDD_TIMEOUT,
        "not done in time: over %s the %.0f bytes take %.3f ms when nothing else is under "
        "way (LLM_DATADIST_MOCK_FABRIC)",
        fabric.Words().c_str(), bytes_, seconds_ * 1e3);
}

}  // namespace lldd::mock
