// Which bytes a copy within this process moves. See plan_pairs.h.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "engine/plan_checks.h"
#include "engine/plan_pairs.h"
#include "runtime/runtime.h"

namespace lldd {

// Between batch entries of own contiguous caches, those that `args` names. Nothing to do gives no
// runs.
Status PlanCopy(const lldd_copy_args &args, const PlanCache &src, const PlanCache &dst,
                std::vector<Run> *runs);

// Blocks within one cache; pairs of equal blocks give no run.
Status PlanBlocksCopy(const PlanCache &cache, const uint64_t *src_blocks,
                      const uint64_t *dst_blocks, uint64_t num_pairs, BlockPairs *pairs,
                      std::vector<Run> *runs);

// Blocks between tensors of which only the addresses are known. `args` has its full size.
Status PlanSwap(const lldd_swap_args &args, BlockPairs *pairs, std::vector<Run> *runs);

}  // namespace lldd
