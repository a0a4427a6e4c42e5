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

Status NotAccessible(const char *whose, int64_t cache_id) {
    return Failure(LLDD_PARAM_INVALID,
                   "cache %lld of %s is not remote accessible: it is registered with "
                   "remote_accessible=True, before link(), or by default if it is in device memory",
                   Printable(cache_id), whose);
}

Status AskOwner(Link *link, wire::Kind kind, const std::string &body, const Deadline &deadline,
                std::string *answer) {
    const Status status = link->channel().Call(kind, body, deadline, answer);
    if (status.ok()) return status;
    return Status(LLDD_TIMEOUT, status.text(), status.raw());
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

void Transfers::Tell(Status *ended, const Ending &ending, TransferScratch *scratch) const {
    const Status &status = *ended;
    if (scratch->record != nullptr) AddTo(scratch->record, ending.link.number(), *scratch);
    const bool watched = observers_->any();
    if (status.ok() && !watched) return;
    TransferRecord record;
    record.kind = ending.kind;
    record.link = &ending.link;
    record.key = ending.key;
    record.cache_id = ending.cache_id;
    record.pairs = &scratch->pairs;
    record.layer = ending.layer;
    record.layers = ending.layers;
    record.runs = scratch->bytes == 0 ? 0 : scratch->runs.size();
    record.bytes = scratch->bytes;
    record.moved = scratch->moved;
    record.status = ended;
    record.times = scratch->times;
    if (watched) {
        record.times.entry =
            ending.deadline.when() - std::chrono::milliseconds(options_.sync_timeout_ms);
        record.times.end = Deadline::Clock::now();
        observers_->Tell(record);
    }
    if (status.ok()) return;
    *ended = std::move(*ended).WithPrefix(TransferText(record) + ": ");
    if (status.code() == LLDD_TIMEOUT && record.bytes != 0) {
        *ended = std::move(*ended).WithSuffix(Format("; %llu of %llu bytes were moved",
                                                     Printable(record.bytes_moved()),
                                                     Printable(record.bytes)));
    }
    if (status.code() == LLDD_TIMEOUT && Deadline::Clock::now() >= ending.deadline.when()) {
        *ended = std::move(*ended).WithSuffix(
            Format("; a transfer may take %u ms (sync_kv_timeout)", options_.sync_timeout_ms));
    }
    ending.link.traffic().own.NoteFailure(status, status.text());
    scratch->failure_counted = true;
}

Status Transfers::Move(const Moved &moving, const Deadline &deadline,
                       TransferScratch *scratch) const {
    Connection *const connection = moving.link->connection();
    const std::vector<Run> &runs = moving.runs;
    scratch->bytes = BytesOf(runs);
    if (scratch->timed) scratch->times.first_byte = Deadline::Clock::now();
    Status status = moving.to_local ? connection->Read(runs.data(), runs.size(), deadline)
                                    : connection->Write(runs.data(), runs.size(), deadline);
    scratch->moved = connection->Moved();
    if (status.ok() && options_.verified_on != nullptr)
        status = Verify(options_.verified_on, moving, deadline);
    return status;
}

}  // namespace lldd
