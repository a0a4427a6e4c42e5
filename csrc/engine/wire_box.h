// The messages by which an end with a box tells the other one of its calls, and asks for its clock. Both
// go only to ends with kFeatureBox, and neither is answered.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/box_format.h"

namespace lldd::wire {

struct BoxCalls {
    // Of one message.
    static constexpr size_t kMost = 512;

    struct One {
        uint64_t number = 0;  // of the record in the box of the sender
        box::Call call{};     // as it is there
    };

    int64_t sent_ns = 0;  // by the sender's clock
    std::vector<One> calls;

    std::string Encode() const;
    // False also if there are too many, or one is none that can have been asked for over a link.
    bool Decode(std::string_view body);
};

// What the receiver of a BoxCalls says of its clock.
struct BoxClock {
    int64_t sent_ns = 0;   // as it is in the BoxCalls
    int64_t clock_ns = 0;  // of the receiver, when that came

    std::string Encode() const;
    bool Decode(std::string_view body);
};

}  // namespace lldd::wire
