// Which process a peer is, and whether it has ended: for one on the same host.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace lldd::ascend {

struct ProcessId {
    std::string host;  // of the boot and of the namespace in which the pid counts; "": unknown
    int32_t pid = 0;
    uint64_t started = 0;  // in clock ticks since the boot: a pid is used again

    static ProcessId Own();
    // The same host, and a pid that means the same here.
    bool IsHere() const;
    // True: it has ended. False: it has not, or nothing can be known from here.
    bool HasEnded() const;
};

}  // namespace lldd::ascend
