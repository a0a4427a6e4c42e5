// SPDX-License-Identifier: Apache-2.0
#include "engine/transfers.h"

#include <chrono>
#include <string>
#include <utility>

#include "engine/call_record.h"
#include "engine/transfer_steps.h"

namespace lldd {
namespace {

uint64_t BytesOf(const std::vector<Run> &runs) {
    uint64_t bytes = 0;
    for (const Run &run : runs) bytes += run.length;
    return bytes;
}

}  // namespace

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

Status Transfers::End(Status status, const Ending &ending, TransferScratch *scratch) const {
    if (scratch->record != nullptr) AddTo(scratch->record, ending.link.number(), *scratch);
    const bool watched = observers_->any();
    if (status.ok() && !watched) return status;
    TransferRecord record;
    record.kind = ending.kind;
    record.link = &ending.link;
    record.key = ending.key;
    record.cache_id = ending.cache_id;
    record.pairs = &scratch->pairs;
    record.layer = ending.layer;
    record.layers = ending.layers;
    record.runs = scratch->runs.size();
    record.bytes = scratch->bytes;
    record.moved = scratch->moved;
    record.status = &status;
    record.times = scratch->times;
    if (watched) {
        record.times.entry =
            ending.deadline.when() - std::chrono::milliseconds(options_.sync_timeout_ms);
        record.times.end = Deadline::Clock::now();
        observers_->Tell(record);
    }
    if (status.ok()) return status;
    status = std::move(status).WithPrefix(TransferText(record) + ": ");
    if (status.code() != LLDD_TIMEOUT || Deadline::Clock::now() < ending.deadline.when())
        return status;
    return std::move(status).WithSuffix(
        Format("; a transfer may take %u ms (sync_kv_timeout)", options_.sync_timeout_ms));
}

Status Transfers::ReadTable(Link *link, const Deadline &deadline, const PeerTable **table) {
    bool was_read = false;
    Status status = link->Table(deadline, mismatches_.look_closely(), table, &was_read);
    if (was_read) counters_.table_reads.fetch_add(1, std::memory_order_relaxed);
    return status;
}

Status Transfers::Move(const Moved &moving, const Deadline &deadline,
                       TransferScratch *scratch) const {
    Connection *const connection = moving.link->connection();
    const std::vector<Run> &runs = moving.runs;
    scratch->bytes = BytesOf(runs);
    if (scratch->timed) scratch->times.first_byte = Deadline::Clock::now();
    Status status = moving.to_local ? connection->Read(runs.data(), runs.size(), deadline)
                                    : connection->Write(runs.data(), runs.size(), deadline);
    if (!status.ok() || scratch->record != nullptr || observers_->any())
        scratch->moved = connection->Moved();
    LLDD_RETURN_IF_ERROR(std::move(status));
    if (options_.verified_on == nullptr) return Status::Ok();
    return Verify(options_.verified_on, moving, deadline);
}

}  // namespace lldd
