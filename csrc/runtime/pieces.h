// Runs taken apart where the regions of memory end that they lie in.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "runtime/runtime.h"

namespace lldd {

// Runs are merged where they meet, so one may lie in several neighbouring regions, on either side.
// `take(rest, &taken)` is called with what is left of a run, takes the part of it that lies in one
// region of each side, sets `taken` to the bytes of that part (at least 1), and returns a Status;
// a failure ends the walk.
template <typename Take>
Status ForEachPiece(const Run *runs, size_t count, const Take &take) {
    for (size_t i = 0; i < count; ++i) {
        Run rest = runs[i];
        while (rest.length > 0) {
            uint64_t taken = 0;
            LLDD_RETURN_IF_ERROR(take(rest, &taken));
            rest.local += taken;
            rest.remote += taken;
            rest.length -= taken;
        }
    }
    return Status::Ok();
}

}  // namespace lldd
