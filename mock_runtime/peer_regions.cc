// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/peer_regions.h"

#include <algorithm>

namespace lldd::mock {

void PeerRegions::Assign(const std::vector<Region> &regions) {
    regions_.clear();
    reach_.clear();
    last_ = 0;
    regions_.reserve(regions.size());
    for (const Region &region : regions) {
        PeerRegion peer;
        peer.region = region;
        regions_.push_back(peer);
    }
    std::sort(regions_.begin(), regions_.end(), [](const PeerRegion &a, const PeerRegion &b) {
        return a.region.addr < b.region.addr;
    });
    uint64_t reach = 0;
    for (const PeerRegion &peer : regions_) {
        reach = std::max(reach, peer.region.addr + (peer.region.size - 1));
        reach_.push_back(reach);
    }
}

size_t PeerRegions::FirstAfter(uint64_t addr) const {
    const auto after = std::upper_bound(
        regions_.begin(), regions_.end(), addr,
        [](uint64_t value, const PeerRegion &peer) { return value < peer.region.addr; });
    return static_cast<size_t>(after - regions_.begin());
}

}  // namespace lldd::mock
