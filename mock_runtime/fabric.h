// The fabric that the transfers of this process are shaped by: a published profile, made slower by a
// factor where the machine cannot keep up with it.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "mock_runtime/fabric_table.h"
#include "runtime/runtime.h"

namespace lldd::mock {

class Fabric {
public:
    // "PROFILE", and behind it, in any order, ":scale=N", ":latency=TIME" and ":jitter=TIME".
    // LLDD_PARAM_INVALID says what is wrong and what there is.
    static Status Parse(const std::string &text, std::shared_ptr<const Fabric> *fabric);

    // A number of a direction: that of kFabricDirections.
    static size_t DirectionOf(bool reads, Placement local, Placement remote);

    // For blocks of that size. 0: the fabric does not carry that direction.
    double BytesPerSecond(size_t direction, uint64_t block_bytes) const;
    // What a port carries either way: the highest figure of the profile.
    double port_bytes_per_second() const { return port_bytes_per_second_; }
    std::chrono::nanoseconds latency() const { return latency_; }
    std::chrono::nanoseconds jitter() const { return jitter_; }

    const char *name() const { return profile_->name; }
    // "roce-200g, 10 times slower".
    std::string Words() const;
    // Why a transfer in that direction is refused.
    Status NotCarried(size_t direction) const;

private:
    Status TakeWord(const std::string &text, const std::string &word);

    const FabricProfile *profile_ = nullptr;
    double scale_ = 1;
    double port_bytes_per_second_ = 0;
    std::chrono::nanoseconds latency_{-1};
    std::chrono::nanoseconds jitter_{-1};
};

}  // namespace lldd::mock
