// The language of fault scripts: one rule per line, or several with ';' between them.
//
//     read status=LLM_LINK_BUSY after=3 times=1 peer=7
//     read,write delay=20ms jitter=5ms bandwidth=100MB/s
//     * status=507053 probability=0.01 seed=4
//     link mute peer=7
//
// The first word says at which points, the others what happens there and when. docs/faults.md
// explains each of them.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace lldd::mock {

// Where a fault can happen: each but the last is one call of runtime.h.
enum class FaultPoint : uint32_t {
    kOpenDevice,
    kPool,
    kCommit,
    kRegister,
    kUnregister,
    kCopy,
    kEndpoint,
    kConnect,
    kAccept,
    kConfirm,
    kRead,
    kWrite,
    kClose,
    kLink,  // no call: a link, as long as it is there
};
constexpr size_t kFaultPoints = static_cast<size_t>(FaultPoint::kLink) + 1;

struct FaultPointInfo {
    const char *name;
    bool waits;        // runs on a thread that may be held up
    bool moves_bytes;  // takes longer the more bytes there are
    bool knows_peer;   // belongs to a link
    bool can_drop;     // and the link can be broken off there
    bool can_corrupt;  // of the bytes that it moves over a link, one can be changed
    bool is_call;      // and so can return a status; what is not, can be mute
};
const FaultPointInfo &InfoOf(FaultPoint point);

struct FaultRule {
    std::string text;     // as it was written, with single blanks
    uint32_t points = 0;  // one bit per point

    // What happens.
    lldd_status status = LLDD_SUCCESS;
    bool drop = false;
    std::chrono::nanoseconds delay{0};
    std::chrono::nanoseconds jitter{0};  // the most that is added to `delay`
    uint64_t bytes_per_second = 0;       // 0: no limit
    std::string nic;                     // the port that has them; "": each call has them
    bool mute = false;
    uint64_t corrupt = 0;  // the byte that is changed, from 1; 0: none

    // When.
    std::optional<uint64_t> peer;
    uint64_t after = 0;
    uint64_t every = 1;
    uint64_t times = UINT64_MAX;
    double probability = 1;
    uint64_t seed = 0;

    bool is_at(FaultPoint point) const {
        return (points & (uint32_t{1} << static_cast<uint32_t>(point))) != 0;
    }
    bool has_port() const { return !nic.empty(); }
    bool ends_the_call() const { return status != LLDD_SUCCESS || drop; }
};

// LLDD_PARAM_INVALID names the rule, the word and what is allowed.
Status ParseFaultScript(const std::string &script, std::vector<FaultRule> *rules);

}  // namespace lldd::mock
