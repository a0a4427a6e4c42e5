// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/peer_regions.h"

#include <utility>

namespace lldd::mock {

void PeerRegions::Assign(const std::vector<Region> &regions) {
    std::vector<PeerRegion> peers;
    peers.reserve(regions.size());
    for (const Region &region : regions) {
        PeerRegion peer;
        static_cast<Region &>(peer) = region;
        peers.push_back(peer);
    }
    regions_.Assign(std::move(peers));
    last_ = 0;
}

}  // namespace lldd::mock
