// A transfer that takes as long as it would over a fabric.
//
// The bytes are moved at once; then the call waits until they would have passed the ports of both
// ends, and for the latency. While no fabric is set, that costs one comparison.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <optional>
#include <string>

#include "base/deadline.h"
#include "mock_runtime/device_parts.h"
#include "mock_runtime/move.h"
#include "mock_runtime/peer_memory.h"
#include "mock_runtime/ports.h"
#include "runtime/runtime.h"

namespace lldd::mock {

class ShapedTransfer {
public:
    ShapedTransfer(DeviceParts *device, PeerMemory *peer, Direction direction)
        : device_(device), peer_(peer), direction_(direction) {}

    // Before the bytes are moved. LLDD_FEATURE_NOT_ENABLED: the fabric does not carry them.
    Status Begin(const Run *runs, size_t count);
    // After they were. LLDD_TIMEOUT: the transfer lasts longer than the deadline. Does not wait for a
    // peer that is gone.
    Status Await(const Deadline &deadline, const std::atomic<bool> &peer_gone);

private:
    // Where a run of this process is; the client's memory that no cache has is host memory.
    Placement PlacementOf(uint64_t addr);

    DeviceParts *const device_;
    PeerMemory *const peer_;
    const Direction direction_;
    AddressRange known_;  // of the last run of this process
    Placement known_placement_ = Placement::kHost;

    double bytes_ = 0;
    double seconds_ = 0;  // alone
    Deadline::Clock::time_point moved_by_;
    std::optional<Ports::Flow> flow_;
};

}  // namespace lldd::mock
