// The process of a same-host peer: whether it has ended.
//
// A connection that is closed says that no transfer begins. A thread of the peer that was stopped
// within a piece goes on with it later, as long as there is the process.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace lldd::mock {

class PeerProcess {
public:
    // None, or one that this process cannot see.
    PeerProcess() = default;
    explicit PeerProcess(pid_t pid);

    pid_t pid() const { return pid_; }
    bool CanBeSeen() const { return began_ != 0; }
    // Whether it has ended, with all its threads. True also of one that cannot be seen: there the
    // closed connection is all that is known.
    bool HasEnded() const;

private:
    pid_t pid_ = 0;
    uint64_t began_ = 0;  // as the kernel counts; its number may go to another one. 0: not seen
};

}  // namespace lldd::mock
