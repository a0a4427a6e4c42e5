// Memory that transfers reuse, so that a warm one allocates nothing.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "engine/plan_pairs.h"
#include "runtime/runtime.h"

namespace lldd {

// For one transfer at a time: each plan overwrites it. Kept per calling thread, not per link, of
// which there may be hundreds.
struct TransferScratch {
    BlockPairs pairs;
    std::vector<Run> runs;
    bool notice_left = false;  // by the last pull, push or layer
};

}  // namespace lldd
