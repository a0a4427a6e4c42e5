// Which bytes a pull moves: CheckPull (own side, before the link is looked for), then PlanPull. See
// plan_pairs.h.
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

struct PullRequest {
    const lldd_pull_args &args;  // of its full size
    PlanCache local;             // the cache that args.cache_id names
};

// Everything about a pull that the own side alone can tell; reads the lists into `pairs` (empty for
// a contiguous cache).
Status CheckPull(const PullRequest &request, BlockPairs *pairs);

// The runs of a pull that passed CheckPull. Reads no list. remote_batch_index: of a contiguous
// remote cache.
Status PlanPull(const PullRequest &request, const BlockPairs &pairs, const PlanCache &remote,
                uint64_t remote_batch_index, std::vector<Run> *runs);

}  // namespace lldd
