// Faults that are injected and links that are slowed down, by the rules of scripts.
//
// Each call of runtime.h passes its fault point. While no rule is set that costs one relaxed load,
// and nothing is counted.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "base/deadline.h"
#include "mock_runtime/fault_script.h"
#include "runtime/runtime.h"

namespace lldd::mock {

// The link that a call belongs to.
struct FaultLink {
    uint64_t peer = 0;
    StreamProvider *streams = nullptr;
    const std::atomic<bool> *peer_gone = nullptr;  // ends a wait; null: not known yet
    // Makes this end of the link mute, or no longer. Any thread; does not wait.
    std::function<void(bool)> mute = nullptr;
};

// A link that is there from now on, which rules can make mute, and one that ends: `mute` is not
// called afterwards.
void BeginFaultLink(const FaultLink *link);
void EndFaultLink(const FaultLink *link);

extern std::atomic<bool> fault_rules_set;

// What PassFaultPoint does once rules are set.
Status MeetFaults(FaultPoint point, const Deadline &deadline, const FaultLink *link, uint64_t bytes,
                  uint64_t *corrupt = nullptr);

// What a call does first. A failure is what the call returns. LLDD_TIMEOUT at the deadline if the
// rules hold the call up for longer. A link whose peer goes meanwhile is left to the call.
inline Status PassFaultPoint(FaultPoint point, const Deadline &deadline,
                             const FaultLink *link = nullptr, uint64_t bytes = 0) {
    if (!fault_rules_set.load(std::memory_order_relaxed)) return Status::Ok();
    return MeetFaults(point, deadline, link, bytes);
}
// For the calls that move bytes. *corrupt: the byte that the call is to change once it has moved
// them all, counted from 1; left alone if there is none.
inline Status PassFaultPoint(FaultPoint point, const Deadline &deadline, const FaultLink *link,
                             const Run *runs, size_t count, uint64_t *corrupt = nullptr) {
    if (!fault_rules_set.load(std::memory_order_relaxed)) return Status::Ok();
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; ++i) bytes += runs[i].length;
    return MeetFaults(point, deadline, link, bytes, corrupt);
}
// For the calls that have no deadline.
inline Status PassFaultPoint(FaultPoint point, const FaultLink *link = nullptr) {
    if (!fault_rules_set.load(std::memory_order_relaxed)) return Status::Ok();
    return MeetFaults(point, Deadline::InMs(UINT64_MAX), link, 0);
}

// Calls that are held up look again at their `peer_gone`.
void WakeHeldUpCalls();

// ---- the rules of this process; a forked child begins without those that were set by a call

// Adds the rules of a script; *ids names them, in the script's order, for RemoveFaults.
Status AddFaults(const std::string &script, std::vector<uint64_t> *ids);
// The script's rules instead of all that there are; those stay if the script cannot be read.
Status SetFaults(const std::string &script);
// Calls that a rule holds up go on when it is taken away. Unknown ids are ignored: another caller
// has removed their rules.
void RemoveFaults(const std::vector<uint64_t> &ids);
void ClearFaults();

// The value of the environment variable: a script, or '@' and the path of a file with one. Its
// rules are there once the first device was opened, and are exchanged when a device is opened under
// another value.
Status UseFaultsOfEnvironment(const std::string &value);

// One line per point, "point NAME CALLS FIRED", then one per rule, "rule ID CALLS FIRED TEXT". The
// counts of a point begin with the process and outlive its rules; calls of a rule are those at its
// points and over its peer's link.
std::string DescribeFaults();

}  // namespace lldd::mock
