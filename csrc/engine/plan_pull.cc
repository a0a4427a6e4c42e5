// SPDX-License-Identifier: Apache-2.0
#include "engine/plan_pull.h"

namespace lldd {
namespace {

// The layer ranges, as far as the own side can tell.
Status CheckPullLayers(const PullRequest &request) {
    const lldd_pull_args &args = request.args;
    const PlanCache &local = request.local;
    if (args.src_layer_count == 0 && args.dst_layer_count == 0) return Status::Ok();
    LLDD_RETURN_IF_ERROR(CheckDivides(args.tensors_per_layer, local));
    if (args.dst_layer_count != 0) {
        LLDD_RETURN_IF_ERROR(CheckLayers("dst_layer_range", args.dst_layer_start,
                                         args.dst_layer_count, args.tensors_per_layer, "local",
                                         local));
    }
    const uint64_t receiving = args.dst_layer_count != 0
                                   ? args.dst_layer_count
                                   : local.shape.num_tensors / args.tensors_per_layer;
    if (args.src_layer_count != 0 && args.src_layer_count != receiving) {
        return Failure(
            LLDD_PARAM_INVALID,
            "src_layer_range has %u layers, but %llu layers of the local cache %lld receive: %s",
            args.src_layer_count, Printable(receiving), Printable(local.id),
            args.dst_layer_count != 0 ? "that is dst_layer_range" : "those are all");
    }
    return Status::Ok();
}

// The tensors of a pull: layer ranges against the remote cache, and equal numbers on both sides.
Status SelectPullTensors(const PullRequest &request, const PlanCache &remote,
                         Selection *selection) {
    const lldd_pull_args &args = request.args;
    const PlanCache &local = request.local;
    const uint64_t per_layer = args.tensors_per_layer;
    uint64_t dst_first = 0;
    uint64_t dst_tensors = local.shape.num_tensors;
    if (args.dst_layer_count != 0) {
        dst_first = args.dst_layer_start * per_layer;
        dst_tensors = args.dst_layer_count * per_layer;
    }
    uint64_t src_first = 0;
    if (args.src_layer_count != 0) {
        LLDD_RETURN_IF_ERROR(CheckLayers("src_layer_range", args.src_layer_start,
                                         args.src_layer_count, args.tensors_per_layer, "remote",
                                         remote));
        src_first = args.src_layer_start * per_layer;
    } else if (remote.shape.num_tensors != dst_tensors) {
        return Failure(LLDD_PARAM_INVALID,
                       "the remote cache %lld has %u tensors, %llu of the local cache %lld "
                       "receive: they must be equal",
                       Printable(remote.id), remote.shape.num_tensors, Printable(dst_tensors),
                       Printable(local.id));
    }
    *selection = {local.addrs + dst_first, remote.addrs + src_first, dst_tensors, 0, 0};
    return Status::Ok();
}

Status PlanPullToBlocks(const PullRequest &request, const BlockPairs &pairs,
                        const PlanCache &remote, uint64_t remote_batch_index, Selection selection,
                        std::vector<Run> *runs) {
    const lldd_pull_args &args = request.args;
    const PlanCache &local = request.local;
    const uint64_t block_bytes = local.shape.stride();
    if (args.num_src_blocks != 0) {
        if (!remote.shape.blocks) {
            return Failure(LLDD_PARAM_INVALID,
                           "src_blocks is given, but the remote cache %lld has no blocks",
                           Printable(remote.id));
        }
        LLDD_RETURN_IF_ERROR(CheckEqualBlocks(local, remote));
        LLDD_RETURN_IF_ERROR(CheckRemoteBlocks("src_blocks", pairs, remote));
        PlanPairs(selection, pairs, block_bytes, 0, runs);
        return Status::Ok();
    }

    if (remote.shape.blocks) {
        return Failure(LLDD_PARAM_INVALID,
                       "the remote cache %lld has blocks: src_blocks must say which",
                       Printable(remote.id));
    }
    LLDD_RETURN_IF_ERROR(
        CheckBatchIndex("the batch index of the key", remote_batch_index, "remote", remote));
    const uint64_t stride = remote.shape.stride();
    // A host cache may have a single block that is larger than the source.
    if (local.shape.placement == Placement::kDevice && block_bytes > stride) {
        return Failure(LLDD_PARAM_INVALID,
                       "a block of the local cache %lld has %llu bytes, more than a batch entry of "
                       "the remote cache %lld, %llu",
                       Printable(local.id), Printable(block_bytes), Printable(remote.id),
                       Printable(stride));
    }
    const uint64_t pieces = CeilDivide(stride, block_bytes);
    if (args.num_dst_blocks > pieces) {
        return Failure(LLDD_PARAM_INVALID,
                       "dst_blocks has %llu indices, a batch entry of the remote cache %lld fills "
                       "%llu blocks (%llu bytes, %llu a block)",
                       Printable(args.num_dst_blocks), Printable(remote.id), Printable(pieces),
                       Printable(stride), Printable(block_bytes));
    }
    selection.remote_offset = remote_batch_index * stride;
    // Only the block that takes the tail of the entry is short, and that can only be the last one
    // listed.
    const uint64_t tail = stride % block_bytes;
    const bool takes_tail = args.num_dst_blocks == pieces && tail != 0;
    PlanPairs(selection, pairs, block_bytes, takes_tail ? block_bytes - tail : 0, runs);
    return Status::Ok();
}

Status PlanPullToEntry(const PullRequest &request, const PlanCache &remote,
                       uint64_t remote_batch_index, Selection selection, std::vector<Run> *runs) {
    const lldd_pull_args &args = request.args;
    const PlanCache &local = request.local;
    if (remote.shape.blocks) {
        return Failure(LLDD_PARAM_INVALID,
                       "the remote cache %lld has blocks, the local cache %lld has none: blocks "
                       "cannot be pulled into a contiguous cache",
                       Printable(remote.id), Printable(local.id));
    }
    LLDD_RETURN_IF_ERROR(
        CheckBatchIndex("the batch index of the key", remote_batch_index, "remote", remote));
    const uint64_t local_stride = local.shape.stride();
    const uint64_t remote_stride = remote.shape.stride();
    const uint64_t length = args.size > 0 ? static_cast<uint64_t>(args.size) : local_stride;
    if (length > remote_stride) {
        return Failure(
            LLDD_PARAM_INVALID,
            "%llu bytes a tensor asked for%s, a batch entry of the remote cache %lld has %llu",
            Printable(length), args.size > 0 ? "" : " (the local stride)", Printable(remote.id),
            Printable(remote_stride));
    }
    selection.local_offset = args.batch_index * local_stride;
    selection.remote_offset = remote_batch_index * remote_stride;
    PlanWhole(selection, length, runs);
    return Status::Ok();
}

}  // namespace

Status CheckPull(const PullRequest &request, BlockPairs *pairs) {
    pairs->clear();
    const lldd_pull_args &args = request.args;
    const PlanCache &local = request.local;
    LLDD_RETURN_IF_ERROR(CheckTensorsPerLayer(args.tensors_per_layer));
    LLDD_RETURN_IF_ERROR(CheckBatchIndex("batch_index", args.batch_index, "local", local));
    if (args.num_dst_blocks == 0) {
        if (args.num_src_blocks != 0) return UnequalLists(args.num_src_blocks, 0);
        if (local.shape.blocks) {
            return Failure(LLDD_PARAM_INVALID,
                           "the local cache %lld has blocks: dst_blocks must say which",
                           Printable(local.id));
        }
        if (args.size > 0 && static_cast<uint64_t>(args.size) > local.shape.stride()) {
            return Failure(LLDD_PARAM_INVALID,
                           "size is %lld, a batch entry of the local cache %lld has %llu bytes",
                           Printable(args.size), Printable(local.id),
                           Printable(local.shape.stride()));
        }
    } else {
        if (!local.shape.blocks) {
            return Failure(LLDD_PARAM_INVALID,
                           "dst_blocks is given, but the local cache %lld has no blocks",
                           Printable(local.id));
        }
        if (args.size > 0) {
            return Failure(LLDD_PARAM_INVALID, "size is %lld, with blocks only -1 is allowed",
                           Printable(args.size));
        }
        if (args.num_src_blocks != 0 && args.num_src_blocks != args.num_dst_blocks) {
            return UnequalLists(args.num_src_blocks, args.num_dst_blocks);
        }
        const uint64_t *sources = args.num_src_blocks != 0 ? args.src_blocks : nullptr;
        uint64_t place = 0;
        uint64_t index = 0;
        if (!pairs->Read(args.dst_blocks, local.shape.count, sources, args.num_dst_blocks, &place,
                         &index)) {
            return BlockOutOfRange("dst_blocks", place, index, "local", local);
        }
    }
    LLDD_RETURN_IF_ERROR(CheckPullLayers(request));
    return CheckAddrs("local", local);
}

Status PlanPull(const PullRequest &request, const BlockPairs &pairs, const PlanCache &remote,
                uint64_t remote_batch_index, std::vector<Run> *runs) {
    LLDD_RETURN_IF_ERROR(CheckRemote(remote));
    Selection selection{};
    LLDD_RETURN_IF_ERROR(SelectPullTensors(request, remote, &selection));
    if (request.args.num_dst_blocks != 0) {
        return PlanPullToBlocks(request, pairs, remote, remote_batch_index, selection, runs);
    }
    return PlanPullToEntry(request, remote, remote_batch_index, selection, runs);
}

}  // namespace lldd
