// What a device of the mock runtime tells of itself, and which region an address is in then: an
// input begins with that address.
//
// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/endpoint.h"

#include "mock_runtime/peer_regions.h"
#include "target.h"

namespace lldd::fuzz {
namespace {

void Run(std::string_view input) {
    Input in(input);
    const uint64_t address = in.Number();
    const std::string bytes(in.Rest());
    mock::EndpointData endpoint;
    if (!mock::DecodeEndpoint(bytes, &endpoint).ok()) {
        DEMAND(endpoint.regions.empty());
        return;
    }
    const std::string written = mock::EncodeEndpoint(endpoint);
    DEMAND(written.size() == bytes.size());
    mock::EndpointData again;
    DEMAND(mock::DecodeEndpoint(written, &again).ok());
    DEMAND(mock::EncodeEndpoint(again) == written);

    mock::PeerRegions regions;
    regions.Assign(endpoint.regions);
    const auto all_live = [](const mock::PeerRegion &) { return true; };
    const mock::PeerRegion *const found = regions.Find(address, all_live);
    bool held = false;
    for (const mock::Region &region : endpoint.regions) held |= region.Contains(address, 1);
    DEMAND(held == (found != nullptr));
    if (found != nullptr) DEMAND(found->Contains(address, found->Within(address, UINT64_MAX)));
}

std::vector<std::string> Seeds() {
    mock::EndpointData endpoint;
    endpoint.transports = 7;
    endpoint.process.pid = 17;
    endpoint.process.traceable_by_all = true;
    endpoint.channel.fill('c');
    const std::string address("\0\0\x01\0\0\0\0\0", 8);
    std::vector<std::string> seeds{address + mock::EncodeEndpoint(endpoint)};
    mock::Region region;
    region.addr = 0x10000;
    region.size = 0x1000;
    region.name = {0, 1};
    endpoint.regions.push_back(region);
    region.addr = 0x8000;
    region.size = 0x10000;
    region.name = {1, 3};
    region.pool = 2;
    endpoint.regions.push_back(region);
    seeds.push_back(address + mock::EncodeEndpoint(endpoint));
    return seeds;
}

const Registration kRegistered({"endpoint", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
