// Which bytes a transfer moves: from shapes, block lists, batch indices and layer ranges to runs of
// addresses.
//
// Pure functions: no lock, no I/O. Every bound is checked here, also against what a peer told. All
// failures are LLDD_PARAM_INVALID.
//
// The caller's block lists may change while they are read, so each element is read exactly once:
// into BlockPairs, from which everything else follows. Runs are merged where consecutive list
// elements are adjacent on both sides, and never across tensors, which may be registered one by
// one.
//
// A pull:  CheckPull (own side, before the link is looked for), then PlanPull.
// A push:  CheckPush, then PlanPushLayer for each layer.
// BlockPairs and the vector of runs keep their memory: reuse them.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "engine/tensor.h"
#include "runtime/runtime.h"

namespace lldd {

// `count` blocks in a row on both sides. In a contiguous cache a "block" is a piece of a batch
// entry.
struct BlockRun {
    uint64_t local;
    uint64_t remote;
    uint64_t count;
};

// The pairs of two block lists, in the order of the lists, merged.
class BlockPairs {
public:
    const BlockRun *begin() const { return runs_.data(); }
    const BlockRun *end() const { return runs_.data() + size_; }
    size_t size() const { return size_; }
    void clear() { size_ = 0; }

    // Reads local[k] (must be below local_count, see the failure text) and remote[k], any value; a
    // null list stands for 0, 1, 2, ... Returns false at the first bad local index, with its place
    // and value.
    bool Read(const uint64_t *local, uint64_t local_count, const uint64_t *remote, uint64_t length,
              uint64_t *bad_place, uint64_t *bad_value);

    // The largest remote index; 0 without pairs.
    uint64_t max_remote() const { return max_remote_; }
    // The first pair with a remote index of at least `limit`; there is one.
    void FirstRemoteFrom(uint64_t limit, uint64_t *place, uint64_t *value) const;

private:
    std::vector<BlockRun> runs_;  // the first size_ of them count
    size_t size_ = 0;
    uint64_t max_remote_ = 0;
};

// A cache as the plan sees it, own or a peer's.
struct PlanCache {
    int64_t id = 0;  // for texts
    CacheShape shape;
    const uint64_t *addrs = nullptr;  // shape.num_tensors start addresses
};

// Layers [start, start + count), each of tensors_per_layer tensors.
struct LayerRange {
    uint32_t start = 0;
    uint32_t count = 0;  // 0: no range was given
};

struct PullRequest {
    PlanCache local;
    uint32_t tensors_per_layer = 0;
    uint32_t batch_index = 0;
    int64_t size = -1;  // bytes a tensor of a contiguous cache; not positive: the local stride
    const uint64_t *src_blocks = nullptr;
    uint64_t num_src_blocks = 0;
    const uint64_t *dst_blocks = nullptr;
    uint64_t num_dst_blocks = 0;
    LayerRange src_layers;
    LayerRange dst_layers;
};

struct PushRequest {
    PlanCache local;
    uint32_t tensors_per_layer = 0;
    uint32_t src_batch_index = 0;
    const uint64_t *src_blocks = nullptr;
    uint64_t num_src_blocks = 0;
    const uint64_t *dst_blocks = nullptr;
    uint64_t num_dst_blocks = 0;
    uint64_t dst_block_size = 0;  // bytes; 0: not given. A contiguous source into blocks needs it
};

// What is checked before the cache is looked up.
Status CheckTensorsPerLayer(uint32_t tensors_per_layer);

// Everything about a pull that the own side alone can tell; reads the lists into `pairs` (empty for
// a contiguous cache).
Status CheckPull(const PullRequest &request, BlockPairs *pairs);

// The runs of a pull that passed CheckPull. Reads no list. remote_batch_index: of a contiguous
// remote cache.
Status PlanPull(const PullRequest &request, const BlockPairs &pairs, const PlanCache &remote,
                uint64_t remote_batch_index, std::vector<Run> *runs);

// Everything about a push that the own side alone can tell; reads the lists into `pairs`. No layer
// is looked at.
Status CheckPush(const PushRequest &request, BlockPairs *pairs);

// The runs of one layer of a push that passed CheckPush. Reads no list.
Status PlanPushLayer(const PushRequest &request, const BlockPairs &pairs, const PlanCache &remote,
                     uint64_t dst_batch_index, uint32_t src_layer, uint32_t dst_layer,
                     std::vector<Run> *runs);

// The same where the destination is given as one address a tensor of the layer, `addrs`, from which
// on it reaches to `ends`. Destination blocks count from the address.
Status PlanLayerToAddresses(const PushRequest &request, const BlockPairs &pairs,
                            const std::vector<uint64_t> &addrs, const std::vector<uint64_t> &ends,
                            uint32_t src_layer, std::vector<Run> *runs);

struct CopyRequest {
    PlanCache dst;
    PlanCache src;
    uint32_t dst_batch_index = 0;
    uint32_t src_batch_index = 0;
    uint64_t offset = 0;
    int64_t size = -1;  // bytes; -1: the source stride less offset
};

// Between batch entries of own contiguous caches. Nothing to do gives no runs.
Status PlanCopy(const CopyRequest &request, std::vector<LocalRun> *runs);

// Blocks within one cache; pairs of equal blocks give no run.
Status PlanBlocksCopy(const PlanCache &cache, const uint64_t *src_blocks,
                      const uint64_t *dst_blocks, uint64_t num_pairs, BlockPairs *pairs,
                      std::vector<LocalRun> *runs);

// Blocks between tensors of which only the addresses are known. `args` has its full size.
Status PlanSwap(const lldd_swap_args &args, BlockPairs *pairs, std::vector<LocalRun> *runs);

}  // namespace lldd
