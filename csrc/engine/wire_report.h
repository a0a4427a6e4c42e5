// The message by which one end of a link tells the other what its transfers have come to.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/traffic.h"

namespace lldd::wire {

// Totals since the link was made, so that a report that is lost or late makes no difference. Moments
// are told by their age, since the two ends have clocks of their own. What is told is shown to people
// and programs; nothing else depends on it.
struct Report {
    // No link comes near it. So sums of what peers report do not overflow.
    static constexpr uint64_t kMost = uint64_t{1} << 56;

    TrafficNumbers numbers;

    std::string Encode() const;
    // False also for a number past kMost, or a text past LastError::kMostText.
    bool Decode(std::string_view body);
};

}  // namespace lldd::wire
