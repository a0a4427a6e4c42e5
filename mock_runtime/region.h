// A region of a device's memory, as peers learn of it.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "runtime/regions.h"
#include "runtime/runtime.h"

namespace lldd::mock {

// Its slot in the owner's region table, see region_table.h, and the generation that it lives in.
struct RegionName {
    uint32_t slot = 0;
    uint32_t generation = 0;
};

struct Region : AddressRange {
    static constexpr uint32_t kNoPool = 0xFFFFFFFF;

    RegionName name;
    uint32_t pool = kNoPool;  // the number of the pool, or kNoPool for registered memory
    Placement placement = Placement::kHost;

    bool is_pool() const { return pool != kNoPool; }
};

}  // namespace lldd::mock
