// The regions of a peer that a link may reach: which one an address is in.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "mock_runtime/own_memory.h"

namespace lldd::mock {

// How a region of the peer is reached.
enum class Route : uint8_t { kNone, kMapped, kCma, kTcp };

struct PeerRegion {
    Region region;
    Route route = Route::kNone;
    uint64_t mapped_at = 0;  // where a mapped pool begins in this process
    uint64_t used_in = 0;    // the number of the last transfer that used it
};

class PeerRegions {
public:
    // Sorts them; regions may overlap.
    void Assign(const std::vector<Region> &regions);

    std::vector<PeerRegion> &all() { return regions_; }

    // The region that holds the address, one that `is_live` likes if there is any; null: none holds
    // it.
    template <typename IsLive>
    PeerRegion *Find(uint64_t addr, const IsLive &is_live) {
        if (last_ < regions_.size() && regions_[last_].region.Contains(addr, 1) &&
            is_live(regions_[last_])) {
            return &regions_[last_];
        }
        PeerRegion *dead = nullptr;
        for (size_t i = FirstAfter(addr); i > 0; --i) {
            PeerRegion &candidate = regions_[i - 1];
            if (candidate.region.Contains(addr, 1)) {
                if (is_live(candidate)) {
                    last_ = i - 1;
                    return &candidate;
                }
                dead = &candidate;
            }
            // Nothing further to the left reaches so far.
            if (reach_[i - 1] < addr) break;
        }
        return dead;
    }

private:
    size_t FirstAfter(uint64_t addr) const;

    std::vector<PeerRegion> regions_;  // by address
    std::vector<uint64_t> reach_;      // the last byte of any region up to this one
    size_t last_ = 0;
};

}  // namespace lldd::mock
