// The exported functions that tell what transfers have come to.
//
// SPDX-License-Identifier: Apache-2.0
#include "engine/abi_traffic.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/status.h"
#include "engine/abi_call.h"
#include "engine/abi_structs.h"
#include "engine/engine.h"
#include "engine/traffic.h"

namespace lldd::abi {
namespace {

static_assert(sizeof(lldd_traffic::bytes_pulled) == sizeof(PathBytes));
static_assert(sizeof(lldd_traffic::failures) == sizeof(FailureCounts));
static_assert(sizeof(lldd_traffic::latency) == sizeof(LatencyCounts));
static_assert(kFailureStatuses[LLDD_FAILURE_TIMEOUT] == LLDD_TIMEOUT &&
              kFailureStatuses[LLDD_FAILURE_SUSPECT_REMOTE_ERROR] == LLDD_SUSPECT_REMOTE_ERROR &&
              LLDD_FAILURE_OTHER == kFailureKinds - 1);
static_assert(kPathNames[LLDD_PATH_HIXL][0] == 'h');

// A moment of this process's clock as microseconds since 1970; 0: never.
uint64_t WallUs(TrafficNumbers::Point at) {
    if (at == TrafficNumbers::Point()) return 0;
    const auto age = TrafficNumbers::Point::clock::now() - at;
    const auto wall = std::chrono::system_clock::now().time_since_epoch() - age;
    return static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(wall).count());
}

lldd_traffic RowOf(uint32_t side, const TrafficNumbers &numbers) {
    lldd_traffic row{};
    row.side = side;
    row.pulls = numbers.pulls;
    row.pushes = numbers.pushes;
    std::copy(numbers.pulled.begin(), numbers.pulled.end(), row.bytes_pulled);
    std::copy(numbers.pushed.begin(), numbers.pushed.end(), row.bytes_pushed);
    std::copy(numbers.failures.begin(), numbers.failures.end(), row.failures);
    std::copy(numbers.latency.begin(), numbers.latency.end(), row.latency);
    row.latency_us = numbers.latency_us;
    row.last_success_us = WallUs(numbers.last_success);
    row.last_error_us = WallUs(numbers.last_error.at);
    row.last_error_status = numbers.last_error.status;
    CopyText(numbers.last_error.text, row.last_error);
    return row;
}

lldd_traffic RowOf(const Link &link, uint32_t side, const TrafficNumbers &numbers) {
    lldd_traffic row = RowOf(side, numbers);
    row.peer_cluster_id = link.peer();
    row.link = link.number();
    row.state = StateOf(link);
    CopyText(link.identity().peer_address.ToString(), row.peer_address);
    return row;
}

std::vector<lldd_traffic> AllRows(const Engine &engine) {
    std::vector<lldd_traffic> rows;
    rows.push_back(RowOf(LLDD_SIDE_OWN, engine.traffic().Own()));
    rows.push_back(RowOf(LLDD_SIDE_PEER, engine.traffic().Peers()));
    for (const auto &link : engine.links().Everything()) {
        // Others are being made.
        if (!link->established()) continue;
        rows.push_back(RowOf(*link, LLDD_SIDE_OWN, link->traffic().own.Read()));
        rows.push_back(RowOf(*link, LLDD_SIDE_PEER, link->traffic().Peers()));
    }
    return rows;
}

}  // namespace

uint32_t StateOf(const Link &link) {
    if (link.unlinked()) return LLDD_LINK_CLOSING;
    if (link.peer_gone()) return LLDD_LINK_PEER_GONE;
    return link.silent() ? LLDD_LINK_SILENT : LLDD_LINK_LIVE;
}

lldd_link_info InfoOf(const Link &link) {
    const TrafficNumbers own = link.traffic().own.Read();
    const TrafficNumbers peers = link.traffic().Peers();
    lldd_link_info info{};
    info.state = StateOf(link);
    info.peer_cluster_id = link.peer();
    info.comm_id = link.identity().comm_id;
    info.pulls = own.pulls;
    info.pushes = own.pushes;
    info.bytes_in = own.bytes_pulled();
    info.bytes_out = own.bytes_pushed();
    info.is_initiator = link.identity().end == LinkEnd::kInitiator ? 1 : 0;
    info.number = link.number();
    CopyText(link.identity().peer_address.ToString(), info.peer_address);
    std::copy(own.failures.begin(), own.failures.end(), info.failures);
    info.last_success_us = WallUs(own.last_success);
    info.last_error_us = WallUs(own.last_error.at);
    info.last_error_status = own.last_error.status;
    CopyText(own.last_error.text, info.last_error);
    info.peer_pulls = peers.pulls;
    info.peer_pushes = peers.pushes;
    info.peer_bytes_in = peers.bytes_pushed();
    info.peer_bytes_out = peers.bytes_pulled();
    info.peer_failures = peers.failed();
    return info;
}

}  // namespace lldd::abi

lldd_status lldd_engine_traffic(lldd_engine *handle, lldd_traffic *rows, uint64_t capacity,
                                uint64_t *count) {
    using namespace lldd;
    return abi::OnEngine(handle, [&](Engine &engine) -> Status {
        if (count == nullptr) return Failure(LLDD_PARAM_INVALID, "count is null");
        return abi::WriteList(abi::AllRows(engine), "rows", rows, capacity, count);
    });
}
