// SPDX-License-Identifier: Apache-2.0
#include "engine/plan_checks.h"

#include <cinttypes>
#include <utility>

namespace lldd {

Status CheckTensorsPerLayer(uint32_t tensors_per_layer) {
    if (tensors_per_layer > 0) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID, "tensors_per_layer is 0, a layer has at least one tensor");
}

Status CheckAddrs(const char *side, const PlanCache &cache) {
    for (uint64_t i = 0; i < cache.shape.num_tensors; ++i) {
        if (cache.addrs[i] > UINT64_MAX - cache.shape.tensor_bytes) {
            return Failure(LLDD_PARAM_INVALID,
                           "tensor %" PRIu64 " of the %s cache %" PRId64 " at 0x%" PRIx64
                           ", %" PRIu64 " bytes, reaches past the end of the address space",
                           i, side, cache.id, cache.addrs[i], cache.shape.tensor_bytes);
        }
    }
    return Status::Ok();
}

Status CheckRemote(const PlanCache &remote) {
    Status status = CheckShape(remote.shape);
    if (!status.ok())
        return std::move(status).WithPrefix(Format("the remote cache %" PRId64 ": ", remote.id));
    return CheckAddrs("remote", remote);
}

Status CheckBatchIndex(const char *argument, uint64_t index, const char *side,
                       const PlanCache &cache) {
    if (index < cache.shape.batch_size()) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID,
                   "%s is %" PRIu64 ", the %s cache %" PRId64 " has %" PRIu64 " batch entr%s%s",
                   argument, index, side, cache.id, cache.shape.batch_size(),
                   cache.shape.batch_size() == 1 ? "y" : "ies",
                   cache.shape.blocks ? " (it has blocks)" : "");
}

Status BlockOutOfRange(const char *list, uint64_t place, uint64_t index, const char *side,
                       const PlanCache &cache) {
    return Failure(LLDD_PARAM_INVALID,
                   "%s[%" PRIu64 "] is %" PRIu64 ", the %s cache %" PRId64 " has %" PRIu64
                   " blocks",
                   list, place, index, side, cache.id, cache.shape.count);
}

Status CheckRemoteBlocks(const char *list, const BlockPairs &pairs, const PlanCache &remote) {
    if (pairs.max_remote() < remote.shape.count) return Status::Ok();
    uint64_t place = 0;
    uint64_t index = 0;
    pairs.FirstRemoteFrom(remote.shape.count, &place, &index);
    return BlockOutOfRange(list, place, index, "remote", remote);
}

Status CheckEqualBlocks(const PlanCache &local, const PlanCache &remote) {
    if (local.shape.stride() == remote.shape.stride()) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID,
                   "a block of the local cache %" PRId64 " has %" PRIu64
                   " bytes, one of the remote cache %" PRId64 " %" PRIu64 ": they must be equal",
                   local.id, local.shape.stride(), remote.id, remote.shape.stride());
}

Status UnequalLists(uint64_t num_src_blocks, uint64_t num_dst_blocks) {
    return Failure(LLDD_PARAM_INVALID,
                   "src_blocks has %" PRIu64 " indices, dst_blocks %" PRIu64
                   ": one for each is needed",
                   num_src_blocks, num_dst_blocks);
}

Status CheckDivides(uint32_t tensors_per_layer, const PlanCache &local) {
    if (local.shape.num_tensors % tensors_per_layer == 0) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID,
                   "tensors_per_layer is %" PRIu32 ", which does not divide the %" PRIu32
                   " tensors of the local cache %" PRId64 ": layers must be whole",
                   tensors_per_layer, local.shape.num_tensors, local.id);
}

Status CheckLayers(const char *argument, uint64_t start, uint64_t count, uint32_t tensors_per_layer,
                   const char *side, const PlanCache &cache) {
    const uint64_t layers = cache.shape.num_tensors / tensors_per_layer;
    if (start + count <= layers) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID,
                   "%s is [%" PRIu64 ", %" PRIu64 "), the %s cache %" PRId64 " has %" PRIu64
                   " layers (%" PRIu32 " tensors, %" PRIu32 " a layer)",
                   argument, start, start + count, side, cache.id, layers, cache.shape.num_tensors,
                   tensors_per_layer);
}

}  // namespace lldd
