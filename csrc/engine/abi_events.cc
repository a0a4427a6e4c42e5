// The exported functions that tell of transfers one by one.
//
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <memory>

#include "base/status.h"
#include "engine/abi_call.h"
#include "engine/abi_structs.h"
#include "engine/abi_traffic.h"
#include "engine/engine.h"
#include "llm_datadist.h"

using lldd::Engine;
using lldd::Failure;
using lldd::Status;
using lldd::TransferEvent;

namespace {

static_assert(LLDD_EVENT_PULL == static_cast<int>(lldd::TransferKind::kPull) &&
              LLDD_EVENT_PUSH == static_cast<int>(lldd::TransferKind::kPush) &&
              LLDD_EVENT_TO_ADDRESSES == static_cast<int>(lldd::TransferKind::kToAddresses));

lldd_event StructOf(const TransferEvent &event) {
    lldd_event written{};
    written.kind = static_cast<uint32_t>(event.kind);
    written.by_peer = event.by_peer ? 1 : 0;
    written.status = event.status;
    written.link = event.link;
    written.peer_cluster_id = event.peer;
    std::memcpy(written.transfer_id, event.id.data(), event.id.size());
    written.layer = event.layer;
    written.layers = event.layers;
    written.key_kind = event.key.kind;
    written.key_batch_index = event.key.batch_index;
    written.key_cluster_id = event.key.cluster_id;
    written.key_model_id = event.key.model_id;
    written.key_req_id = event.key.req_id;
    written.key_prefix_id = event.key.prefix_id;
    written.key_cache_id = event.key.cache_id;
    written.cache_id = event.cache_id;
    written.bytes = event.bytes;
    written.moved = event.moved;
    written.num_runs = event.runs.size();
    written.all_blocks = event.all_blocks ? 1 : 0;
    written.lost = event.lost;
    written.time_us = lldd::abi::WallUs(event.end);
    lldd::abi::CopyText(event.text, written.text);
    return written;
}

}  // namespace

lldd_status lldd_events_open(lldd_engine *handle, uint32_t capacity, int32_t *fd) {
    return lldd::abi::OnEngine(handle, [&](Engine &engine) -> Status {
        if (fd == nullptr || capacity == 0)
            return Failure(LLDD_PARAM_INVALID, "fd must not be null, capacity not 0");
        return engine.OpenEvents(capacity, fd);
    });
}

lldd_status lldd_events_close(lldd_engine *handle) {
    return lldd::abi::OnEngine(handle, [&](Engine &engine) -> Status {
        engine.events().Close();
        return Status::Ok();
    });
}

lldd_status lldd_events_take(lldd_engine *handle, lldd_event *event, uint64_t *runs,
                             uint64_t capacity) {
    return lldd::abi::OnEngine(handle, [&](Engine &engine) -> Status {
        LLDD_RETURN_IF_ERROR(lldd::abi::CheckOut("event", event));
        if (runs == nullptr && capacity != 0) return Failure(LLDD_PARAM_INVALID, "runs is null");
        std::shared_ptr<const TransferEvent> first;
        LLDD_RETURN_IF_ERROR(engine.events().First(&first));
        lldd_event written{};
        if (first != nullptr) written = StructOf(*first);
        lldd::abi::WriteStruct(written, event);
        if (first == nullptr || first->runs.size() > capacity) return Status::Ok();
        for (const lldd::BlockRun &run : first->runs) {
            *runs++ = run.local;
            *runs++ = run.remote;
            *runs++ = run.count;
        }
        engine.events().Drop(first);
        return Status::Ok();
    });
}
