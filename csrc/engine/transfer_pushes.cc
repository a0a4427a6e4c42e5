// Pushes: layers to a cache of the peer, and to addresses.
//
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "engine/token.h"
#include "engine/transfer_steps.h"
#include "engine/transfers.h"

namespace lldd {
namespace {

// A push of several layers as transfers of one: all of it but the layer.
lldd_transfer_args OneLayerOf(const lldd_push_args &args) {
    lldd_transfer_args one{};
    one.struct_size = sizeof one;
    one.tensors_per_layer = args.tensors_per_layer;
    one.key = args.key;
    one.cache_id = args.cache_id;
    one.src_blocks = args.src_blocks;
    one.num_src_blocks = args.num_src_blocks;
    one.dst_blocks = args.dst_blocks;
    one.num_dst_blocks = args.num_dst_blocks;
    one.src_batch_index = args.src_batch_index;
    one.token = args.token;
    return one;
}

}  // namespace

Status Transfers::Push(const lldd_push_args &args, const lldd_cache_key &key,
                       TransferScratch *scratch, uint32_t *layers_done) {
    *layers_done = 0;
    return Counted(scratch, [&]() -> Status {
        if (options_.mode != LLDD_MODE_ONE_SIDED) {
            return Failure(LLDD_PARAM_INVALID,
                           "a push needs one-sided mode (remote cache accessible) on both ends");
        }
        LLDD_RETURN_IF_ERROR(CheckTensorsPerLayer(args.tensors_per_layer));
        PushSource source;
        LLDD_RETURN_IF_ERROR(TargetOfPush(key, &source.target));
        const CachesInUse::Use use(in_use_, args.cache_id);
        LLDD_RETURN_IF_ERROR(store_->FindOwn(args.cache_id, &source.cache));
        source.scratch = scratch;
        scratch->pairs.clear();
        source.request.args = OneLayerOf(args);
        source.waited_ms = args.waited_ms;
        source.request.local = PlanOf(*source.cache);
        const uint32_t num_layers = args.num_layers != LLDD_ALL_LAYERS
                                        ? args.num_layers
                                        : source.cache->shape.num_tensors / args.tensors_per_layer;
        for (uint32_t layer = 0; layer < num_layers; ++layer) {
            if (args.src_layer_start > UINT32_MAX - layer ||
                args.dst_layer_start > UINT32_MAX - layer) {
                return Failure(LLDD_PARAM_INVALID, "the layer range ends past 2^32");
            }
            source.request.args.src_layer = args.src_layer_start + layer;
            source.request.args.dst_layer = args.dst_layer_start + layer;
            LLDD_RETURN_IF_ERROR(PushLayer(&source, key));
            *layers_done = layer + 1;
        }
        return Status::Ok();
    });
}

Status Transfers::TransferLayer(const lldd_transfer_args &args, const lldd_cache_key &key,
                                TransferScratch *scratch) {
    return Counted(scratch, [&]() -> Status {
        LLDD_RETURN_IF_ERROR(CheckTensorsPerLayer(args.tensors_per_layer));
        const bool to_addresses = options_.mode == LLDD_MODE_REQUEST;
        if (to_addresses && args.num_dst_addrs != args.tensors_per_layer) {
            return Failure(LLDD_PARAM_INVALID,
                           "%llu destination addresses are given for %u tensors a layer",
                           Printable(args.num_dst_addrs), args.tensors_per_layer);
        }
        PushSource source;
        if (!to_addresses) LLDD_RETURN_IF_ERROR(TargetOfPush(key, &source.target));
        const CachesInUse::Use use(in_use_, args.cache_id);
        LLDD_RETURN_IF_ERROR(store_->FindOwn(args.cache_id, &source.cache));
        source.scratch = scratch;
        scratch->pairs.clear();
        source.request = {args, PlanOf(*source.cache)};
        return to_addresses ? SendToAddresses(&source) : PushLayer(&source, key);
    });
}

Status Transfers::PushLayer(PushSource *source, const lldd_cache_key &key) {
    TransferScratch *const scratch = source->scratch;
    const lldd_transfer_args &args = source->request.args;
    scratch->Begin(observers_->any_wants_steps());
    const Deadline deadline =
        DeadlineAfter(std::exchange(source->waited_ms, 0), options_.sync_timeout_ms);
    std::shared_ptr<Link> link;
    LLDD_RETURN_IF_ERROR(FindLink(key.cluster_id, &link));
    const lldd_token *const token = args.token;
    Status status = InTurn(link, deadline, token, scratch, [&](const Deadline &until) {
        link->turn().AssertHeld();
        return PushLayerInTurn(source, key, link.get(), until);
    });
    if (status.ok()) link->traffic().own.CountPush(scratch->moved);
    const Ending ending{TransferKind::kPush, *link, &key,    args.cache_id,
                        args.src_layer,      1,     deadline};
    End(&status, ending, scratch);
    return status;
}

Status Transfers::PushLayerInTurn(PushSource *source, const lldd_cache_key &key, Link *link,
                                  const Deadline &deadline) {
    LLDD_RETURN_IF_ERROR(link->CheckUsable());
    LLDD_RETURN_IF_ERROR(
        CheckAccessible("this engine", source->cache->id, source->cache->remote_accessible));
    const PeerTable *table = nullptr;
    LLDD_RETURN_IF_ERROR(ReadTable(link, deadline, &table));
    const PeerTable::Found found = table->Find(source->target);
    if (found.cache == nullptr) return NotThere(*table, key);
    LLDD_RETURN_IF_ERROR(
        CheckAccessible("the peer", found.cache->id, found.cache->remote_accessible));
    if (!source->pairs_read) {
        // Once for all layers: the lists belong to the caller, who may be writing to them.
        LLDD_RETURN_IF_ERROR(CheckPush(source->request, &source->scratch->pairs));
        source->pairs_read = true;
    }
    std::vector<Run> &runs = source->scratch->runs;
    LLDD_RETURN_IF_ERROR(PlanPushLayer(source->request, source->scratch->pairs,
                                       PlanOf(*found.cache), found.batch_index, &runs));
    if (mismatches_.InTypes(link, *source->cache, *found.cache))
        source->scratch->notice_left = true;
    if (mismatches_.InDims(link, *source->cache, *found.cache)) source->scratch->notice_left = true;
    if (mismatches_.InPeersBlocks(link, *source->cache, found.cache->id, source->scratch->pairs))
        source->scratch->notice_left = true;
    LLDD_RETURN_IF_ERROR(
        Move({link, *source->cache, source->request.args.tensors_per_layer, runs, false}, deadline,
             source->scratch));
    return Status::Ok();
}

// Request mode names the destination by raw addresses; the peer says how far each of them reaches.
Status Transfers::SendToAddresses(PushSource *source) {
    const lldd_transfer_args &args = source->request.args;
    TransferScratch *const scratch = source->scratch;
    scratch->Begin(observers_->any_wants_steps());
    const Deadline deadline = Deadline::InMs(options_.sync_timeout_ms);
    std::shared_ptr<Link> link;
    LLDD_RETURN_IF_ERROR(FindLink(args.dst_cluster_id, &link));
    Status status = InTurn(link, deadline, args.token, scratch, [&](const Deadline &until) {
        link->turn().AssertHeld();
        return SendToAddressesInTurn(source, link.get(), until);
    });
    if (status.ok()) link->traffic().own.CountPush(scratch->moved);
    const Ending ending{
        TransferKind::kToAddresses, *link, nullptr, args.cache_id, args.src_layer, 1, deadline};
    End(&status, ending, scratch);
    return status;
}

Status Transfers::SendToAddressesInTurn(PushSource *source, Link *link, const Deadline &deadline) {
    const lldd_transfer_args &args = source->request.args;
    LLDD_RETURN_IF_ERROR(link->CheckUsable());
    LLDD_RETURN_IF_ERROR(CheckPush(source->request, &source->scratch->pairs));
    wire::Locate locate;
    locate.addrs.assign(args.dst_addrs, args.dst_addrs + args.num_dst_addrs);
    std::string answer;
    LLDD_RETURN_IF_ERROR(AskOwner(link, wire::kLocate, locate.Encode(), deadline, &answer));
    wire::LocateReply reply;
    if (!reply.Decode(answer)) return Failure(LLDD_FAILED, "the peer's answer cannot be read");
    LLDD_RETURN_IF_ERROR(reply.status.ToStatus());
    if (reply.places.size() != locate.addrs.size())
        return Failure(LLDD_FAILED, "the peer's answer cannot be read");
    std::vector<uint64_t> ends;
    ends.reserve(reply.places.size());
    for (const auto &place : reply.places) ends.push_back(place.end);
    std::vector<Run> &runs = source->scratch->runs;
    LLDD_RETURN_IF_ERROR(
        PlanLayerToAddresses(source->request, source->scratch->pairs, locate.addrs, ends, &runs));
    for (const auto &place : reply.places) {
        if (mismatches_.InTypeThere(link, *source->cache, place.data_type))
            source->scratch->notice_left = true;
    }
    if (mismatches_.InPeersBlocks(link, *source->cache, 0, source->scratch->pairs))
        source->scratch->notice_left = true;
    LLDD_RETURN_IF_ERROR(
        Move({link, *source->cache, source->request.args.tensors_per_layer, runs, false}, deadline,
             source->scratch));
    return Status::Ok();
}

}  // namespace lldd
