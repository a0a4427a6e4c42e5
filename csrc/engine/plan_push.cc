// SPDX-License-Identifier: Apache-2.0
#include "engine/plan_push.h"

namespace lldd {
namespace {

// The bytes of a tensor that a push without source blocks takes its pieces from.
uint64_t PushedEntryBytes(const CacheShape &local) {
    return local.blocks ? local.tensor_bytes : local.stride();
}

// What the last listed destination block is short of a whole one: it may take the tail of the
// entry.
uint64_t ShortOfPieces(const PushRequest &request) {
    const lldd_transfer_args &args = request.args;
    const uint64_t entry_bytes = PushedEntryBytes(request.local.shape);
    const uint64_t tail = entry_bytes % args.dst_block_size;
    const bool has_tail = args.num_dst_blocks == CeilDivide(entry_bytes, args.dst_block_size);
    return has_tail && tail != 0 ? args.dst_block_size - tail : 0;
}

Status CheckPushOfPieces(const PushRequest &request) {
    const lldd_transfer_args &args = request.args;
    const PlanCache &local = request.local;
    const uint64_t entry_bytes = PushedEntryBytes(local.shape);
    if (args.dst_block_size == 0) {
        return Failure(LLDD_PARAM_INVALID,
                       "src_blocks is empty, dst_blocks has %llu indices: without the size of a "
                       "destination block one source block for each is needed",
                       Printable(args.num_dst_blocks));
    }
    if (args.dst_block_size >= local.shape.tensor_bytes) {
        return Failure(LLDD_PARAM_INVALID,
                       "the size of a destination block is %llu, it must be less than a tensor of "
                       "the local cache %lld, %llu bytes",
                       Printable(args.dst_block_size), Printable(local.id),
                       Printable(local.shape.tensor_bytes));
    }
    const uint64_t pieces = CeilDivide(entry_bytes, args.dst_block_size);
    if (args.num_dst_blocks > pieces) {
        return Failure(LLDD_PARAM_INVALID,
                       "dst_blocks has %llu indices, the local cache %lld fills %llu blocks (%llu "
                       "bytes, %llu a block)",
                       Printable(args.num_dst_blocks), Printable(local.id), Printable(pieces),
                       Printable(entry_bytes), Printable(args.dst_block_size));
    }
    return Status::Ok();
}

Status CheckPushOfBlocks(const PushRequest &request) {
    const lldd_transfer_args &args = request.args;
    const PlanCache &local = request.local;
    if (args.num_src_blocks != args.num_dst_blocks) {
        return UnequalLists(args.num_src_blocks, args.num_dst_blocks);
    }
    if (!local.shape.blocks) {
        return Failure(LLDD_PARAM_INVALID,
                       "src_blocks is given, but the local cache %lld has no blocks",
                       Printable(local.id));
    }
    if (args.dst_block_size != 0 && args.dst_block_size != local.shape.stride()) {
        return Failure(LLDD_PARAM_INVALID,
                       "the size of a destination block is %llu, a block of the local cache %lld "
                       "has %llu bytes: they must be equal",
                       Printable(args.dst_block_size), Printable(local.id),
                       Printable(local.shape.stride()));
    }
    return Status::Ok();
}

}  // namespace

Status CheckPush(const PushRequest &request, BlockPairs *pairs) {
    pairs->clear();
    const lldd_transfer_args &args = request.args;
    const PlanCache &local = request.local;
    LLDD_RETURN_IF_ERROR(CheckTensorsPerLayer(args.tensors_per_layer));
    LLDD_RETURN_IF_ERROR(CheckDivides(args.tensors_per_layer, local));
    if (args.num_src_blocks != 0) {
        LLDD_RETURN_IF_ERROR(CheckPushOfBlocks(request));
    } else {
        LLDD_RETURN_IF_ERROR(
            CheckBatchIndex("src_batch_index", args.src_batch_index, "local", local));
        if (args.num_dst_blocks != 0) {
            LLDD_RETURN_IF_ERROR(CheckPushOfPieces(request));
        } else if (args.dst_block_size != 0) {
            return Failure(LLDD_PARAM_INVALID,
                           "the size of a destination block is %llu, but dst_blocks is empty",
                           Printable(args.dst_block_size));
        }
    }
    LLDD_RETURN_IF_ERROR(CheckAddrs("local", local));
    const bool pieces = args.num_src_blocks == 0;
    uint64_t place = 0;
    uint64_t index = 0;
    if (!pairs->Read(pieces ? nullptr : args.src_blocks, pieces ? UINT64_MAX : local.shape.count,
                     args.dst_blocks, args.num_dst_blocks, &place, &index)) {
        return BlockOutOfRange("src_blocks", place, index, "local", local);
    }
    return Status::Ok();
}

Status PlanPushLayer(const PushRequest &request, const BlockPairs &pairs, const PlanCache &remote,
                     uint64_t dst_batch_index, std::vector<Run> *runs) {
    const lldd_transfer_args &args = request.args;
    const PlanCache &local = request.local;
    const uint64_t per_layer = args.tensors_per_layer;
    LLDD_RETURN_IF_ERROR(CheckRemote(remote));
    LLDD_RETURN_IF_ERROR(CheckLayers("dst_layer_range", args.dst_layer, 1, args.tensors_per_layer,
                                     "remote", remote));
    LLDD_RETURN_IF_ERROR(
        CheckLayers("src_layer_range", args.src_layer, 1, args.tensors_per_layer, "local", local));
    Selection selection{local.addrs + args.src_layer * per_layer,
                        remote.addrs + args.dst_layer * per_layer, per_layer, 0, 0};

    if (args.num_dst_blocks == 0) {
        LLDD_RETURN_IF_ERROR(
            CheckBatchIndex("the batch index of the key", dst_batch_index, "remote", remote));
        if (local.shape.stride() > remote.shape.stride()) {
            return Failure(LLDD_PARAM_INVALID,
                           "the local cache %lld sends %llu bytes a tensor (its stride), the "
                           "stride of the remote cache %lld is %llu",
                           Printable(local.id), Printable(local.shape.stride()),
                           Printable(remote.id), Printable(remote.shape.stride()));
        }
        selection.local_offset = args.src_batch_index * local.shape.stride();
        selection.remote_offset = dst_batch_index * remote.shape.stride();
        PlanWhole(selection, local.shape.stride(), runs);
        return Status::Ok();
    }

    if (!remote.shape.blocks) {
        return Failure(LLDD_PARAM_INVALID,
                       "dst_blocks is given, but the remote cache %lld has no blocks",
                       Printable(remote.id));
    }
    LLDD_RETURN_IF_ERROR(CheckRemoteBlocks("dst_blocks", pairs, remote));
    if (args.num_src_blocks != 0) {
        LLDD_RETURN_IF_ERROR(CheckEqualBlocks(local, remote));
        PlanPairs(selection, pairs, local.shape.stride(), 0, runs);
        return Status::Ok();
    }
    const uint64_t block_bytes = args.dst_block_size;
    if (block_bytes != remote.shape.stride()) {
        return Failure(LLDD_PARAM_INVALID,
                       "the size of a destination block is %llu, a block of the remote cache %lld "
                       "has %llu bytes: they must be equal",
                       Printable(block_bytes), Printable(remote.id),
                       Printable(remote.shape.stride()));
    }
    const uint64_t entry_bytes = PushedEntryBytes(local.shape);
    selection.local_offset = args.src_batch_index * entry_bytes;
    PlanPairs(selection, pairs, block_bytes, ShortOfPieces(request), runs);
    return Status::Ok();
}

Status PlanLayerToAddresses(const PushRequest &request, const BlockPairs &pairs,
                            const std::vector<uint64_t> &addrs, const std::vector<uint64_t> &ends,
                            std::vector<Run> *runs) {
    const lldd_transfer_args &args = request.args;
    const PlanCache &local = request.local;
    const uint64_t per_layer = args.tensors_per_layer;
    LLDD_RETURN_IF_ERROR(
        CheckLayers("src_layer_range", args.src_layer, 1, args.tensors_per_layer, "local", local));
    const bool pieces = args.num_src_blocks == 0 && args.num_dst_blocks != 0;
    const uint64_t block_bytes = pieces ? args.dst_block_size : local.shape.stride();
    for (size_t i = 0; i < addrs.size(); ++i) {
        const uint64_t room = ends[i] > addrs[i] ? (ends[i] - addrs[i]) / block_bytes : 0;
        const uint64_t needed = args.num_dst_blocks == 0 ? 0 : pairs.max_remote();
        if (needed < room) continue;
        return Failure(LLDD_PARAM_INVALID,
                       "dst_addrs[%zu] is 0x%llx, the peer's tensor there has room for %llu pieces "
                       "of %llu bytes, piece %llu is asked for",
                       i, Printable(addrs[i]), Printable(room), Printable(block_bytes),
                       Printable(needed));
    }
    Selection selection{local.addrs + args.src_layer * per_layer, addrs.data(), per_layer, 0, 0};
    const uint64_t entry_bytes = pieces ? PushedEntryBytes(local.shape) : local.shape.stride();
    if (args.num_src_blocks == 0) selection.local_offset = args.src_batch_index * entry_bytes;
    if (args.num_dst_blocks == 0) {
        PlanWhole(selection, local.shape.stride(), runs);
    } else {
        PlanPairs(selection, pairs, block_bytes, pieces ? ShortOfPieces(request) : 0, runs);
    }
    return Status::Ok();
}

}  // namespace lldd
