// Memory that transfers reuse, so that a warm one allocates nothing.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/box_format.h"
#include "engine/plan_pairs.h"
#include "engine/transfer_record.h"
#include "runtime/runtime.h"

namespace lldd {

// For one transfer at a time: each plan overwrites it. Kept per calling thread, not per link, of
// which there may be hundreds.
struct TransferScratch {
    BlockPairs pairs;
    std::vector<Run> runs;
    bool notice_left = false;  // by the last pull, push or layer

    // What is told of the transfer that is under way, see TransferRecord; with `timed` also when it
    // comes how far.
    bool timed = false;
    bool failure_counted = false;  // see Transfers::Counted
    TransferTimes times;
    uint64_t bytes = 0;
    PathBytes moved{};
    // What the box gets of the call that the transfer is part of; null: there is none.
    box::Record *record = nullptr;

    void Begin(bool times_wanted) {
        timed = times_wanted || record != nullptr;
        times = {};
        bytes = 0;
        moved = {};
    }
};

}  // namespace lldd
