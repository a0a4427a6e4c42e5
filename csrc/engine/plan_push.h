// Which bytes a push moves: CheckPush, then a plan for each layer. See plan_pairs.h.
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

// A push of several layers is as many transfers of one, which differ in their layers.
struct PushRequest {
    lldd_transfer_args args{};
    PlanCache local;  // the cache that args.cache_id names
};

// Everything about a push that the own side alone can tell; reads the lists into `pairs`. No layer
// is looked at.
Status CheckPush(const PushRequest &request, BlockPairs *pairs);

// The runs of one layer of a push that passed CheckPush. Reads no list.
Status PlanPushLayer(const PushRequest &request, const BlockPairs &pairs, const PlanCache &remote,
                     uint64_t dst_batch_index, std::vector<Run> *runs);

// The same where the destination is given as one address per tensor of the layer, `addrs`, from
// which on it reaches to `ends`. Destination blocks count from the address.
Status PlanLayerToAddresses(const PushRequest &request, const BlockPairs &pairs,
                            const std::vector<uint64_t> &addrs, const std::vector<uint64_t> &ends,
                            std::vector<Run> *runs);

}  // namespace lldd
