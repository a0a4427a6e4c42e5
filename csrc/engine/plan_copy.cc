// SPDX-License-Identifier: Apache-2.0
#include "engine/plan_copy.h"

#include <algorithm>

namespace lldd {

Status PlanCopy(const lldd_copy_args &args, const PlanCache &src, const PlanCache &dst,
                std::vector<Run> *runs) {
    runs->clear();
    for (const PlanCache *cache : {&src, &dst}) {
        if (cache->shape.blocks) {
            return Failure(LLDD_PARAM_INVALID,
                           "the %s cache %lld has blocks, only contiguous caches are copied so",
                           cache == &src ? "source" : "destination", Printable(cache->id));
        }
    }
    if (src.shape.num_tensors != dst.shape.num_tensors) {
        return Failure(LLDD_PARAM_INVALID,
                       "the source cache %lld has %u tensors, the destination cache %lld %u: they "
                       "must be equal",
                       Printable(src.id), src.shape.num_tensors, Printable(dst.id),
                       dst.shape.num_tensors);
    }
    LLDD_RETURN_IF_ERROR(CheckBatchIndex("src_batch_index", args.src_batch_index, "source", src));
    LLDD_RETURN_IF_ERROR(
        CheckBatchIndex("dst_batch_index", args.dst_batch_index, "destination", dst));
    const uint64_t src_stride = src.shape.stride();
    const uint64_t dst_stride = dst.shape.stride();
    if (args.offset >= src_stride || args.offset >= dst_stride) {
        return Failure(LLDD_PARAM_INVALID,
                       "offset is %llu, it must be below both strides: %llu (source cache %lld), "
                       "%llu (destination cache %lld)",
                       Printable(args.offset), Printable(src_stride), Printable(src.id),
                       Printable(dst_stride), Printable(dst.id));
    }
    if (args.size < -1 || args.size == 0) {
        return Failure(LLDD_PARAM_INVALID, "size is %lld, allowed are -1 and more than 0",
                       Printable(args.size));
    }
    const uint64_t length =
        args.size > 0 ? static_cast<uint64_t>(args.size) : src_stride - args.offset;
    if (length > src_stride - args.offset || length > dst_stride - args.offset) {
        return Failure(LLDD_PARAM_INVALID,
                       "%llu bytes from offset %llu on do not fit the strides %llu (source cache "
                       "%lld) and %llu (destination cache %lld)",
                       Printable(length), Printable(args.offset), Printable(src_stride),
                       Printable(src.id), Printable(dst_stride), Printable(dst.id));
    }
    LLDD_RETURN_IF_ERROR(CheckAddrs("source", src));
    LLDD_RETURN_IF_ERROR(CheckAddrs("destination", dst));
    if (src.id == dst.id && args.src_batch_index == args.dst_batch_index) return Status::Ok();
    PlanWhole(Selection{dst.addrs, src.addrs, dst.shape.num_tensors,
                        args.dst_batch_index * dst_stride + args.offset,
                        args.src_batch_index * src_stride + args.offset},
              length, runs);
    return Status::Ok();
}

Status PlanBlocksCopy(const PlanCache &cache, const uint64_t *src_blocks,
                      const uint64_t *dst_blocks, uint64_t num_pairs, BlockPairs *pairs,
                      std::vector<Run> *runs) {
    runs->clear();
    if (!cache.shape.blocks) {
        return Failure(LLDD_PARAM_INVALID, "the cache %lld has no blocks", Printable(cache.id));
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

Status PlanSwap(const lldd_swap_args &args, BlockPairs *pairs, std::vector<Run> *runs) {
    runs->clear();
    if (args.src_placement != LLDD_PLACEMENT_HOST && args.src_placement != LLDD_PLACEMENT_DEVICE) {
        return Failure(LLDD_PARAM_INVALID,
                       "src_placement is %u, allowed are %d (host) and %d (device)",
                       args.src_placement, LLDD_PLACEMENT_HOST, LLDD_PLACEMENT_DEVICE);
    }
    if (args.num_tensors == 0)
        return Failure(LLDD_PARAM_INVALID, "num_tensors is 0, the caches have no addresses");
    if (args.block_bytes == 0) return Failure(LLDD_PARAM_INVALID, "block_bytes is 0");
    // How many blocks an address space holds: more is known of neither side.
    const uint64_t limit = UINT64_MAX / args.block_bytes;
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
        return Failure(
            LLDD_PARAM_INVALID,
            "%s[%llu] is %llu, with blocks of %llu bytes past the end of the address space", list,
            Printable(place), Printable(index), Printable(args.block_bytes));
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
        if (src_addrs[i] > UINT64_MAX - src_bytes || dst_addrs[i] > UINT64_MAX - dst_bytes) {
            return Failure(
                LLDD_PARAM_INVALID,
                "tensor %llu from 0x%llx to 0x%llx would reach past the end of the address space",
                Printable(i), Printable(src_addrs[i]), Printable(dst_addrs[i]));
        }
    }
    PlanPairs(Selection{dst_addrs.data(), src_addrs.data(), args.num_tensors, 0, 0}, *pairs,
              args.block_bytes, 0, runs);
    return Status::Ok();
}

}  // namespace lldd
