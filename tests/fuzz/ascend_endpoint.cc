// What an Ascend device tells of itself: an input begins with the number of a region.
//
// SPDX-License-Identifier: Apache-2.0
#include "ascend/regions.h"
#include "target.h"

namespace lldd::fuzz {
namespace {

void Run(std::string_view input) {
    Input in(input);
    const uint64_t id = in.Byte();
    const std::string bytes(in.Rest());
    ascend::EndpointData endpoint;
    if (!endpoint.Decode(bytes).ok()) return;
    for (const ascend::Region &region : endpoint.regions)
        DEMAND(region.size != 0 && region.last() >= region.addr);
    const std::string written = endpoint.Encode();
    DEMAND(written.size() == bytes.size());
    ascend::EndpointData again;
    DEMAND(again.Decode(written).ok());
    DEMAND(again.Encode() == written);

    // What a peer withdraws is not found any more.
    ascend::Regions regions;
    regions.Assign(endpoint.regions);
    ascend::Region removed;
    if (!ascend::Remove(id, &regions, &removed)) return;
    DEMAND(regions.size() + 1 == endpoint.regions.size());
    const ascend::Region *const found = ascend::Find(regions, removed.addr);
    DEMAND(found == nullptr || found->Contains(removed.addr, 1));
}

std::vector<std::string> Seeds() {
    ascend::EndpointData endpoint;
    endpoint.engine = "127.0.0.1:16000";
    std::vector<std::string> seeds{std::string(1, '\1') + endpoint.Encode()};
    ascend::Region region;
    region.addr = 0x10000;
    region.size = 0x1000;
    region.id = 1;
    endpoint.regions = {region, region};
    endpoint.regions[1].id = 2;
    endpoint.regions[1].pool = true;
    seeds.push_back(std::string(1, '\2') + endpoint.Encode());
    return seeds;
}

const Registration kRegistered({"ascend_endpoint", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
