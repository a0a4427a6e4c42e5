// SPDX-License-Identifier: Apache-2.0
#include "engine/local_copies.h"

#include <utility>

#include "base/deadline.h"
#include "base/interruption.h"
#include "engine/plan_copy.h"

namespace lldd {
namespace {

// The contract gives local copies no deadline; this one only keeps them from lasting indefinitely.
constexpr uint64_t kLocalCopyMs = 600'000;

}  // namespace

Status LocalCopies::Move(const std::vector<Run> &runs, Placement to, Placement from) {
    if (!runs.empty()) {
        Interruption call;
        const Deadline deadline = Deadline::InMs(kLocalCopyMs).InterruptedBy(&call);
        Status status = device_->Copy(runs.data(), runs.size(), to, from, deadline);
        LLDD_RETURN_IF_ERROR(WithCause(std::move(status), deadline.cause()));
    }
    count_.fetch_add(1, std::memory_order_relaxed);
    return Status::Ok();
}

Status LocalCopies::Copy(const lldd_copy_args &args, TransferScratch *scratch) {
    const CachesInUse::Use use_src(in_use_, args.src_cache_id);
    const CachesInUse::Use use_dst(in_use_, args.dst_cache_id);
    CacheRef src;
    CacheRef dst;
    LLDD_RETURN_IF_ERROR(store_->FindOwn(args.src_cache_id, &src));
    LLDD_RETURN_IF_ERROR(store_->FindOwn(args.dst_cache_id, &dst));
    LLDD_RETURN_IF_ERROR(PlanCopy(args, PlanOf(*src), PlanOf(*dst), &scratch->runs));
    return Move(scratch->runs, dst->shape.placement, src->shape.placement);
}

Status LocalCopies::CopyBlocks(int64_t cache_id, const uint64_t *src_blocks,
                               const uint64_t *dst_blocks, uint64_t num_pairs,
                               TransferScratch *scratch) {
    const CachesInUse::Use use(in_use_, cache_id);
    CacheRef cache;
    LLDD_RETURN_IF_ERROR(store_->FindOwn(cache_id, &cache));
    LLDD_RETURN_IF_ERROR(PlanBlocksCopy(PlanOf(*cache), src_blocks, dst_blocks, num_pairs,
                                        &scratch->pairs, &scratch->runs));
    return Move(scratch->runs, cache->shape.placement, cache->shape.placement);
}

Status LocalCopies::SwapBlocks(const lldd_swap_args &args, TransferScratch *scratch) {
    LLDD_RETURN_IF_ERROR(PlanSwap(args, &scratch->pairs, &scratch->runs));
    const bool from_device = args.src_placement == LLDD_PLACEMENT_DEVICE;
    return Move(scratch->runs, from_device ? Placement::kHost : Placement::kDevice,
                from_device ? Placement::kDevice : Placement::kHost);
}

}  // namespace lldd
