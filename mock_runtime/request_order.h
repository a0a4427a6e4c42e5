// Which requests of a link may still move bytes: how the owner keeps out those that are over.
//
// The asking end numbers the requests of a link upwards, across its streams. A request that begins
// ends all earlier ones, since the asking end has one transfer at a time and gives a stream up
// before it opens the next; a fence (see tcp_protocol.h) ends all that were made before it. So it
// does not matter which connection the bytes of a failed transfer lie in, or when they come.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace lldd::mock {

// I/O thread only.
class RequestOrder {
public:
    // False: the request is over, and must not begin.
    bool Begin(uint32_t id) {
        if (IsOver(id)) return false;
        oldest_ = id;
        return true;
    }
    void EndBefore(uint32_t id) {
        if (IsBefore(oldest_, id)) oldest_ = id;
    }
    bool IsOver(uint32_t id) const { return IsBefore(id, oldest_); }

private:
    // The numbers wrap around; those that are in use at one time are close to each other.
    static bool IsBefore(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) < 0; }

    uint32_t oldest_ = 1;
};

}  // namespace lldd::mock
