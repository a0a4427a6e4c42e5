// Whether what a transfer moved is what has arrived: LLM_DATADIST_VERIFY.
//
// Reading a second time over the same path would repeat a fault of that path. So each end sums its
// own memory, with its own processor: the end that asked for the transfer its side, and the owner of
// the other side when it is asked (owner_sums.h).
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "engine/cache_store.h"
#include "engine/link.h"
#include "runtime/runtime.h"

namespace lldd {

// What is read at a time, and how often the deadline is looked at.
constexpr uint64_t kSumChunk = 256u << 10;

// `device` if the environment asks for it, else null. LLDD_FEATURE_NOT_ENABLED: this device cannot.
Status VerifyOn(Device *device, Device **verified_on);

// A transfer that has moved its runs.
struct Moved {
    Link *link;
    const Cache &local;
    uint32_t tensors_per_layer;
    const std::vector<Run> &runs;
    bool to_local;  // a pull
};

// Compares the checksums of both sides, of each block or batch entry. What the transfer wrote more
// than once is left out. LLDD_FAILED names the first that differ; LLDD_TIMEOUT: not compared by the
// deadline, or the peer is gone.
Status Verify(Device *device, const Moved &moved, const Deadline &deadline);

}  // namespace lldd
