// Under which id the transfers of a thread run: see lldd_transfer_context.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/box_format.h"

namespace lldd {

struct TransferContext {
    uint64_t trace_high = 0;
    uint64_t trace_low = 0;  // both 0: each transfer gets an id of its own
    uint64_t span = 0;
};

// What is kept for each thread that asks for transfers.
struct TransferThread {
    TransferContext context;
    uint32_t id = 0;                // of the kernel; 0: not asked yet
    box::Record *record = nullptr;  // of the call that it is in
};

inline TransferThread &ThisTransferThread() {
    static thread_local TransferThread thread;
    return thread;
}

}  // namespace lldd
