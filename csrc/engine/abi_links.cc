// The exported functions of links and communicators.
//
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "engine/abi_call.h"
#include "engine/abi_structs.h"
#include "engine/abi_traffic.h"
#include "engine/box_events.h"
#include "engine/engine.h"
#include "llm_datadist.h"

namespace {

using lldd::Engine;
using lldd::Failure;
using lldd::Printable;
using lldd::Status;
using lldd::abi::CheckOut;
using lldd::abi::CopyText;
using lldd::abi::OnEngine;
using lldd::abi::ReadArray;
using lldd::abi::ReadStruct;
using lldd::abi::WriteElement;
using lldd::abi::WriteList;

Status ReadClusters(const lldd_cluster *clusters, uint64_t count, uint32_t timeout_ms,
                    std::vector<lldd::ClusterSpec> *specs) {
    if (count == 0) return Failure(LLDD_PARAM_INVALID, "no clusters are given");
    if (timeout_ms == 0) return Failure(LLDD_PARAM_INVALID, "timeout_ms is 0, it must be positive");
    std::vector<lldd_cluster> read;
    LLDD_RETURN_IF_ERROR(ReadArray("clusters", clusters, count, &read));
    for (const lldd_cluster &cluster : read) {
        lldd::ClusterSpec spec;
        spec.has_id = (cluster.flags & LLDD_CLUSTER_HAS_ID) != 0;
        spec.id = cluster.remote_cluster_id;
        std::vector<lldd_address> addresses;
        LLDD_RETURN_IF_ERROR(ReadArray("remote", cluster.remote, cluster.num_remote, &addresses));
        for (const lldd_address &address : addresses) {
            spec.remote.push_back({address.ip == nullptr ? "" : address.ip, address.port});
        }
        LLDD_RETURN_IF_ERROR(ReadArray("local", cluster.local, cluster.num_local, &addresses));
        for (const lldd_address &address : addresses) {
            spec.local.push_back({address.ip == nullptr ? "" : address.ip, address.port});
        }
        specs->push_back(std::move(spec));
    }
    return Status::Ok();
}

// The status of the call is that of the last entry that failed.
Status WriteResults(const std::vector<lldd::ClusterResult> &from, lldd_cluster_result *to) {
    uint32_t stride;
    std::memcpy(&stride, to, sizeof stride);
    Status last;
    for (size_t i = 0; i < from.size(); ++i) {
        lldd_cluster_result result{};
        result.status = from[i].status.code();
        result.remote_cluster_id = from[i].cluster_id;
        CopyText(from[i].status.text(), result.detail);
        WriteElement(result, to, stride, i);
        if (!from[i].status.ok()) last = from[i].status;
    }
    return last;
}

}  // namespace

lldd_status lldd_link_clusters(lldd_engine *handle, const lldd_cluster *clusters,
                               uint64_t num_clusters, uint32_t timeout_ms,
                               lldd_cluster_result *results) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        std::vector<lldd::ClusterSpec> specs;
        LLDD_RETURN_IF_ERROR(ReadClusters(clusters, num_clusters, timeout_ms, &specs));
        LLDD_RETURN_IF_ERROR(CheckOut("results", results));
        lldd::Interruption call(&engine.closing());
        const int64_t begun = lldd::MonotonicNs();
        const auto answers = engine.initiator().LinkClusters(
            specs, lldd::Deadline::InMs(timeout_ms).InterruptedBy(&call));
        BoxClusters(engine.box(), "link", begun, false, timeout_ms, specs, answers);
        return WriteResults(answers, results);
    });
}

lldd_status lldd_unlink_clusters(lldd_engine *handle, const lldd_cluster *clusters,
                                 uint64_t num_clusters, uint32_t timeout_ms, uint32_t force,
                                 lldd_cluster_result *results) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        std::vector<lldd::ClusterSpec> specs;
        LLDD_RETURN_IF_ERROR(ReadClusters(clusters, num_clusters, timeout_ms, &specs));
        LLDD_RETURN_IF_ERROR(CheckOut("results", results));
        lldd::Interruption call(&engine.closing());
        const int64_t begun = lldd::MonotonicNs();
        const auto answers = engine.initiator().UnlinkClusters(
            specs, lldd::Deadline::InMs(timeout_ms).InterruptedBy(&call), force != 0);
        BoxClusters(engine.box(), "unlink", begun, force != 0, timeout_ms, specs, answers);
        return WriteResults(answers, results);
    });
}

lldd_status lldd_link(lldd_engine *handle, const lldd_group *group, uint64_t *comm_id) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        lldd_group read;
        std::vector<lldd_member> members;
        LLDD_RETURN_IF_ERROR(ReadStruct("group", group, &read));
        LLDD_RETURN_IF_ERROR(ReadArray("group.members", read.members, read.num_members, &members));
        if (comm_id == nullptr || read.name == nullptr) {
            return Failure(LLDD_PARAM_INVALID, "group.name and comm_id must not be null");
        }
        lldd::GroupSpec spec;
        spec.name = read.name;
        for (const lldd_member &member : members)
            spec.members.push_back({member.cluster_id, member.rank});
        spec.rank_table = read.rank_table == nullptr ? "" : read.rank_table;
        uint64_t id = 0;
        Status status = engine.JoinGroup(spec, &id);
        lldd::BoxGroup(engine.box(), spec, id, status);
        if (status.ok()) *comm_id = id;
        return status;
    });
}

lldd_status lldd_unlink(lldd_engine *handle, uint64_t comm_id) {
    return OnEngine(handle, [&](Engine &engine) {
        Status status = engine.LeaveGroup(comm_id);
        lldd::BoxCall(engine.box(), "leave", comm_id, status);
        return status;
    });
}

lldd_status lldd_group_state(lldd_engine *handle, uint64_t comm_id, uint32_t *state) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        if (state == nullptr) return Failure(LLDD_PARAM_INVALID, "state is null");
        return engine.GroupState(comm_id, state);
    });
}

lldd_status lldd_links(lldd_engine *handle, lldd_link_info *links, uint64_t capacity,
                       uint64_t *count) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        if (count == nullptr) return Failure(LLDD_PARAM_INVALID, "count is null");
        std::vector<lldd_link_info> written;
        for (const auto &link : engine.links().All()) written.push_back(lldd::abi::InfoOf(*link));
        return WriteList(written, "links", links, capacity, count);
    });
}

lldd_status lldd_drop_gone_links(lldd_engine *handle, uint64_t *count) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        if (count == nullptr) return Failure(LLDD_PARAM_INVALID, "count is null");
        Status status = engine.DropGoneLinks(count);
        lldd::BoxCall(engine.box(), "drop_gone_links", *count, status);
        return status;
    });
}

lldd_status lldd_link_paths(lldd_engine *handle, uint64_t peer_cluster_id, lldd_path_info *paths,
                            uint64_t capacity, uint64_t *count) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        if (count == nullptr) return Failure(LLDD_PARAM_INVALID, "count is null");
        const auto link = engine.links().Find(peer_cluster_id);
        if (link == nullptr) {
            return Failure(LLDD_NOT_YET_LINK, "there is no link to cluster %llu",
                           Printable(peer_cluster_id));
        }
        std::vector<lldd_path_info> written;
        for (const lldd::PathDescription &path : link->connection()->Paths()) {
            lldd_path_info info{};
            info.memory = path.memory;
            CopyText(path.path, info.path);
            CopyText(path.reason, info.reason);
            written.push_back(info);
        }
        return WriteList(written, "paths", paths, capacity, count);
    });
}
