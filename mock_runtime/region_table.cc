// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/region_table.h"

namespace lldd::mock {
namespace {

constexpr uint64_t kTableBytes = uint64_t{kMostRegions} * sizeof(uint32_t);

}  // namespace

Status RegionTable::Create(RegionTable *table) {
    return SharedMemory::Create("lldd-regions", kTableBytes, SharedMemory::Writers::kCreatorOnly,
                                &table->memory_);
}

Status RegionTable::Add(RegionName *name) {
    uint32_t slot = used_;
    if (!free_.empty()) {
        slot = free_.back();
        free_.pop_back();
    } else if (used_ == kMostRegions) {
        return Failure(LLDD_FAILED, "%u memory regions are registered; no more is possible", used_);
    } else {
        ++used_;
    }
    // Odd while the region lives, even in between.
    const uint32_t generation = slots()[slot].fetch_add(1, std::memory_order_seq_cst) + 1;
    *name = {slot, generation};
    return Status::Ok();
}

void RegionTable::Withdraw(RegionName name) {
    const uint32_t dead = slots()[name.slot].fetch_add(1, std::memory_order_seq_cst) + 1;
    // A slot whose numbers are used up is never used again: an old name must not become valid
    // again.
    if (dead != 0) free_.push_back(name.slot);
}

bool RegionTable::IsLive(RegionName name) const {
    return name.slot < kMostRegions && (name.generation & 1) != 0 &&
           slots()[name.slot].load(std::memory_order_seq_cst) == name.generation;
}

Status PeerRegionTable::Map(Fd fd, PeerRegionTable *table) {
    return SharedMemory::Map(std::move(fd), kTableBytes, false, &table->memory_);
}

}  // namespace lldd::mock
