// Memory that may take part in transfers, of this process or of a peer: which region an address is
// in.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace lldd::ascend {

// The peer's are never trusted: their numbers are only compared.
struct Region {
    uint64_t id = 0;  // of its owner; never used again
    uint64_t addr = 0;
    uint64_t size = 0;
    bool pool = false;

    uint64_t last() const { return addr + (size - 1); }
    // `length`, or less where the region ends before; the address is in the region.
    uint64_t Within(uint64_t address, uint64_t length) const {
        return std::min(length, size - (address - addr));
    }
};

// Regions by address; they may overlap. Not thread-safe.
class Regions {
public:
    void Assign(std::vector<Region> regions);
    // False: it has none of that id.
    bool Remove(uint64_t id, Region *removed);
    const std::vector<Region> &all() const { return regions_; }

    // A region that the address is in; null: none.
    const Region *Find(uint64_t addr) const;

private:
    void Measure();

    std::vector<Region> regions_;
    std::vector<uint64_t> furthest_;  // the last byte of any region up to this one
};

// What a device tells its peers: where its HIXL engine is, and its memory.
struct EndpointData {
    std::string engine;
    std::vector<Region> regions;

    std::string Encode() const;
    // LLDD_FAILED: these are not the bytes of an Ascend endpoint.
    Status Decode(const std::string &bytes);
};

}  // namespace lldd::ascend
