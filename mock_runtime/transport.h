// How memory of a peer is reached.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace lldd::mock {

enum class Transport : uint32_t { kMapped = 0, kCma = 1, kTcp = 2 };

constexpr Transport kFastestFirst[] = {Transport::kMapped, Transport::kCma, Transport::kTcp};

constexpr const char *TransportName(Transport transport) {
    switch (transport) {
        case Transport::kMapped: return "mapped";
        case Transport::kCma: return "cma";
        case Transport::kTcp: return "tcp";
    }
    return "none";
}

constexpr uint32_t TransportBit(Transport transport) {
    return uint32_t{1} << static_cast<uint32_t>(transport);
}

}  // namespace lldd::mock
