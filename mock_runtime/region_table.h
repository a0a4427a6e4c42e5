// The generations of a device's regions, where peers on the same host can see them.
//
// Each region has a slot; the slot's number is the region's generation while the region lives and
// becomes another one the moment it is withdrawn. A peer that knows (slot, generation) needs one
// load to know whether it may still touch the region.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "mock_runtime/region.h"
#include "mock_runtime/shared_memory.h"

namespace lldd::mock {

constexpr uint32_t kMostRegions = 1U << 20;

// The owner's view of it. Not thread-safe, except for IsLive.
class RegionTable {
public:
    static Status Create(RegionTable *table);
    // LLDD_FAILED: all slots are taken.
    Status Add(RegionName *name);
    void Withdraw(RegionName name);
    bool IsLive(RegionName name) const;
    int fd() const { return memory_.fd(); }

private:
    std::atomic<uint32_t> *slots() const {
        return reinterpret_cast<std::atomic<uint32_t> *>(memory_.data());
    }

    SharedMemory memory_;  // its pages appear as slots are used
    std::vector<uint32_t> free_;
    uint32_t used_ = 0;
};

// A peer's view of it.
class PeerRegionTable {
public:
    static Status Map(Fd fd, PeerRegionTable *table);
    bool IsLive(RegionName name) const {
        return slots()[name.slot].load(std::memory_order_seq_cst) == name.generation;
    }
    explicit operator bool() const { return static_cast<bool>(memory_); }

private:
    const std::atomic<uint32_t> *slots() const {
        return reinterpret_cast<const std::atomic<uint32_t> *>(memory_.data());
    }

    SharedMemory memory_;
};

}  // namespace lldd::mock
