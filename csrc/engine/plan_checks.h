// The bounds that plans of several kinds check, and their texts.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/status.h"
#include "engine/plan_pairs.h"
#include "engine/tensor.h"

namespace lldd {

// A cache as the plan sees it, own or a peer's.
struct PlanCache {
    int64_t id = 0;  // for texts
    CacheShape shape;
    const uint64_t *addrs = nullptr;  // shape.num_tensors start addresses
};

// Of an own cache or a peer's, which must outlive it.
template <typename AnyCache>
PlanCache PlanOf(const AnyCache &cache) {
    return {cache.id, cache.shape, cache.addrs.data()};
}

// What is checked before the cache is looked up.
Status CheckTensorsPerLayer(uint32_t tensors_per_layer);

// No tensor may reach past the end of the address space: all sums of addresses rely on it.
// `side`: "local", "remote", "source", "destination".
Status CheckAddrs(const char *side, const PlanCache &cache);
// What a peer told of a cache: its shape and its addresses.
Status CheckRemote(const PlanCache &remote);

// The batch entry that `argument` names.
Status CheckBatchIndex(const char *argument, uint64_t index, const char *side,
                       const PlanCache &cache);

// The remote indices of the list that is called `list`.
Status CheckRemoteBlocks(const char *list, const BlockPairs &pairs, const PlanCache &remote);
// The failure of an index of such a list, and of two lists that do not go together.
Status BlockOutOfRange(const char *list, uint64_t place, uint64_t index, const char *side,
                       const PlanCache &cache);
Status UnequalLists(uint64_t num_src_blocks, uint64_t num_dst_blocks);
// Blocks of both caches must have the same size.
Status CheckEqualBlocks(const PlanCache &local, const PlanCache &remote);

// The tensors of the own cache must be whole layers.
Status CheckDivides(uint32_t tensors_per_layer, const PlanCache &local);
// The layers [start, start + count) that `argument` names.
Status CheckLayers(const char *argument, uint64_t start, uint64_t count, uint32_t tensors_per_layer,
                   const char *side, const PlanCache &cache);

}  // namespace lldd
