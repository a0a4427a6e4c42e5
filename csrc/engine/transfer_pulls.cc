// Pulls: one-sided ones, and those that ask the owner first.
//
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "base/codec.h"
#include "engine/transfer_steps.h"
#include "engine/transfers.h"

namespace lldd {

Status Transfers::Pull(const lldd_pull_args &args, const lldd_cache_key &key,
                       TransferScratch *scratch) {
    return Counted(scratch, [&]() -> Status {
        const Deadline deadline = DeadlineAfter(args.waited_ms, options_.sync_timeout_ms);
        scratch->Begin(observers_->any_wants_steps());
        LLDD_RETURN_IF_ERROR(CheckTensorsPerLayer(args.tensors_per_layer));
        if (key.cluster_id == options_.cluster_id) {
            return Failure(LLDD_PARAM_INVALID,
                           "the key names the own cluster %llu; a pull needs another one",
                           Printable(key.cluster_id));
        }
        const CachesInUse::Use use(in_use_, args.cache_id);
        CacheRef local;
        LLDD_RETURN_IF_ERROR(store_->FindOwn(args.cache_id, &local));
        const PullRequest request{args, PlanOf(*local)};
        LLDD_RETURN_IF_ERROR(CheckPull(request, &scratch->pairs));
        std::shared_ptr<Link> link;
        LLDD_RETURN_IF_ERROR(FindLink(key.cluster_id, &link));
        Status status = InTurn(link, deadline, args.token, scratch, [&](const Deadline &until) {
            link->turn().AssertHeld();
            return PullInTurn({key, request, *local}, link.get(), until, scratch);
        });
        const Ending ending{
            TransferKind::kPull,  *link,   &key, args.cache_id, args.src_layer_start,
            args.src_layer_count, deadline};
        End(&status, ending, scratch);
        return status;
    });
}

Status Transfers::PullInTurn(const PullCall &call, Link *link, const Deadline &deadline,
                             TransferScratch *scratch) {
    LLDD_RETURN_IF_ERROR(link->CheckUsable());
    LLDD_RETURN_IF_ERROR(CheckRequestSize(call, scratch->pairs));
    LLDD_RETURN_IF_ERROR(options_.mode == LLDD_MODE_ONE_SIDED
                             ? PullOneSided(call, link, deadline, scratch)
                             : PullByRequest(call, link, deadline, scratch));
    link->traffic().own.CountPull(scratch->moved);
    return Status::Ok();
}

Status Transfers::PullOneSided(const PullCall &call, Link *link, const Deadline &deadline,
                               TransferScratch *scratch) {
    const PeerTable *table = nullptr;
    LLDD_RETURN_IF_ERROR(ReadTable(link, deadline, &table));
    PeerTable::Found found;
    const std::optional<KeyTarget> target = TargetOfPull(call.key);
    if (target.has_value()) found = table->Find(*target);
    if (found.cache == nullptr) return NotThere(*table, call.key);
    LLDD_RETURN_IF_ERROR(
        CheckAccessible("this engine", call.local.id, call.local.remote_accessible));
    LLDD_RETURN_IF_ERROR(
        CheckAccessible("the peer", found.cache->id, found.cache->remote_accessible));
    std::vector<Run> &runs = scratch->runs;
    LLDD_RETURN_IF_ERROR(
        PlanPull(call.request, scratch->pairs, PlanOf(*found.cache), found.batch_index, &runs));
    LookAtPull(call, *found.cache, link, scratch);
    return Move({link, call.local, call.request.args.tensors_per_layer, runs, true}, deadline,
                scratch);
}

void Transfers::LookAtPull(const PullCall &call, const PeerCache &remote, Link *link,
                           TransferScratch *scratch) const {
    if (mismatches_.InTypes(link, call.local, remote)) scratch->notice_left = true;
    if (mismatches_.InDims(link, call.local, remote)) scratch->notice_left = true;
    if (mismatches_.InOwnBlocks(link, call.local, remote.id, scratch->pairs))
        scratch->notice_left = true;
}

// The owner resolves the key and pins the cache; this end reads, and then says how it went.
Status Transfers::PullByRequest(const PullCall &call, Link *link, const Deadline &deadline,
                                TransferScratch *scratch) {
    wire::Resolve resolve;
    resolve.key = call.key;
    resolve.pin = link->NextPin();
    wire::Release release;
    release.pin = resolve.pin;
    std::string answer;
    Status status = AskOwner(link, wire::kResolve, resolve.Encode(), deadline, &answer);
    if (!status.ok()) {
        // The answer may still come: no call will use what it pins.
        link->channel().Tell(wire::kRelease, release.Encode());
        return status;
    }
    wire::ResolveReply reply;
    if (!reply.Decode(answer)) return Failure(LLDD_FAILED, "the peer's answer cannot be read");
    LLDD_RETURN_IF_ERROR(reply.status.ToStatus());

    PeerCache remote;
    Reader reader(reply.cache);
    std::vector<Run> &runs = scratch->runs;
    if (!DecodeCache(&reader, mismatches_.look_closely(), &remote)) {
        status = Failure(LLDD_FAILED, "the peer sent a cache that cannot be read");
    }
    if (status.ok())
        status = PlanPull(call.request, scratch->pairs, PlanOf(remote), reply.batch_index, &runs);
    if (status.ok()) status = CheckDirection(call, remote.shape, reply.owner_has_device_pool);
    if (status.ok()) LookAtPull(call, remote, link, scratch);
    const lldd_pull_args &args = call.request.args;
    if (status.ok())
        status = Move({link, call.local, args.tensors_per_layer, runs, true}, deadline, scratch);

    release.done = status.ok();
    const uint64_t first_tensor = uint64_t{args.src_layer_start} * args.tensors_per_layer;
    const uint64_t num_tensors = uint64_t{args.src_layer_count} * args.tensors_per_layer;
    if (num_tensors != 0 && first_tensor + num_tensors <= remote.shape.num_tensors) {
        release.first_tensor = static_cast<uint32_t>(first_tensor);
        release.num_tensors = static_cast<uint32_t>(num_tensors);
    }
    if (!release.done) {
        link->channel().Tell(wire::kRelease, release.Encode());
        return status;
    }
    // A call that asks after this pull has returned must find the key used up.
    return AskOwner(link, wire::kRelease, release.Encode(), deadline, &answer);
}

// What fits a request to the device: 5.3 of the contract.
Status Transfers::CheckRequestSize(const PullCall &call, const BlockPairs &pairs) const {
    if (!options_.strict_hardware) return Status::Ok();
    const lldd_pull_args &args = call.request.args;
    const bool by_request = options_.mode == LLDD_MODE_REQUEST;
    const bool to_device = call.local.shape.placement == Placement::kDevice;
    const uint64_t tensors = args.dst_layer_count != 0
                                 ? uint64_t{args.dst_layer_count} * args.tensors_per_layer
                                 : call.local.shape.num_tensors;
    // Only lists of two paged caches are merged.
    const uint64_t runs = args.num_dst_blocks == 0   ? 1
                          : args.num_src_blocks == 0 ? args.num_dst_blocks
                                                     : pairs.size();
    const uint64_t limit = by_request ? 7160 : 131064;
    if (tensors + 2 * runs > limit) {
        return Failure(LLDD_PARAM_INVALID,
                       "%llu tensors and %llu runs of blocks do not fit a request: tensors + 2 * "
                       "runs is at most %llu",
                       Printable(tensors), Printable(runs), Printable(limit));
    }
    if (by_request && to_device && tensors > 2043) {
        return Failure(LLDD_PARAM_INVALID,
                       "%llu tensors in device memory, a request has at most 2043",
                       Printable(tensors));
    }
    if (by_request && !to_device && args.num_src_blocks > 7158) {
        return Failure(LLDD_PARAM_INVALID,
                       "%llu source blocks for host memory, a request has at most 7158",
                       Printable(args.num_src_blocks));
    }
    return Status::Ok();
}

// Which placements request mode serves. The pools are what a device stages through; here only their
// being there counts.
Status Transfers::CheckDirection(const PullCall &call, const CacheShape &source,
                                 bool owner_has_device_pool) const {
    const bool from_device = source.placement == Placement::kDevice;
    const bool to_device = call.local.shape.placement == Placement::kDevice;
    if (from_device && to_device) return Status::Ok();
    if (!to_device && !options_.has_device_pool) {
        return Failure(LLDD_PARAM_INVALID,
                       "a pull into host memory needs a device pool in this engine");
    }
    if (!from_device && !owner_has_device_pool) {
        return Failure(LLDD_PARAM_INVALID,
                       "a pull from host memory needs a device pool in the peer's engine");
    }
    if (!from_device && !to_device) {
        return Failure(LLDD_FEATURE_NOT_ENABLED,
                       "request mode does not pull from host memory into host memory");
    }
    if (!from_device && !source.blocks && call.local.shape.blocks) {
        return Failure(
            LLDD_PARAM_INVALID,
            "request mode does not pull from a contiguous cache in host memory into blocks");
    }
    return Status::Ok();
}

}  // namespace lldd
