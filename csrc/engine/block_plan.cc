// SPDX-License-Identifier: Apache-2.0
#include "engine/block_plan.h"

#include <algorithm>
#include <cinttypes>
#include <limits>
#include <utility>

namespace lldd {
namespace {

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

// The list may change under our feet: the compiler must not read an element a second time.
uint64_t LoadOnce(const uint64_t *place) { return __atomic_load_n(place, __ATOMIC_RELAXED); }

uint64_t CeilDivide(uint64_t bytes, uint64_t piece) {
    return bytes / piece + (bytes % piece != 0 ? 1 : 0);
}

// Both sides of a transfer and the tensors of either that take part. Offsets are from the start of
// each tensor.
struct Selection {
    const uint64_t *local_addrs;
    const uint64_t *remote_addrs;
    uint64_t num_tensors;
    uint64_t local_offset;
    uint64_t remote_offset;
};

// Fills in the runs of all tensors but the first: its runs, shifted.
template <typename AnyRun>
void ShiftToOtherTensors(const uint64_t *first_addrs, const uint64_t *second_addrs,
                         uint64_t num_tensors, size_t runs_per_tensor, AnyRun *runs) {
    AnyRun *next = runs + runs_per_tensor;
    for (uint64_t tensor = 1; tensor < num_tensors; ++tensor) {
        // Differences may be negative: they wrap, and so do the sums, to the right address.
        const uint64_t first_shift = first_addrs[tensor] - first_addrs[0];
        const uint64_t second_shift = second_addrs[tensor] - second_addrs[0];
        for (size_t i = 0; i < runs_per_tensor; ++i) {
            const auto [first, second, length] = runs[i];
            *next++ = {first + first_shift, second + second_shift, length};
        }
    }
}

// The runs of block pairs of `block_bytes` each. `short_by`: what the last block is short of that.
template <typename AnyRun>
void PlanPairs(const Selection &selection, const BlockPairs &pairs, uint64_t block_bytes,
               uint64_t short_by, std::vector<AnyRun> *runs) {
    const size_t per_tensor = pairs.size();
    // No clear() before: growing from nothing would write every element twice.
    runs->resize(per_tensor * selection.num_tensors);
    if (runs->empty()) return;
    const uint64_t local_base = selection.local_addrs[0] + selection.local_offset;
    const uint64_t remote_base = selection.remote_addrs[0] + selection.remote_offset;
    AnyRun *next = runs->data();
    for (const BlockRun &pair : pairs) {
        *next++ = {local_base + pair.local * block_bytes, remote_base + pair.remote * block_bytes,
                   pair.count * block_bytes};
    }
    next[-1].length -= short_by;
    ShiftToOtherTensors(selection.local_addrs, selection.remote_addrs, selection.num_tensors,
                        per_tensor, runs->data());
}

// The same `length` bytes of every tensor.
template <typename AnyRun>
void PlanWhole(const Selection &selection, uint64_t length, std::vector<AnyRun> *runs) {
    runs->resize(selection.num_tensors);
    if (runs->empty()) return;
    runs->front() = {selection.local_addrs[0] + selection.local_offset,
                     selection.remote_addrs[0] + selection.remote_offset, length};
    ShiftToOtherTensors(selection.local_addrs, selection.remote_addrs, selection.num_tensors, 1,
                        runs->data());
}

// No tensor may reach past the end of the address space: all sums of addresses above rely on it.
Status CheckAddrs(const char *side, const PlanCache &cache) {
    for (uint64_t i = 0; i < cache.shape.num_tensors; ++i) {
        if (cache.addrs[i] > kMax - cache.shape.tensor_bytes) {
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

// Row 7 and 8 of the caller's checks.
Status CheckPullLayers(const PullRequest &request) {
    const LayerRange &src = request.src_layers;
    const LayerRange &dst = request.dst_layers;
    const PlanCache &local = request.local;
    if (src.count == 0 && dst.count == 0) return Status::Ok();
    LLDD_RETURN_IF_ERROR(CheckDivides(request.tensors_per_layer, local));
    if (dst.count != 0) {
        LLDD_RETURN_IF_ERROR(CheckLayers("dst_layer_range", dst.start, dst.count,
                                         request.tensors_per_layer, "local", local));
    }
    const uint64_t receiving =
        dst.count != 0 ? dst.count : local.shape.num_tensors / request.tensors_per_layer;
    if (src.count != 0 && src.count != receiving) {
        return Failure(LLDD_PARAM_INVALID,
                       "src_layer_range has %" PRIu32 " layers, but %" PRIu64
                       " layers of the local cache %" PRId64 " receive: %s",
                       src.count, receiving, local.id,
                       dst.count != 0 ? "that is dst_layer_range" : "those are all");
    }
    return Status::Ok();
}

// The tensors of a pull: layer ranges against the remote cache, and equal numbers on both sides.
Status SelectPullTensors(const PullRequest &request, const PlanCache &remote,
                         Selection *selection) {
    const uint64_t per_layer = request.tensors_per_layer;
    const PlanCache &local = request.local;
    uint64_t dst_first = 0;
    uint64_t dst_tensors = local.shape.num_tensors;
    if (request.dst_layers.count != 0) {
        dst_first = request.dst_layers.start * per_layer;
        dst_tensors = request.dst_layers.count * per_layer;
    }
    uint64_t src_first = 0;
    if (request.src_layers.count != 0) {
        LLDD_RETURN_IF_ERROR(CheckLayers("src_layer_range", request.src_layers.start,
                                         request.src_layers.count, request.tensors_per_layer,
                                         "remote", remote));
        src_first = request.src_layers.start * per_layer;
    } else if (remote.shape.num_tensors != dst_tensors) {
        return Failure(LLDD_PARAM_INVALID,
                       "the remote cache %" PRId64 " has %" PRIu32 " tensors, %" PRIu64
                       " of the local cache %" PRId64 " receive: they must be equal",
                       remote.id, remote.shape.num_tensors, dst_tensors, local.id);
    }
    *selection = {local.addrs + dst_first, remote.addrs + src_first, dst_tensors, 0, 0};
    return Status::Ok();
}

Status PlanPullToBlocks(const PullRequest &request, const BlockPairs &pairs,
                        const PlanCache &remote, uint64_t remote_batch_index, Selection selection,
                        std::vector<Run> *runs) {
    const PlanCache &local = request.local;
    const uint64_t block_bytes = local.shape.stride();
    if (request.num_src_blocks != 0) {
        if (!remote.shape.blocks) {
            return Failure(LLDD_PARAM_INVALID,
                           "src_blocks is given, but the remote cache %" PRId64 " has no blocks",
                           remote.id);
        }
        LLDD_RETURN_IF_ERROR(CheckEqualBlocks(local, remote));
        LLDD_RETURN_IF_ERROR(CheckRemoteBlocks("src_blocks", pairs, remote));
        PlanPairs(selection, pairs, block_bytes, 0, runs);
        return Status::Ok();
    }

    if (remote.shape.blocks) {
        return Failure(LLDD_PARAM_INVALID,
                       "the remote cache %" PRId64 " has blocks: src_blocks must say which",
                       remote.id);
    }
    LLDD_RETURN_IF_ERROR(
        CheckBatchIndex("the batch index of the key", remote_batch_index, "remote", remote));
    const uint64_t stride = remote.shape.stride();
    // A host cache may have a single block that is larger than the source.
    if (local.shape.placement == Placement::kDevice && block_bytes > stride) {
        return Failure(LLDD_PARAM_INVALID,
                       "a block of the local cache %" PRId64 " has %" PRIu64
                       " bytes, more than a batch entry of the remote cache %" PRId64 ", %" PRIu64,
                       local.id, block_bytes, remote.id, stride);
    }
    const uint64_t pieces = CeilDivide(stride, block_bytes);
    if (request.num_dst_blocks > pieces) {
        return Failure(LLDD_PARAM_INVALID,
                       "dst_blocks has %" PRIu64
                       " indices, a batch entry of the remote cache %" PRId64 " fills %" PRIu64
                       " blocks (%" PRIu64 " bytes, %" PRIu64 " a block)",
                       request.num_dst_blocks, remote.id, pieces, stride, block_bytes);
    }
    selection.remote_offset = remote_batch_index * stride;
    // Only the block that takes the tail of the entry is short, and that can only be the last one
    // listed.
    const uint64_t tail = stride % block_bytes;
    const bool takes_tail = request.num_dst_blocks == pieces && tail != 0;
    PlanPairs(selection, pairs, block_bytes, takes_tail ? block_bytes - tail : 0, runs);
    return Status::Ok();
}

Status PlanPullToEntry(const PullRequest &request, const PlanCache &remote,
                       uint64_t remote_batch_index, Selection selection, std::vector<Run> *runs) {
    const PlanCache &local = request.local;
    if (remote.shape.blocks) {
        return Failure(LLDD_PARAM_INVALID,
                       "the remote cache %" PRId64 " has blocks, the local cache %" PRId64
                       " has none: blocks cannot be pulled into a contiguous cache",
                       remote.id, local.id);
    }
    LLDD_RETURN_IF_ERROR(
        CheckBatchIndex("the batch index of the key", remote_batch_index, "remote", remote));
    const uint64_t local_stride = local.shape.stride();
    const uint64_t remote_stride = remote.shape.stride();
    const uint64_t length = request.size > 0 ? static_cast<uint64_t>(request.size) : local_stride;
    if (length > remote_stride) {
        return Failure(
            LLDD_PARAM_INVALID,
            "%" PRIu64 " bytes a tensor asked for%s, a batch entry of the remote cache %" PRId64
            " has %" PRIu64,
            length, request.size > 0 ? "" : " (the local stride)", remote.id, remote_stride);
    }
    selection.local_offset = request.batch_index * local_stride;
    selection.remote_offset = remote_batch_index * remote_stride;
    PlanWhole(selection, length, runs);
    return Status::Ok();
}

}  // namespace

// ---- block pairs ----

bool BlockPairs::Read(const uint64_t *local, uint64_t local_count, const uint64_t *remote,
                      uint64_t length, uint64_t *bad_place, uint64_t *bad_value) {
    size_ = 0;
    max_remote_ = 0;
    if (runs_.size() < length) runs_.resize(length);
    BlockRun *next = runs_.data();
    BlockRun run{0, 0, 0};
    uint64_t max_remote = 0;
    for (uint64_t k = 0; k < length; ++k) {
        const uint64_t l = local != nullptr ? LoadOnce(local + k) : k;
        const uint64_t r = remote != nullptr ? LoadOnce(remote + k) : k;
        if (l >= local_count) {
            *bad_place = k;
            *bad_value = l;
            return false;
        }
        max_remote = std::max(max_remote, r);
        // A remote index after the largest number wraps; such a run is refused for its first index.
        if (run.count != 0 && l == run.local + run.count && r == run.remote + run.count) {
            ++run.count;
            continue;
        }
        if (run.count != 0) *next++ = run;
        run = {l, r, 1};
    }
    if (run.count != 0) *next++ = run;
    size_ = static_cast<size_t>(next - runs_.data());
    max_remote_ = max_remote;
    return true;
}

void BlockPairs::FirstRemoteFrom(uint64_t limit, uint64_t *place, uint64_t *value) const {
    uint64_t before = 0;
    for (const BlockRun &run : *this) {
        if (run.remote >= limit || run.count > limit - run.remote) {
            *value = std::max(run.remote, limit);
            *place = before + (*value - run.remote);
            return;
        }
        before += run.count;
    }
}

// ---- pull ----

Status CheckTensorsPerLayer(uint32_t tensors_per_layer) {
    if (tensors_per_layer > 0) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID, "tensors_per_layer is 0, a layer has at least one tensor");
}

Status CheckPull(const PullRequest &request, BlockPairs *pairs) {
    pairs->clear();
    const PlanCache &local = request.local;
    LLDD_RETURN_IF_ERROR(CheckTensorsPerLayer(request.tensors_per_layer));
    LLDD_RETURN_IF_ERROR(CheckBatchIndex("batch_index", request.batch_index, "local", local));
    if (request.num_dst_blocks == 0) {
        if (request.num_src_blocks != 0) return UnequalLists(request.num_src_blocks, 0);
        if (local.shape.blocks) {
            return Failure(LLDD_PARAM_INVALID,
                           "the local cache %" PRId64 " has blocks: dst_blocks must say which",
                           local.id);
        }
        if (request.size > 0 && static_cast<uint64_t>(request.size) > local.shape.stride()) {
            return Failure(LLDD_PARAM_INVALID,
                           "size is %" PRId64 ", a batch entry of the local cache %" PRId64
                           " has %" PRIu64 " bytes",
                           request.size, local.id, local.shape.stride());
        }
    } else {
        if (!local.shape.blocks) {
            return Failure(LLDD_PARAM_INVALID,
                           "dst_blocks is given, but the local cache %" PRId64 " has no blocks",
                           local.id);
        }
        if (request.size > 0) {
            return Failure(LLDD_PARAM_INVALID,
                           "size is %" PRId64 ", with blocks only -1 is allowed", request.size);
        }
        if (request.num_src_blocks != 0 && request.num_src_blocks != request.num_dst_blocks) {
            return UnequalLists(request.num_src_blocks, request.num_dst_blocks);
        }
        const uint64_t *sources = request.num_src_blocks != 0 ? request.src_blocks : nullptr;
        uint64_t place = 0;
        uint64_t index = 0;
        if (!pairs->Read(request.dst_blocks, local.shape.count, sources, request.num_dst_blocks,
                         &place, &index)) {
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
    if (request.num_dst_blocks != 0) {
        return PlanPullToBlocks(request, pairs, remote, remote_batch_index, selection, runs);
    }
    return PlanPullToEntry(request, remote, remote_batch_index, selection, runs);
}

// ---- push ----

namespace {

// The bytes of a tensor that a push without source blocks takes its pieces from.
uint64_t PushedEntryBytes(const CacheShape &local) {
    return local.blocks ? local.tensor_bytes : local.stride();
}

// What the last listed destination block is short of a whole one: it may take the tail of the
// entry.
uint64_t ShortOfPieces(const PushRequest &request) {
    const uint64_t entry_bytes = PushedEntryBytes(request.local.shape);
    const uint64_t tail = entry_bytes % request.dst_block_size;
    const bool has_tail = request.num_dst_blocks == CeilDivide(entry_bytes, request.dst_block_size);
    return has_tail && tail != 0 ? request.dst_block_size - tail : 0;
}

Status CheckPushOfPieces(const PushRequest &request) {
    const PlanCache &local = request.local;
    const uint64_t entry_bytes = PushedEntryBytes(local.shape);
    if (request.dst_block_size == 0) {
        return Failure(
            LLDD_PARAM_INVALID,
            "src_blocks is empty, dst_blocks has %" PRIu64
            " indices: without the size of a destination block one source block for each is needed",
            request.num_dst_blocks);
    }
    if (request.dst_block_size >= local.shape.tensor_bytes) {
        return Failure(LLDD_PARAM_INVALID,
                       "the size of a destination block is %" PRIu64
                       ", it must be less than a tensor of the local cache %" PRId64 ", %" PRIu64
                       " bytes",
                       request.dst_block_size, local.id, local.shape.tensor_bytes);
    }
    const uint64_t pieces = CeilDivide(entry_bytes, request.dst_block_size);
    if (request.num_dst_blocks > pieces) {
        return Failure(LLDD_PARAM_INVALID,
                       "dst_blocks has %" PRIu64 " indices, the local cache %" PRId64
                       " fills %" PRIu64 " blocks (%" PRIu64 " bytes, %" PRIu64 " a block)",
                       request.num_dst_blocks, local.id, pieces, entry_bytes,
                       request.dst_block_size);
    }
    return Status::Ok();
}

Status CheckPushOfBlocks(const PushRequest &request) {
    const PlanCache &local = request.local;
    if (request.num_src_blocks != request.num_dst_blocks) {
        return UnequalLists(request.num_src_blocks, request.num_dst_blocks);
    }
    if (!local.shape.blocks) {
        return Failure(LLDD_PARAM_INVALID,
                       "src_blocks is given, but the local cache %" PRId64 " has no blocks",
                       local.id);
    }
    if (request.dst_block_size != 0 && request.dst_block_size != local.shape.stride()) {
        return Failure(LLDD_PARAM_INVALID,
                       "the size of a destination block is %" PRIu64
                       ", a block of the local cache %" PRId64 " has %" PRIu64
                       " bytes: they must be equal",
                       request.dst_block_size, local.id, local.shape.stride());
    }
    return Status::Ok();
}

}  // namespace

Status CheckPush(const PushRequest &request, BlockPairs *pairs) {
    pairs->clear();
    const PlanCache &local = request.local;
    LLDD_RETURN_IF_ERROR(CheckTensorsPerLayer(request.tensors_per_layer));
    LLDD_RETURN_IF_ERROR(CheckDivides(request.tensors_per_layer, local));
    if (request.num_src_blocks != 0) {
        LLDD_RETURN_IF_ERROR(CheckPushOfBlocks(request));
    } else {
        LLDD_RETURN_IF_ERROR(
            CheckBatchIndex("src_batch_index", request.src_batch_index, "local", local));
        if (request.num_dst_blocks != 0) {
            LLDD_RETURN_IF_ERROR(CheckPushOfPieces(request));
        } else if (request.dst_block_size != 0) {
            return Failure(LLDD_PARAM_INVALID,
                           "the size of a destination block is %" PRIu64
                           ", but dst_blocks is empty",
                           request.dst_block_size);
        }
    }
    LLDD_RETURN_IF_ERROR(CheckAddrs("local", local));
    const bool pieces = request.num_src_blocks == 0;
    uint64_t place = 0;
    uint64_t index = 0;
    if (!pairs->Read(pieces ? nullptr : request.src_blocks, pieces ? kMax : local.shape.count,
                     request.dst_blocks, request.num_dst_blocks, &place, &index)) {
        return BlockOutOfRange("src_blocks", place, index, "local", local);
    }
    return Status::Ok();
}

Status PlanPushLayer(const PushRequest &request, const BlockPairs &pairs, const PlanCache &remote,
                     uint64_t dst_batch_index, uint32_t src_layer, uint32_t dst_layer,
                     std::vector<Run> *runs) {
    const PlanCache &local = request.local;
    const uint64_t per_layer = request.tensors_per_layer;
    LLDD_RETURN_IF_ERROR(CheckRemote(remote));
    LLDD_RETURN_IF_ERROR(
        CheckLayers("dst_layer_range", dst_layer, 1, request.tensors_per_layer, "remote", remote));
    LLDD_RETURN_IF_ERROR(
        CheckLayers("src_layer_range", src_layer, 1, request.tensors_per_layer, "local", local));
    Selection selection{local.addrs + src_layer * per_layer, remote.addrs + dst_layer * per_layer,
                        per_layer, 0, 0};

    if (request.num_dst_blocks == 0) {
        LLDD_RETURN_IF_ERROR(
            CheckBatchIndex("the batch index of the key", dst_batch_index, "remote", remote));
        if (local.shape.stride() > remote.shape.stride()) {
            return Failure(LLDD_PARAM_INVALID,
                           "the local cache %" PRId64 " sends %" PRIu64
                           " bytes a tensor (its stride), the stride of the remote cache %" PRId64
                           " is %" PRIu64,
                           local.id, local.shape.stride(), remote.id, remote.shape.stride());
        }
        selection.local_offset = request.src_batch_index * local.shape.stride();
        selection.remote_offset = dst_batch_index * remote.shape.stride();
        PlanWhole(selection, local.shape.stride(), runs);
        return Status::Ok();
    }

    if (!remote.shape.blocks) {
        return Failure(LLDD_PARAM_INVALID,
                       "dst_blocks is given, but the remote cache %" PRId64 " has no blocks",
                       remote.id);
    }
    LLDD_RETURN_IF_ERROR(CheckRemoteBlocks("dst_blocks", pairs, remote));
    if (request.num_src_blocks != 0) {
        LLDD_RETURN_IF_ERROR(CheckEqualBlocks(local, remote));
        PlanPairs(selection, pairs, local.shape.stride(), 0, runs);
        return Status::Ok();
    }
    const uint64_t block_bytes = request.dst_block_size;
    if (block_bytes != remote.shape.stride()) {
        return Failure(LLDD_PARAM_INVALID,
                       "the size of a destination block is %" PRIu64
                       ", a block of the remote cache %" PRId64 " has %" PRIu64
                       " bytes: they must be equal",
                       block_bytes, remote.id, remote.shape.stride());
    }
    const uint64_t entry_bytes = PushedEntryBytes(local.shape);
    selection.local_offset = request.src_batch_index * entry_bytes;
    PlanPairs(selection, pairs, block_bytes, ShortOfPieces(request), runs);
    return Status::Ok();
}

Status PlanLayerToAddresses(const PushRequest &request, const BlockPairs &pairs,
                            const std::vector<uint64_t> &addrs, const std::vector<uint64_t> &ends,
                            uint32_t src_layer, std::vector<Run> *runs) {
    const PlanCache &local = request.local;
    const uint64_t per_layer = request.tensors_per_layer;
    LLDD_RETURN_IF_ERROR(
        CheckLayers("src_layer_range", src_layer, 1, request.tensors_per_layer, "local", local));
    const bool pieces = request.num_src_blocks == 0 && request.num_dst_blocks != 0;
    const uint64_t block_bytes = pieces ? request.dst_block_size : local.shape.stride();
    for (size_t i = 0; i < addrs.size(); ++i) {
        const uint64_t room = ends[i] > addrs[i] ? (ends[i] - addrs[i]) / block_bytes : 0;
        const uint64_t needed = request.num_dst_blocks == 0 ? 0 : pairs.max_remote();
        if (needed < room) continue;
        return Failure(LLDD_PARAM_INVALID,
                       "dst_addrs[%zu] is 0x%" PRIx64
                       ", the peer's tensor there has room for %" PRIu64 " pieces of %" PRIu64
                       " bytes, piece %" PRIu64 " is asked for",
                       i, addrs[i], room, block_bytes, needed);
    }
    Selection selection{local.addrs + src_layer * per_layer, addrs.data(), per_layer, 0, 0};
    const uint64_t entry_bytes = pieces ? PushedEntryBytes(local.shape) : local.shape.stride();
    if (request.num_src_blocks == 0) selection.local_offset = request.src_batch_index * entry_bytes;
    if (request.num_dst_blocks == 0) {
        PlanWhole(selection, local.shape.stride(), runs);
    } else {
        PlanPairs(selection, pairs, block_bytes, pieces ? ShortOfPieces(request) : 0, runs);
    }
    return Status::Ok();
}

// ---- local copies ----

Status PlanCopy(const CopyRequest &request, std::vector<LocalRun> *runs) {
    const PlanCache &src = request.src;
    const PlanCache &dst = request.dst;
    runs->clear();
    for (const PlanCache *cache : {&src, &dst}) {
        if (cache->shape.blocks) {
            return Failure(LLDD_PARAM_INVALID,
                           "the %s cache %" PRId64
                           " has blocks, only contiguous caches are copied so",
                           cache == &src ? "source" : "destination", cache->id);
        }
    }
    if (src.shape.num_tensors != dst.shape.num_tensors) {
        return Failure(LLDD_PARAM_INVALID,
                       "the source cache %" PRId64 " has %" PRIu32
                       " tensors, the destination cache %" PRId64 " %" PRIu32
                       ": they must be equal",
                       src.id, src.shape.num_tensors, dst.id, dst.shape.num_tensors);
    }
    LLDD_RETURN_IF_ERROR(
        CheckBatchIndex("src_batch_index", request.src_batch_index, "source", src));
    LLDD_RETURN_IF_ERROR(
        CheckBatchIndex("dst_batch_index", request.dst_batch_index, "destination", dst));
    const uint64_t src_stride = src.shape.stride();
    const uint64_t dst_stride = dst.shape.stride();
    if (request.offset >= src_stride || request.offset >= dst_stride) {
        return Failure(LLDD_PARAM_INVALID,
                       "offset is %" PRIu64 ", it must be below both strides: %" PRIu64
                       " (source cache %" PRId64 "), %" PRIu64 " (destination cache %" PRId64 ")",
                       request.offset, src_stride, src.id, dst_stride, dst.id);
    }
    if (request.size < -1 || request.size == 0) {
        return Failure(LLDD_PARAM_INVALID, "size is %" PRId64 ", allowed are -1 and more than 0",
                       request.size);
    }
    const uint64_t length =
        request.size > 0 ? static_cast<uint64_t>(request.size) : src_stride - request.offset;
    if (length > src_stride - request.offset || length > dst_stride - request.offset) {
        return Failure(LLDD_PARAM_INVALID,
                       "%" PRIu64 " bytes from offset %" PRIu64
                       " on do not fit the strides %" PRIu64 " (source cache %" PRId64
                       ") and %" PRIu64 " (destination cache %" PRId64 ")",
                       length, request.offset, src_stride, src.id, dst_stride, dst.id);
    }
    LLDD_RETURN_IF_ERROR(CheckAddrs("source", src));
    LLDD_RETURN_IF_ERROR(CheckAddrs("destination", dst));
    if (src.id == dst.id && request.src_batch_index == request.dst_batch_index) return Status::Ok();
    PlanWhole(Selection{dst.addrs, src.addrs, dst.shape.num_tensors,
                        request.dst_batch_index * dst_stride + request.offset,
                        request.src_batch_index * src_stride + request.offset},
              length, runs);
    return Status::Ok();
}

Status PlanBlocksCopy(const PlanCache &cache, const uint64_t *src_blocks,
                      const uint64_t *dst_blocks, uint64_t num_pairs, BlockPairs *pairs,
                      std::vector<LocalRun> *runs) {
    runs->clear();
    if (!cache.shape.blocks) {
        return Failure(LLDD_PARAM_INVALID, "the cache %" PRId64 " has no blocks", cache.id);
    }
    LLDD_RETURN_IF_ERROR(CheckAddrs("local", cache));
    uint64_t place = 0;
    uint64_t index = 0;
    if (!pairs->Read(dst_blocks, cache.shape.count, src_blocks, num_pairs, &place, &index)) {
        return BlockOutOfRange("dst_blocks", place, index, "local", cache);
    }
    if (pairs->max_remote() >= cache.shape.count) {
        pairs->FirstRemoteFrom(cache.shape.count, &place, &index);
        return BlockOutOfRange("src_blocks", place, index, "local", cache);
    }
    const uint64_t block_bytes = cache.shape.stride();
    const uint64_t base = cache.addrs[0];
    for (const BlockRun &pair : *pairs) {
        const uint64_t distance =
            pair.local > pair.remote ? pair.local - pair.remote : pair.remote - pair.local;
        if (distance == 0) continue;
        // No run may overlap itself, which merged pairs like 0 to 1, 1 to 2 would.
        for (uint64_t done = 0; done < pair.count; done += distance) {
            runs->push_back({base + (pair.local + done) * block_bytes,
                             base + (pair.remote + done) * block_bytes,
                             std::min(distance, pair.count - done) * block_bytes});
        }
    }
    const size_t per_tensor = runs->size();
    runs->resize(per_tensor * cache.shape.num_tensors);
    ShiftToOtherTensors(cache.addrs, cache.addrs, cache.shape.num_tensors, per_tensor,
                        runs->data());
    return Status::Ok();
}

Status PlanSwap(const lldd_swap_args &args, BlockPairs *pairs, std::vector<LocalRun> *runs) {
    runs->clear();
    if (args.src_placement != LLDD_PLACEMENT_HOST && args.src_placement != LLDD_PLACEMENT_DEVICE) {
        return Failure(LLDD_PARAM_INVALID,
                       "src_placement is %" PRIu32 ", allowed are %d (host) and %d (device)",
                       args.src_placement, LLDD_PLACEMENT_HOST, LLDD_PLACEMENT_DEVICE);
    }
    if (args.num_tensors == 0)
        return Failure(LLDD_PARAM_INVALID, "num_tensors is 0, the caches have no addresses");
    if (args.block_bytes == 0) return Failure(LLDD_PARAM_INVALID, "block_bytes is 0");
    // How many blocks an address space holds: more is known of neither side.
    const uint64_t limit = kMax / args.block_bytes;
    uint64_t place = 0;
    uint64_t index = 0;
    bool fits =
        pairs->Read(args.dst_blocks, limit, args.src_blocks, args.num_blocks, &place, &index);
    const char *list = "dst_blocks";
    if (fits && pairs->size() != 0 && pairs->max_remote() >= limit) {
        fits = false;
        list = "src_blocks";
        pairs->FirstRemoteFrom(limit, &place, &index);
    }
    if (!fits) {
        return Failure(LLDD_PARAM_INVALID,
                       "%s[%" PRIu64 "] is %" PRIu64 ", with blocks of %" PRIu64
                       " bytes past the end of the address space",
                       list, place, index, args.block_bytes);
    }
    uint64_t dst_bytes = 0;
    for (const BlockRun &pair : *pairs)
        dst_bytes = std::max(dst_bytes, (pair.local + pair.count) * args.block_bytes);
    const uint64_t src_bytes =
        pairs->size() == 0 ? 0 : (pairs->max_remote() + 1) * args.block_bytes;

    std::vector<uint64_t> src_addrs(args.num_tensors);
    std::vector<uint64_t> dst_addrs(args.num_tensors);
    for (uint64_t i = 0; i < args.num_tensors; ++i) {
        src_addrs[i] = LoadOnce(args.src_addrs + i);
        dst_addrs[i] = LoadOnce(args.dst_addrs + i);
        if (src_addrs[i] > kMax - src_bytes || dst_addrs[i] > kMax - dst_bytes) {
            return Failure(LLDD_PARAM_INVALID,
                           "tensor %" PRIu64 " from 0x%" PRIx64 " to 0x%" PRIx64
                           " would reach past the end of the address space",
                           i, src_addrs[i], dst_addrs[i]);
        }
    }
    PlanPairs(Selection{dst_addrs.data(), src_addrs.data(), args.num_tensors, 0, 0}, *pairs,
              args.block_bytes, 0, runs);
    return Status::Ok();
}

}  // namespace lldd
