// The regions of a peer that a link may reach: which one an address is in.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "mock_runtime/region.h"
#include "mock_runtime/transport.h"
#include "runtime/regions.h"

namespace lldd::mock {

struct PeerRegion : Region {
    std::optional<Transport> transport;  // how it is reached; none: not at all
    uint64_t mapped_at = 0;              // where a mapped pool begins in this process
    uint64_t used_in = 0;                // the number of the last transfer that used it
};

// Not thread-safe.
class PeerRegions {
public:
    void Assign(const std::vector<Region> &regions);

    template <typename Visit>
    void ForEach(const Visit &visit) {
        for (size_t i = 0; i < regions_.size(); ++i) visit(regions_[i]);
    }

    // The region that holds the address, one that `is_live` if there is any; null: none holds it.
    template <typename IsLive>
    PeerRegion *Find(uint64_t addr, const IsLive &is_live) {
        // Neighbouring runs are mostly of one region.
        const bool again = last_ < regions_.size() && regions_[last_].Contains(addr, 1);
        if (again && is_live(regions_[last_])) return &regions_[last_];
        const size_t found = regions_.Find(addr, is_live);
        if (found == regions_.size()) return nullptr;
        last_ = found;
        return &regions_[found];
    }

private:
    SortedRegions<PeerRegion> regions_;
    size_t last_ = 0;
};

}  // namespace lldd::mock
