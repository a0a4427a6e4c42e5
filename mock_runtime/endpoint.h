// What a device tells a peer about itself, as bytes. Read with every length and bound checked.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "mock_runtime/process_vm.h"
#include "mock_runtime/region.h"

namespace lldd::mock {

struct EndpointData {
    uint32_t transports = 0;            // TransportBit()s that the device allows
    std::array<uint8_t, 16> channel{};  // names the device's channel, see channel.h
    ProcessIdentity process;
    std::vector<Region> regions;
};

std::string EncodeEndpoint(const EndpointData &endpoint);
// LLDD_FAILED: these are not the bytes of an endpoint.
Status DecodeEndpoint(const std::string &bytes, EndpointData *endpoint);

}  // namespace lldd::mock
