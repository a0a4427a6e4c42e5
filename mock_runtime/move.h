// What every way of moving bytes has in common: the direction, why it ended early, and what is asked
// on the way.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace lldd::mock {

// The most bytes that are moved before the deadline and the peer are looked at again.
constexpr uint64_t kLargestChunk = 1U << 20;

enum class Direction { kRead, kWrite };  // from the peer, to the peer

// Why moving bytes ended early. No text and no allocation: it is made on any thread, on any path.
struct MoveFailure {
    enum Kind : uint32_t {
        kNone,
        kTimeout,
        kPeerGone,
        kWithdrawn,    // `address` is in a region that its owner has withdrawn
        kUnknown,      // `address` is in no region that the peer may reach
        kLocalFault,   // `address` of this process is not mapped, or not for that access
        kRemoteFault,  // the same of the peer
        kRefused,      // the kernel does not let this process touch the peer any more
        kClosed,       // the stream ended; the peer may also have
        kHostSilent,   // the kernel ended the stream: the other host takes nothing any more
        kProtocol,     // the peer does not follow the protocol
        kSystem,
    };
    Kind kind = kNone;
    int error = 0;
    uint64_t address = 0;

    bool failed() const { return kind != kNone; }
};

// What a caller is told of it. `peer`: how texts name the peer.
Status Explain(const MoveFailure &failure, const std::string &peer);

// Asked before each chunk: may the transfer go on?
class Gate {
public:
    virtual ~Gate() = default;
    virtual MoveFailure Check() const = 0;
};

}  // namespace lldd::mock
