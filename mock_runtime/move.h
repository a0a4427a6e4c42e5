// What every way of moving bytes has in common: the direction, why it ended early, and what is asked
// on the way.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <thread>

#include "base/deadline.h"
#include "base/interpreter.h"
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

// The deadline of bytes that the calling thread moves, perhaps with helpers: that thread looks at the
// caller between chunks. Made by it; `deadline` must outlive it.
class MovingUntil {
public:
    explicit MovingUntil(const Deadline &deadline) : deadline_(deadline) {}
    // Any thread.
    bool Passed() const {
        const auto now = Deadline::Clock::now();
        if (std::this_thread::get_id() == caller_) watch_.Look(deadline_, now);
        return deadline_.passed(now);
    }

private:
    const Deadline &deadline_;
    // None if the caller's thread does not learn of Ctrl-C.
    const std::thread::id caller_ = OnMainThread() ? std::this_thread::get_id() : std::thread::id();
    mutable CallerWatch watch_;  // of that thread
};

}  // namespace lldd::mock
