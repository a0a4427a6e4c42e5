// SPDX-License-Identifier: Apache-2.0
#include "engine/plan_checks.h"

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
                           "tensor %llu of the %s cache %lld at 0x%llx, %llu bytes, reaches past "
                           "the end of the address space",
                           Printable(i), side, Printable(cache.id), Printable(cache.addrs[i]),
                           Printable(cache.shape.tensor_bytes));
        }
    }
    return Status::Ok();
}

Status CheckRemote(const PlanCache &remote) {
    Status status = CheckShape(remote.shape);
    if (!status.ok())
        return std::move(status).WithPrefix(
            Format("the remote cache %lld: ", Printable(remote.id)));
    return CheckAddrs("remote", remote);
}

Status CheckBatchIndex(const char *argument, uint64_t index, const char *side,
                       const PlanCache &cache) {
    if (index < cache.shape.batch_size()) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID, "%s is %llu, the %s cache %lld has %llu batch entr%s%s",
                   argument, Printable(index), side, Printable(cache.id),
                   Printable(cache.shape.batch_size()), cache.shape.batch_size() == 1 ? "y" : "ies",
                   cache.shape.blocks ? " (it has blocks)" : "");
}

Status BlockOutOfRange(const char *list, uint64_t place, uint64_t index, const char *side,
                       const PlanCache &cache) {
    return Failure(LLDD_PARAM_INVALID, "%s[%llu] is %llu, the %s cache %lld has %llu blocks", list,
                   Printable(place), Printable(index), side, Printable(cache.id),
                   Printable(cache.shape.count));
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
    return Failure(
        LLDD_PARAM_INVALID,
        "a block of the local cache %lld has %llu bytes, one of the remote cache %lld "
        "%llu: they must be equal; memory can be registered a second time, as a cache whose "
        "blocks have another size",
        Printable(local.id), Printable(local.shape.stride()), Printable(remote.id),
        Printable(remote.shape.stride()));
}

Status UnequalLists(uint64_t num_src_blocks, uint64_t num_dst_blocks) {
    return Failure(LLDD_PARAM_INVALID,
                   "src_blocks has %llu indices, dst_blocks %llu: one for each is needed",
                   Printable(num_src_blocks), Printable(num_dst_blocks));
}

Status CheckDivides(uint32_t tensors_per_layer, const PlanCache &local) {
    if (local.shape.num_tensors % tensors_per_layer == 0) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID,
                   "tensors_per_layer is %u, which does not divide the %u tensors of the local "
                   "cache %lld: layers must be whole",
                   tensors_per_layer, local.shape.num_tensors, Printable(local.id));
}

Status CheckLayers(const char *argument, uint64_t start, uint64_t count, uint32_t tensors_per_layer,
                   const char *side, const PlanCache &cache) {
    const uint64_t layers = cache.shape.num_tensors / tensors_per_layer;
    if (start + count <= layers) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID,
                   "%s is [%llu, %llu), the %s cache %lld has %llu layers (%u tensors, %u a layer)",
                   argument, Printable(start), Printable(start + count), side, Printable(cache.id),
                   Printable(layers), cache.shape.num_tensors, tensors_per_layer);
}

}  // namespace lldd
