// Memory that may take part in transfers, of this process or of a peer: which region an address is
// in.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ascend/process_id.h"
#include "base/status.h"
#include "runtime/regions.h"

namespace lldd::ascend {

// The peer's are never trusted: their numbers are only compared.
struct Region : AddressRange {
    uint64_t id = 0;  // of its owner; never used again
    bool pool = false;
};

using Regions = SortedRegions<Region>;

// A region that the address is in; null: none.
const Region *Find(const Regions &regions, uint64_t addr);
// False: there is none of that id.
bool Remove(uint64_t id, Regions *regions, Region *removed);

// What a device tells its peers: where its HIXL engine is, and its memory.
struct EndpointData {
    std::string engine;
    ProcessId process;
    std::string device;       // within the host: which one it is
    std::string buffer_pool;  // as HIXL was given it
    std::vector<Region> regions;

    std::string Encode() const;
    // LLDD_FAILED: these are not the bytes of an Ascend endpoint.
    Status Decode(const std::string &bytes);
};

}  // namespace lldd::ascend
