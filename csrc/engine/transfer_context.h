// Under which id the transfers of a thread run: see lldd_transfer_context.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace lldd {

struct TransferContext {
    uint64_t trace_high = 0;
    uint64_t trace_low = 0;  // both 0: each transfer gets an id of its own
    uint64_t span = 0;
};

inline TransferContext &ThisThreadsContext() {
    static thread_local TransferContext context;
    return context;
}

}  // namespace lldd
