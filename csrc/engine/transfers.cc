// SPDX-License-Identifier: Apache-2.0
#include "engine/transfers.h"

#include <algorithm>
#include <utility>

#include "base/codec.h"
#include "engine/token.h"

namespace lldd {
namespace {

uint64_t BytesOf(const std::vector<Run> &runs) {
    uint64_t bytes = 0;
    for (const Run &run : runs) bytes += run.length;
    return bytes;
}

Status NotThere(const PeerTable &table, const lldd_cache_key &key) {
    return Failure(
        LLDD_KV_CACHE_NOT_EXIST,
        "the peer has no cache under %s; when this link first used its table it had %s",
        KeyText(key).c_str(),
        (key.kind == LLDD_KEY_BLOCKS ? table.DescribeBlocksNames() : table.DescribeIds()).c_str());
}

Status CheckAccessible(const char *whose, int64_t cache_id, bool accessible) {
    if (accessible) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID,
                   "cache %lld of %s is not remote accessible: it is registered with "
                   "remote_accessible=True, before link(), or by default if it is in device memory",
                   Printable(cache_id), whose);
}

// A request to the owner of a cache; it counts as part of the transfer.
Status AskOwner(Link *link, wire::Kind kind, const std::string &body, const Deadline &deadline,
                std::string *answer) {
    const Status status = link->channel().Call(kind, body, deadline, answer);
    if (status.ok()) return status;
    return Status(LLDD_TIMEOUT, status.text(), status.raw());
}

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

// That of a transfer whose caller has waited so long already.
Deadline DeadlineAfter(uint32_t waited_ms, uint32_t sync_timeout_ms) {
    return Deadline::InMs(sync_timeout_ms - std::min(waited_ms, sync_timeout_ms));
}

// Runs body(until) with the turn of the link, for which other transfers of it are waited for. The
// deadline is that of the whole call; `until` is the same one, which ends with the link, or with the
// token.
template <typename Body>
Status InTurn(const std::shared_ptr<Link> &link, const Deadline &deadline, const lldd_token *token,
              const Body &body) {
    Interruption call(&link->interruption(), token == nullptr ? nullptr : &token->interruption);
    const Deadline until = deadline.InterruptedBy(&call);
    const Link::Turn turn(link, until);
    if (until.cause() != InterruptCause::kNone) return Interrupted(until.cause());
    if (!turn) return Failure(LLDD_TIMEOUT, "not done in time: other transfers have the link");
    // The text says what a push has left behind.
    Status status = body(until);
    return WithCause(std::move(status), until.cause());
}

}  // namespace

Status Transfers::Count(Status status) {
    if (status.ok()) return status;
    counters_.failures.fetch_add(1, std::memory_order_relaxed);
    if (status.code() == LLDD_TIMEOUT) counters_.timeouts.fetch_add(1, std::memory_order_relaxed);
    return status;
}

Status Transfers::FindLink(uint64_t cluster_id, std::shared_ptr<Link> *link) const {
    *link = links_->Find(cluster_id);
    if (*link != nullptr) return Status::Ok();
    // As many as a person reads.
    constexpr size_t kShown = 16;
    size_t count = 0;
    std::string linked;
    for (const uint64_t peer : links_->SomePeers(kShown, &count))
        linked += Format("%s %llu", linked.empty() ? "" : ",", Printable(peer));
    if (count > kShown) linked += Format(" and %zu more", count - kShown);
    return Failure(LLDD_NOT_YET_LINK, "cluster %llu has no link to cluster %llu; %s%s",
                   Printable(options_.cluster_id), Printable(cluster_id),
                   linked.empty() ? "it has no links" : "it has links to", linked.c_str());
}

// A transfer is over: tells the log of it, and the caller of a failed one what() it was, and when its
// time was over, how long that is and who says so.
template <typename What>
Status Transfers::Ended(Status status, const Link &link, uint64_t bytes, const Deadline &deadline,
                        const What &what) const {
    if (log_.tells()) log_.Tell(link, what(), status.ok() ? bytes : 0, deadline, status);
    if (status.ok()) return status;
    status = std::move(status).WithPrefix(what() + ": ");
    if (status.code() != LLDD_TIMEOUT || Deadline::Clock::now() < deadline.when()) return status;
    return std::move(status).WithSuffix(
        Format("; a transfer may take %u ms (sync_kv_timeout)", options_.sync_timeout_ms));
}

Status Transfers::ReadTable(Link *link, const Deadline &deadline, const PeerTable **table) {
    bool was_read = false;
    Status status = link->Table(deadline, mismatches_.look_closely(), table, &was_read);
    if (was_read) counters_.table_reads.fetch_add(1, std::memory_order_relaxed);
    return status;
}

Status Transfers::Move(const Moved &moving, const Deadline &deadline) const {
    Connection *const connection = moving.link->connection();
    const std::vector<Run> &runs = moving.runs;
    LLDD_RETURN_IF_ERROR(moving.to_local ? connection->Read(runs.data(), runs.size(), deadline)
                                         : connection->Write(runs.data(), runs.size(), deadline));
    if (options_.verified_on == nullptr) return Status::Ok();
    return Verify(options_.verified_on, moving, deadline);
}

// ---- pulls ----

Status Transfers::Pull(const lldd_pull_args &args, const lldd_cache_key &key,
                       TransferScratch *scratch) {
    return Count([&]() -> Status {
        const Deadline deadline = DeadlineAfter(args.waited_ms, options_.sync_timeout_ms);
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
        Status status = InTurn(link, deadline, args.token, [&](const Deadline &until) {
            link->turn().AssertHeld();
            return PullInTurn({key, request, *local}, link.get(), until, scratch);
        });
        return Ended(std::move(status), *link, BytesOf(scratch->runs), deadline,
                     [&] { return "pull of " + KeyText(key) + " from " + link->peer_name(); });
    }());
}

Status Transfers::PullInTurn(const PullCall &call, Link *link, const Deadline &deadline,
                             TransferScratch *scratch) {
    LLDD_RETURN_IF_ERROR(link->CheckUsable());
    LLDD_RETURN_IF_ERROR(CheckRequestSize(call, scratch->pairs));
    LLDD_RETURN_IF_ERROR(options_.mode == LLDD_MODE_ONE_SIDED
                             ? PullOneSided(call, link, deadline, scratch)
                             : PullByRequest(call, link, deadline, scratch));
    const uint64_t bytes = BytesOf(scratch->runs);
    counters_.pulls.fetch_add(1, std::memory_order_relaxed);
    counters_.bytes_in.fetch_add(bytes, std::memory_order_relaxed);
    link->counters.pulls.fetch_add(1, std::memory_order_relaxed);
    link->counters.bytes_in.fetch_add(bytes, std::memory_order_relaxed);
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
    return Move({link, call.local, call.request.args.tensors_per_layer, runs, true}, deadline);
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
        status = Move({link, call.local, args.tensors_per_layer, runs, true}, deadline);

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

// ---- pushes ----

Status Transfers::Push(const lldd_push_args &args, const lldd_cache_key &key,
                       TransferScratch *scratch, uint32_t *layers_done) {
    *layers_done = 0;
    return Count([&]() -> Status {
        if (options_.mode != LLDD_MODE_ONE_SIDED) {
            return Failure(LLDD_PARAM_INVALID,
                           "a push needs one-sided mode (remote cache accessible) on both ends");
        }
        LLDD_RETURN_IF_ERROR(CheckTensorsPerLayer(args.tensors_per_layer));
        PushSource source;
        LLDD_RETURN_IF_ERROR(TargetOfPush(key, &source.target));
        const CachesInUse::Use use(in_use_, args.cache_id);
        LLDD_RETURN_IF_ERROR(store_->FindOwn(args.cache_id, &source.cache));
        source.pairs = &scratch->pairs;
        source.runs = &scratch->runs;
        source.notice_left = &scratch->notice_left;
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
    }());
}

Status Transfers::TransferLayer(const lldd_transfer_args &args, const lldd_cache_key &key,
                                TransferScratch *scratch) {
    return Count([&]() -> Status {
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
        source.pairs = &scratch->pairs;
        source.runs = &scratch->runs;
        source.notice_left = &scratch->notice_left;
        source.request = {args, PlanOf(*source.cache)};
        return to_addresses ? SendToAddresses(&source) : PushLayer(&source, key);
    }());
}

Status Transfers::PushLayer(PushSource *source, const lldd_cache_key &key) {
    const Deadline deadline =
        DeadlineAfter(std::exchange(source->waited_ms, 0), options_.sync_timeout_ms);
    std::shared_ptr<Link> link;
    LLDD_RETURN_IF_ERROR(FindLink(key.cluster_id, &link));
    uint64_t bytes = 0;
    const lldd_token *const token = source->request.args.token;
    Status status = InTurn(link, deadline, token, [&](const Deadline &until) {
        link->turn().AssertHeld();
        return PushLayerInTurn(source, key, link.get(), until, &bytes);
    });
    if (status.ok()) CountPush(link.get(), bytes);
    return Ended(std::move(status), *link, bytes, deadline, [&] {
        return Format("push of layer %u to %s of %s", source->request.args.src_layer,
                      KeyText(key).c_str(), link->peer_name().c_str());
    });
}

void Transfers::CountPush(Link *link, uint64_t bytes) {
    counters_.pushes.fetch_add(1, std::memory_order_relaxed);
    counters_.bytes_out.fetch_add(bytes, std::memory_order_relaxed);
    link->counters.pushes.fetch_add(1, std::memory_order_relaxed);
    link->counters.bytes_out.fetch_add(bytes, std::memory_order_relaxed);
}

Status Transfers::PushLayerInTurn(PushSource *source, const lldd_cache_key &key, Link *link,
                                  const Deadline &deadline, uint64_t *bytes) {
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
        LLDD_RETURN_IF_ERROR(CheckPush(source->request, source->pairs));
        source->pairs_read = true;
    }
    std::vector<Run> &runs = *source->runs;
    LLDD_RETURN_IF_ERROR(PlanPushLayer(source->request, *source->pairs, PlanOf(*found.cache),
                                       found.batch_index, &runs));
    if (mismatches_.InTypes(link, *source->cache, *found.cache)) *source->notice_left = true;
    if (mismatches_.InDims(link, *source->cache, *found.cache)) *source->notice_left = true;
    if (mismatches_.InPeersBlocks(link, *source->cache, found.cache->id, *source->pairs))
        *source->notice_left = true;
    LLDD_RETURN_IF_ERROR(Move(
        {link, *source->cache, source->request.args.tensors_per_layer, runs, false}, deadline));
    *bytes = BytesOf(runs);
    return Status::Ok();
}

// Request mode names the destination by raw addresses; the peer says how far each of them reaches.
Status Transfers::SendToAddresses(PushSource *source) {
    const lldd_transfer_args &args = source->request.args;
    const Deadline deadline = Deadline::InMs(options_.sync_timeout_ms);
    std::shared_ptr<Link> link;
    LLDD_RETURN_IF_ERROR(FindLink(args.dst_cluster_id, &link));
    uint64_t bytes = 0;
    Status status = InTurn(link, deadline, args.token, [&](const Deadline &until) {
        link->turn().AssertHeld();
        return SendToAddressesInTurn(source, link.get(), until, &bytes);
    });
    if (status.ok()) CountPush(link.get(), bytes);
    return Ended(std::move(status), *link, bytes, deadline, [&] {
        return Format("transfer of layer %u to %s", args.src_layer, link->peer_name().c_str());
    });
}

Status Transfers::SendToAddressesInTurn(PushSource *source, Link *link, const Deadline &deadline,
                                        uint64_t *bytes) {
    const lldd_transfer_args &args = source->request.args;
    LLDD_RETURN_IF_ERROR(link->CheckUsable());
    LLDD_RETURN_IF_ERROR(CheckPush(source->request, source->pairs));
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
    std::vector<Run> &runs = *source->runs;
    LLDD_RETURN_IF_ERROR(
        PlanLayerToAddresses(source->request, *source->pairs, locate.addrs, ends, &runs));
    for (const auto &place : reply.places) {
        if (mismatches_.InTypeThere(link, *source->cache, place.data_type))
            *source->notice_left = true;
    }
    if (mismatches_.InPeersBlocks(link, *source->cache, 0, *source->pairs))
        *source->notice_left = true;
    LLDD_RETURN_IF_ERROR(Move(
        {link, *source->cache, source->request.args.tensors_per_layer, runs, false}, deadline));
    *bytes = BytesOf(runs);
    return Status::Ok();
}

}  // namespace lldd
