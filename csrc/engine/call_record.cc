// SPDX-License-Identifier: Apache-2.0
#include "engine/call_record.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>

namespace lldd {
namespace {

int64_t AsNs(TransferTimes::Point point) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(point.time_since_epoch()).count();
}

void PutBigEndian(uint64_t number, uint8_t *to) {
    for (int i = 0; i < 8; ++i) to[i] = static_cast<uint8_t>(number >> (56 - 8 * i));
}

uint32_t Narrow(uint64_t number) {
    return static_cast<uint32_t>(std::min<uint64_t>(number, UINT32_MAX));
}

}  // namespace

CallRecord::CallRecord(Box *box, box::Kind kind, TransferScratch *scratch)
    : box_(box),
      scratch_(scratch),
      thread_(ThisTransferThread()),
      record_(box->Begin(box::kCalls)) {
    scratch_->pairs.clear();
    if (record_ == nullptr) return;
    if (thread_.id == 0) thread_.id = static_cast<uint32_t>(syscall(SYS_gettid));
    // The slot may have another record in it. What is asked writes its part, this the rest.
    record_->call.entry_ns = MonotonicNs();
    const TransferContext &context = thread_.context;
    if ((context.trace_high | context.trace_low) != 0) {
        record_->call.id_high = context.trace_high;
        record_->call.id_low = context.trace_low;
    } else {
        box->NewId(&record_->call.id_high, &record_->call.id_low);
    }
    record_->call.parent = context.span;
    record_->call.kind = kind;
    record_->call.thread = thread_.id;
    record_->call.told_ns = 0;
    record_->call.link = 0;
    record_->call.turn_ns = record_->call.first_byte_ns = 0;
    record_->call.bytes = 0;
    record_->call.paths = 0;
    thread_.record = scratch_->record = record_;
}

CallRecord::~CallRecord() {
    // Something was thrown.
    if (record_ != nullptr) Ended(Status(LLDD_FAILED, "an error inside the library"));
}

void CallRecord::SetNothing() {
    std::memset(&record_->call.peer, 0, offsetof(box::Call, kind) - offsetof(box::Call, peer));
    std::memset(&record_->call.cache_id, 0,
                offsetof(box::Call, told_ns) - offsetof(box::Call, cache_id));
}

void CallRecord::SetKey(const lldd_cache_key &key) {
    record_->call.key_kind = key.kind;
    record_->call.peer = key.cluster_id;
    record_->call.key_model = key.model_id;
    record_->call.key_req = key.req_id;
    record_->call.key_prefix = key.prefix_id;
    record_->call.key_cache_id = key.cache_id;
    record_->call.key_batch = key.batch_index;
}

void CallRecord::Asked(const lldd_pull_args &args, const lldd_cache_key &key) {
    if (record_ == nullptr) return;
    SetKey(key);
    record_->call.cache_id = args.cache_id;
    record_->call.batch = args.batch_index;
    record_->call.tensors_per_layer = args.tensors_per_layer;
    record_->call.src_layer = args.src_layer_start;
    record_->call.src_layers = args.src_layer_count;
    record_->call.dst_layer = args.dst_layer_start;
    record_->call.dst_layers = args.dst_layer_count;
    record_->call.num_src = Narrow(args.num_src_blocks);
    record_->call.num_dst = Narrow(args.num_dst_blocks);
    record_->call.size = args.size;
    Box::ShowBegun(record_);
}

void CallRecord::Asked(const lldd_push_args &args, const lldd_cache_key &key) {
    if (record_ == nullptr) return;
    SetKey(key);
    record_->call.cache_id = args.cache_id;
    record_->call.batch = args.src_batch_index;
    record_->call.tensors_per_layer = args.tensors_per_layer;
    record_->call.src_layer = args.src_layer_start;
    record_->call.src_layers = args.num_layers;
    record_->call.dst_layer = args.dst_layer_start;
    record_->call.dst_layers = args.num_layers;
    record_->call.num_src = Narrow(args.num_src_blocks);
    record_->call.num_dst = Narrow(args.num_dst_blocks);
    record_->call.size = 0;
    Box::ShowBegun(record_);
}

void CallRecord::Asked(const lldd_transfer_args &args, const lldd_cache_key &key) {
    if (record_ == nullptr) return;
    SetKey(key);
    if (args.key == nullptr) record_->call.peer = args.dst_cluster_id;
    record_->call.cache_id = args.cache_id;
    record_->call.batch = args.src_batch_index;
    record_->call.tensors_per_layer = args.tensors_per_layer;
    record_->call.src_layer = args.src_layer;
    record_->call.dst_layer = args.dst_layer;
    record_->call.src_layers = record_->call.dst_layers = 1;
    record_->call.num_src = Narrow(args.num_src_blocks);
    record_->call.num_dst = Narrow(args.num_dst_blocks);
    record_->call.size = static_cast<int64_t>(args.dst_block_size);
    Box::ShowBegun(record_);
}

void CallRecord::Asked(const lldd_copy_args &args) {
    if (record_ == nullptr) return;
    SetNothing();
    record_->call.cache_id = args.dst_cache_id;
    record_->call.batch = args.dst_batch_index;
    record_->call.key_kind = LLDD_KEY_ID;
    record_->call.key_cache_id = args.src_cache_id;
    record_->call.key_batch = args.src_batch_index;
    record_->call.key_model = args.offset;
    record_->call.size = args.size;
    Box::ShowBegun(record_);
}

void CallRecord::Asked(const lldd_swap_args &args) {
    if (record_ == nullptr) return;
    SetNothing();
    record_->call.batch = args.src_placement;
    record_->call.tensors_per_layer = Narrow(args.num_tensors);
    record_->call.num_src = record_->call.num_dst = Narrow(args.num_blocks);
    record_->call.size = static_cast<int64_t>(args.block_bytes);
    Box::ShowBegun(record_);
}

void CallRecord::Asked(int64_t cache_id, uint64_t num_pairs) {
    if (record_ == nullptr) return;
    SetNothing();
    record_->call.cache_id = cache_id;
    record_->call.num_src = record_->call.num_dst = Narrow(num_pairs);
    Box::ShowBegun(record_);
}

// The digest is FNV-1a over the 64-bit numbers.
void CallRecord::SetBlocks() {
    const BlockPairs &pairs = scratch_->pairs;
    size_t count = 0;
    for (const BlockRun *run = pairs.begin(); run != pairs.end() && count < box::kFirstBlocks;
         ++run)
        record_->call.blocks[count++] = {Narrow(run->local), Narrow(run->remote),
                                         Narrow(run->count)};
    record_->call.num_blocks = Narrow(pairs.size());
    record_->call.digest = 0;
    if (pairs.size() <= box::kFirstBlocks) return;
    uint64_t digest = 0xCBF29CE484222325;
    const auto add = [&digest](uint64_t number) { digest = (digest ^ number) * 0x100000001B3; };
    for (const BlockRun &run : pairs) {
        add(run.local);
        add(run.remote);
        add(run.count);
    }
    record_->call.digest = digest;
}

void CallRecord::Ended(const Status &status) {
    if (record_ == nullptr) return;
    thread_.record = scratch_->record = nullptr;
    SetBlocks();
    record_->call.status = status.code();
    record_->call.end_ns = MonotonicNs();
    // Before the record: a call that has failed has its text when it can be seen.
    if (!status.ok()) box_->Tell(box::kTexts, status.text(), Box::NumberOf(*record_));
    Box::Commit(record_);
    record_ = nullptr;
}

void AddTo(box::Record *record, uint32_t link, const TransferScratch &scratch) {
    box::Call *const call = &record->call;
    call->link = link;
    if (call->turn_ns == 0) call->turn_ns = AsNs(scratch.times.turn);
    if (call->first_byte_ns == 0) call->first_byte_ns = AsNs(scratch.times.first_byte);
    const PathBytes &moved = scratch.moved;
    static_assert(kNumPaths == 4);
    call->bytes += moved[0] + moved[1] + moved[2] + moved[3];
    const auto bit = [&moved](uint32_t path) { return uint32_t{moved[path] != 0} << path; };
    call->paths |= bit(0) | bit(1) | bit(2) | bit(3);
}

TransferId ThisTransfersId() {
    const box::Record *const record = ThisTransferThread().record;
    const TransferContext &context = ThisTransferThread().context;
    TransferId id;
    PutBigEndian(record != nullptr ? record->call.id_high : context.trace_high, id.data());
    PutBigEndian(record != nullptr ? record->call.id_low : context.trace_low, id.data() + 8);
    return id;
}

}  // namespace lldd
