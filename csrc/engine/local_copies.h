// Copies within this process: between own caches, and between tensors given by address.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "engine/cache_store.h"
#include "engine/call_gate.h"
#include "engine/scratch.h"
#include "runtime/runtime.h"

namespace lldd {

class LocalCopies {
public:
    LocalCopies(const CacheStore *store, CachesInUse *in_use, Device *device)
        : store_(store), in_use_(in_use), device_(device) {}
    LocalCopies(const LocalCopies &) = delete;
    LocalCopies &operator=(const LocalCopies &) = delete;

    // Structs have their full size.
    Status Copy(const lldd_copy_args &args, TransferScratch *scratch);
    Status CopyBlocks(int64_t cache_id, const uint64_t *src_blocks, const uint64_t *dst_blocks,
                      uint64_t num_pairs, TransferScratch *scratch);
    Status SwapBlocks(const lldd_swap_args &args, TransferScratch *scratch);

    // How many were made.
    uint64_t count() const { return count_.load(std::memory_order_relaxed); }

private:
    Status Move(const std::vector<Run> &runs, Placement to, Placement from);

    const CacheStore *const store_;
    CachesInUse *const in_use_;
    Device *const device_;
    std::atomic<uint64_t> count_{0};
};

}  // namespace lldd
