// The exported functions: each is one guarded call that reads the caller's structs, forwards and
// converts.
//
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/status.h"
#include "engine/abi_structs.h"
#include "engine/engine.h"
#include "llm_datadist.h"
#include "runtime/runtime.h"

#include "lldd_layout.inc"

#ifndef LLDD_FINGERPRINT
#define LLDD_FINGERPRINT 0
#endif
#ifndef LLDD_PACKAGE_VERSION
#define LLDD_PACKAGE_VERSION "unknown"
#endif

struct lldd_engine {
    std::unique_ptr<lldd::Engine> engine;
};

namespace {

using lldd::CallGate;
using lldd::Engine;
using lldd::Failure;
using lldd::Printable;
using lldd::Status;
using lldd::abi::CheckOut;
using lldd::abi::ReadArray;
using lldd::abi::ReadStruct;
using lldd::abi::WriteElement;
using lldd::abi::WriteStruct;

struct LastError {
    std::string text;
    int64_t raw = 0;
};

LastError &ThisThreadsError() {
    static thread_local LastError error;
    return error;
}

lldd_status Report(const Status &status) noexcept {
    if (status.ok()) return LLDD_SUCCESS;
    try {
        ThisThreadsError() = {status.text(), status.raw()};
        LLDD_LOG(LLDD_LOG_INFO, "%s: %s", lldd_status_name(status.code()), status.text().c_str());
    } catch (const std::exception &) {
        // No memory even for the text: the status has to do.
        return status.code();
    }
    return status.code();
}

// The text is short enough to need no memory.
lldd_status OutOfMemory() noexcept { return Report(Status(LLDD_FAILED, "out of memory")); }

// Nothing is thrown across the ABI.
template <typename Body>
lldd_status Guarded(const Body &body) noexcept {
    try {
        return Report(body());
    } catch (const std::bad_alloc &) {
        return OutOfMemory();
    } catch (const std::exception &error) {
        try {
            return Report(
                Status(LLDD_FAILED, std::string("an error inside the library: ") + error.what()));
        } catch (const std::bad_alloc &) {
            return OutOfMemory();
        }
    }
}

// The same for calls on an engine, which must be open.
template <typename Body>
lldd_status OnEngine(lldd_engine *handle, const Body &body) noexcept {
    return Guarded([&]() -> Status {
        if (handle == nullptr) return Failure(LLDD_PARAM_INVALID, "engine is null");
        Engine &engine = *handle->engine;
        if (engine.in_forked_child()) {
            return Failure(
                LLDD_FAILED,
                "the engine belongs to the parent of this forked process; open one here instead");
        }
        const CallGate::Pass pass(&engine.gate());
        if (!pass) return Failure(LLDD_ENGINE_FINALIZED, "the engine is closed");
        return body(engine);
    });
}

// A thread makes one call at a time.
lldd::TransferScratch &ThisThreadsScratch() {
    static thread_local lldd::TransferScratch scratch;
    return scratch;
}

Status ReadKey(const lldd_cache_key *from, lldd_cache_key *to) {
    LLDD_RETURN_IF_ERROR(ReadStruct("key", from, to));
    if (lldd::IsKeyKind(to->kind)) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID,
                   "key.kind is %u, allowed is %d (request), %d (id), %d (blocks)", to->kind,
                   LLDD_KEY_REQUEST, LLDD_KEY_ID, LLDD_KEY_BLOCKS);
}

Status CheckList(const char *name, const uint64_t *list, uint64_t count) {
    if (list != nullptr || count == 0) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID, "%s is null, but %llu are announced", name,
                   Printable(count));
}

template <typename Args>
Status CheckBlockLists(const Args &args) {
    LLDD_RETURN_IF_ERROR(CheckList("src_blocks", args.src_blocks, args.num_src_blocks));
    return CheckList("dst_blocks", args.dst_blocks, args.num_dst_blocks);
}

template <size_t kSize>
void CopyText(const std::string &text, char (&to)[kSize]) {
    std::snprintf(to, kSize, "%s", text.c_str());
}

// Cuts to what there is room for, with the final zero.
void CopyText(const std::string &text, char *to, uint64_t size) {
    if (to == nullptr || size == 0) return;
    const size_t length = std::min<size_t>(text.size(), size - 1);
    std::memcpy(to, text.data(), length);
    to[length] = '\0';
}

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

uint32_t StateOf(const lldd::Link &link) {
    if (link.unlinked()) return LLDD_LINK_CLOSING;
    return link.peer_gone() ? LLDD_LINK_PEER_GONE : LLDD_LINK_LIVE;
}

lldd_link_info InfoOf(const lldd::Link &link) {
    lldd_link_info info{};
    info.state = StateOf(link);
    info.peer_cluster_id = link.peer();
    info.comm_id = link.identity().comm_id;
    info.pulls = link.counters.pulls.load(std::memory_order_relaxed);
    info.pushes = link.counters.pushes.load(std::memory_order_relaxed);
    info.bytes_in = link.counters.bytes_in.load(std::memory_order_relaxed);
    info.bytes_out = link.counters.bytes_out.load(std::memory_order_relaxed);
    info.is_initiator = link.identity().end == lldd::LinkEnd::kInitiator ? 1 : 0;
    CopyText(link.identity().peer_address.ToString(), info.peer_address);
    return info;
}

// Writes as many elements as there is room for.
template <typename T>
Status WriteList(const std::vector<T> &from, const char *name, T *to, uint64_t capacity,
                 uint64_t *count) {
    const uint64_t written = std::min<uint64_t>(capacity, from.size());
    if (written > 0) {
        LLDD_RETURN_IF_ERROR(CheckOut(name, to));
        uint32_t stride;
        std::memcpy(&stride, to, sizeof stride);
        for (uint64_t i = 0; i < written; ++i) WriteElement(from[i], to, stride, i);
    }
    *count = from.size();
    return Status::Ok();
}

}  // namespace

// ---- the library ----

uint32_t lldd_version(void) { return LLDD_VERSION_MAJOR * 65536 + LLDD_VERSION_MINOR; }

uint64_t lldd_fingerprint(void) { return LLDD_FINGERPRINT; }

const lldd_field *lldd_layout(uint64_t *count) {
    if (count != nullptr) *count = sizeof kLayout / sizeof kLayout[0];
    return kLayout;
}

lldd_status lldd_runtime_describe(lldd_runtime_info *info) {
    return Guarded([&]() -> Status {
        LLDD_RETURN_IF_ERROR(CheckOut("info", info));
        const lldd::RuntimeDescription description = lldd::ThisRuntime().Describe();
        lldd_runtime_info written{};
        written.device_count = description.device_count;
        written.capabilities = description.capabilities;
        CopyText(description.name, written.name);
        CopyText(LLDD_PACKAGE_VERSION, written.version);
        CopyText(description.description, written.description);
        WriteStruct(written, info);
        return Status::Ok();
    });
}

lldd_status lldd_runtime_control(const char *command, const char *argument, char *answer,
                                 uint64_t answer_size, uint64_t *answer_needed) {
    return Guarded([&]() -> Status {
        if (command == nullptr) return Failure(LLDD_PARAM_INVALID, "command is null");
        std::string text;
        LLDD_RETURN_IF_ERROR(
            lldd::ThisRuntime().Control(command, argument == nullptr ? "" : argument, &text));
        CopyText(text, answer, answer_size);
        if (answer_needed != nullptr) *answer_needed = text.size() + 1;
        return Status::Ok();
    });
}

const char *lldd_status_name(lldd_status status) {
    const char *name = lldd::StatusName(status);
    return name != nullptr ? name : "unknown status";
}

const char *lldd_last_error(void) { return ThisThreadsError().text.c_str(); }

int64_t lldd_last_error_raw(void) { return ThisThreadsError().raw; }

lldd_status lldd_log_set(uint32_t level, int32_t fd) {
    return Guarded([&]() -> Status {
        if (level > LLDD_LOG_OFF)
            return Failure(LLDD_PARAM_INVALID, "level is %u, allowed is 0..%d", level,
                           LLDD_LOG_OFF);
        if (fd < 0) return Failure(LLDD_PARAM_INVALID, "fd is %d, it must not be negative", fd);
        lldd::SetLog(level, fd);
        return Status::Ok();
    });
}

// ---- life of an engine ----

lldd_status lldd_engine_open(const lldd_config *config, lldd_engine **engine) {
    return Guarded([&]() -> Status {
        lldd_config read;
        LLDD_RETURN_IF_ERROR(ReadStruct("config", config, &read));
        if (engine == nullptr) return Failure(LLDD_PARAM_INVALID, "engine is null");
        auto handle = std::make_unique<lldd_engine>();
        LLDD_RETURN_IF_ERROR(Engine::Open(read, &handle->engine));
        *engine = handle.release();
        return Status::Ok();
    });
}

lldd_status lldd_engine_close(lldd_engine *handle) {
    return Guarded([&]() -> Status {
        if (handle == nullptr) return Failure(LLDD_PARAM_INVALID, "engine is null");
        if (handle->engine->in_forked_child()) {
            return Failure(LLDD_FAILED, "the engine belongs to the parent of this forked process");
        }
        handle->engine->Close();
        return Status::Ok();
    });
}

void lldd_engine_free(lldd_engine *handle) {
    if (handle == nullptr) return;
    if (lldd_engine_close(handle) != LLDD_SUCCESS) {
        // In a forked child: the engine's threads are the parent's, so nothing of it can be taken
        // down here.
        return;
    }
    delete handle;
}

lldd_status lldd_engine_describe(lldd_engine *handle, lldd_engine_info *info) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        LLDD_RETURN_IF_ERROR(CheckOut("info", info));
        lldd_engine_info written{};
        engine.Describe(&written);
        WriteStruct(written, info);
        return Status::Ok();
    });
}

lldd_status lldd_engine_counters(lldd_engine *handle, lldd_counters *counters) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        LLDD_RETURN_IF_ERROR(CheckOut("counters", counters));
        lldd_counters written{};
        engine.ReadCounters(&written);
        WriteStruct(written, counters);
        return Status::Ok();
    });
}

lldd_status lldd_engine_next_notice(lldd_engine *handle, char *text, uint64_t size,
                                    uint64_t *length) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        if (text == nullptr || size == 0 || length == nullptr) {
            return Failure(LLDD_PARAM_INVALID, "text and length must not be null, size not 0");
        }
        std::string notice;
        if (!engine.notices().Next(&notice)) notice.clear();
        CopyText(notice, text, size);
        *length = std::min<uint64_t>(notice.size(), size - 1);
        return Status::Ok();
    });
}

lldd_status lldd_engine_switch_listener(lldd_engine *handle, const char *ip, uint32_t port) {
    return OnEngine(handle, [&](Engine &engine) { return engine.SwitchListener(ip, port); });
}

// ---- caches ----

lldd_status lldd_cache_allocate(lldd_engine *handle, const lldd_cache_desc *desc,
                                const lldd_cache_key *keys, uint64_t num_keys, int64_t *cache_id,
                                uint64_t *addrs) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        lldd_cache_desc read;
        std::vector<lldd_cache_key> read_keys;
        LLDD_RETURN_IF_ERROR(ReadStruct("desc", desc, &read));
        LLDD_RETURN_IF_ERROR(ReadArray("keys", keys, num_keys, &read_keys));
        if (cache_id == nullptr || addrs == nullptr ||
            (read.dims == nullptr && read.num_dims != 0)) {
            return Failure(LLDD_PARAM_INVALID, "desc.dims, cache_id and addrs must not be null");
        }
        int64_t id = 0;
        std::vector<uint64_t> allocated;
        LLDD_RETURN_IF_ERROR(engine.Allocate(read, read_keys, &id, &allocated));
        std::copy(allocated.begin(), allocated.end(), addrs);
        *cache_id = id;
        return Status::Ok();
    });
}

lldd_status lldd_cache_register(lldd_engine *handle, const lldd_register_args *args,
                                int64_t *cache_id) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        lldd_register_args read;
        lldd_cache_desc desc;
        std::vector<lldd_cache_key> keys;
        LLDD_RETURN_IF_ERROR(ReadStruct("args", args, &read));
        LLDD_RETURN_IF_ERROR(ReadStruct("args.desc", read.desc, &desc));
        LLDD_RETURN_IF_ERROR(ReadArray("args.keys", read.keys, read.num_keys, &keys));
        LLDD_RETURN_IF_ERROR(CheckList("args.addrs", read.addrs, read.num_addrs));
        if (cache_id == nullptr || (desc.dims == nullptr && desc.num_dims != 0)) {
            return Failure(LLDD_PARAM_INVALID, "desc.dims and cache_id must not be null");
        }
        std::vector<uint64_t> addrs(read.addrs, read.addrs + read.num_addrs);
        return engine.Register(desc, std::move(addrs), keys,
                               (read.flags & LLDD_REGISTER_REMOTE_ACCESSIBLE) != 0, cache_id);
    });
}

lldd_status lldd_cache_deallocate(lldd_engine *handle, int64_t cache_id) {
    return OnEngine(handle, [&](Engine &engine) { return engine.Deallocate(cache_id); });
}

lldd_status lldd_cache_unregister(lldd_engine *handle, int64_t cache_id) {
    return OnEngine(handle, [&](Engine &engine) { return engine.Unregister(cache_id); });
}

lldd_status lldd_key_remove(lldd_engine *handle, const lldd_cache_key *key) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        lldd_cache_key read;
        LLDD_RETURN_IF_ERROR(ReadKey(key, &read));
        return engine.RemoveKey(read);
    });
}

// ---- links ----

lldd_status lldd_link_clusters(lldd_engine *handle, const lldd_cluster *clusters,
                               uint64_t num_clusters, uint32_t timeout_ms,
                               lldd_cluster_result *results) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        std::vector<lldd::ClusterSpec> specs;
        LLDD_RETURN_IF_ERROR(ReadClusters(clusters, num_clusters, timeout_ms, &specs));
        LLDD_RETURN_IF_ERROR(CheckOut("results", results));
        return WriteResults(
            engine.initiator().LinkClusters(specs, lldd::Deadline::InMs(timeout_ms)), results);
    });
}

lldd_status lldd_unlink_clusters(lldd_engine *handle, const lldd_cluster *clusters,
                                 uint64_t num_clusters, uint32_t timeout_ms, uint32_t force,
                                 lldd_cluster_result *results) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        std::vector<lldd::ClusterSpec> specs;
        LLDD_RETURN_IF_ERROR(ReadClusters(clusters, num_clusters, timeout_ms, &specs));
        LLDD_RETURN_IF_ERROR(CheckOut("results", results));
        return WriteResults(
            engine.initiator().UnlinkClusters(specs, lldd::Deadline::InMs(timeout_ms), force != 0),
            results);
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
        return engine.JoinGroup(spec, comm_id);
    });
}

lldd_status lldd_unlink(lldd_engine *handle, uint64_t comm_id) {
    return OnEngine(handle, [&](Engine &engine) { return engine.LeaveGroup(comm_id); });
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
        for (const auto &link : engine.links().All()) written.push_back(InfoOf(*link));
        return WriteList(written, "links", links, capacity, count);
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

// ---- transfers ----

lldd_status lldd_pull(lldd_engine *handle, const lldd_pull_args *args) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        lldd_pull_args read;
        lldd_cache_key key;
        LLDD_RETURN_IF_ERROR(ReadStruct("args", args, &read));
        LLDD_RETURN_IF_ERROR(ReadKey(read.key, &key));
        LLDD_RETURN_IF_ERROR(CheckBlockLists(read));
        return engine.transfers().Pull(read, key, &ThisThreadsScratch());
    });
}

lldd_status lldd_push(lldd_engine *handle, const lldd_push_args *args, uint32_t *layers_done) {
    uint32_t done = 0;
    const lldd_status status = OnEngine(handle, [&](Engine &engine) -> Status {
        lldd_push_args read;
        lldd_cache_key key;
        LLDD_RETURN_IF_ERROR(ReadStruct("args", args, &read));
        LLDD_RETURN_IF_ERROR(ReadKey(read.key, &key));
        LLDD_RETURN_IF_ERROR(CheckBlockLists(read));
        return engine.transfers().Push(read, key, &ThisThreadsScratch(), &done);
    });
    if (layers_done != nullptr) *layers_done = done;
    return status;
}

lldd_status lldd_transfer_layer(lldd_engine *handle, const lldd_transfer_args *args) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        lldd_transfer_args read;
        lldd_cache_key key{};
        LLDD_RETURN_IF_ERROR(ReadStruct("args", args, &read));
        if (read.key != nullptr) LLDD_RETURN_IF_ERROR(ReadKey(read.key, &key));
        LLDD_RETURN_IF_ERROR(CheckBlockLists(read));
        LLDD_RETURN_IF_ERROR(CheckList("dst_addrs", read.dst_addrs, read.num_dst_addrs));
        return engine.transfers().TransferLayer(read, key, &ThisThreadsScratch());
    });
}

// ---- local copies ----

lldd_status lldd_cache_copy(lldd_engine *handle, const lldd_copy_args *args) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        lldd_copy_args read;
        LLDD_RETURN_IF_ERROR(ReadStruct("args", args, &read));
        return engine.copies().Copy(read, &ThisThreadsScratch());
    });
}

lldd_status lldd_blocks_copy(lldd_engine *handle, int64_t cache_id, const uint64_t *src_blocks,
                             const uint64_t *dst_blocks, uint64_t num_pairs) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        LLDD_RETURN_IF_ERROR(CheckList("src_blocks", src_blocks, num_pairs));
        LLDD_RETURN_IF_ERROR(CheckList("dst_blocks", dst_blocks, num_pairs));
        return engine.copies().CopyBlocks(cache_id, src_blocks, dst_blocks, num_pairs,
                                          &ThisThreadsScratch());
    });
}

lldd_status lldd_blocks_swap(lldd_engine *handle, const lldd_swap_args *args) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        lldd_swap_args read;
        LLDD_RETURN_IF_ERROR(ReadStruct("args", args, &read));
        LLDD_RETURN_IF_ERROR(CheckList("src_addrs", read.src_addrs, read.num_tensors));
        LLDD_RETURN_IF_ERROR(CheckList("dst_addrs", read.dst_addrs, read.num_tensors));
        LLDD_RETURN_IF_ERROR(CheckList("src_blocks", read.src_blocks, read.num_blocks));
        LLDD_RETURN_IF_ERROR(CheckList("dst_blocks", read.dst_blocks, read.num_blocks));
        return engine.copies().SwapBlocks(read, &ThisThreadsScratch());
    });
}

lldd_status lldd_memory_remap(lldd_engine *handle, const lldd_memory *memory, uint64_t count) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        std::vector<lldd_memory> read;
        LLDD_RETURN_IF_ERROR(ReadArray("memory", memory, count, &read));
        return engine.Remap(read);
    });
}
