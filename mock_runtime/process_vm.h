// process_vm_readv and process_vm_writev: whether they may be used, and with whom.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "mock_runtime/environment.h"

namespace lldd::mock {

using Cookie = std::array<uint8_t, 16>;

// How a process_vm call went.
struct VmResult {
    uint64_t moved = 0;  // bytes, counted from the first vector
    int error = 0;       // errno; 0 if everything was moved
};
// EFAULT with what was moved before it, if not everything could be.
VmResult VmRead(pid_t pid, const iovec *local, const iovec *remote, size_t count, uint64_t bytes);
VmResult VmWrite(pid_t pid, const iovec *local, const iovec *remote, size_t count, uint64_t bytes);

// Whether one byte can be read from a process at that address.
bool VmReadable(pid_t pid, uint64_t addr);

// Whether this process may use the calls at all, on itself. Asked once.
bool VmWorksOnSelf();

// What a peer's device tells about the process it lives in.
struct ProcessIdentity {
    uint32_t pid = 0;  // in its own namespace
    uint32_t uid = 0;
    uint64_t cookie_addr = 0;
    Cookie cookie{};
    bool traceable_by_all = false;  // said so with PR_SET_PTRACER_ANY, or Yama is not there
};

// Under Yama's scope 1 only children may be traced: tells the kernel that peers may also do so.
// True if it knows now or does not care.
bool LetAllTrace();

// Decides whether a peer's memory can be reached, asking the cheapest question first: a call on
// this process, Yama's scope, a read of the peer's cookie. `pid` is the peer's as this process
// sees it. "" if it can, else why not.
std::string WhyProcessVmCannot(const Settings &settings, pid_t pid, const ProcessIdentity &peer);

}  // namespace lldd::mock
