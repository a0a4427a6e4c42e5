// The published bandwidth of fabrics, by direction and size of a block.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace lldd::mock {

// D: device memory, H: host memory, r: of the peer. D2rH is a write from device memory to the peer's
// host memory.
constexpr const char *kFabricDirections[] = {"D2rD", "rD2D", "D2rH", "rH2D",
                                             "H2rD", "rD2H", "H2rH", "rH2H"};
constexpr uint64_t kFabricKib[] = {16, 32, 64, 128, 256, 512, 1024, 2048};
constexpr size_t kFabricSizes = sizeof kFabricKib / sizeof kFabricKib[0];
constexpr size_t kFabricDirectionCount = sizeof kFabricDirections / sizeof kFabricDirections[0];

struct FabricProfile {
    const char *name;
    const char *what;
    double latency_us;
    double jitter_us;                                      // the most that is added to the latency
    double gb_per_s[kFabricDirectionCount][kFabricSizes];  // 0: not carried
};

extern const FabricProfile kFabricProfiles[];
extern const size_t kFabricProfileCount;

}  // namespace lldd::mock
