// The exported functions of caches, keys and memory.
//
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/status.h"
#include "engine/abi_call.h"
#include "engine/abi_structs.h"
#include "engine/box_events.h"
#include "engine/engine.h"
#include "engine/life_log.h"
#include "llm_datadist.h"

using lldd::Engine;
using lldd::Failure;
using lldd::Status;
using lldd::abi::CheckList;
using lldd::abi::OnEngine;
using lldd::abi::ReadArray;
using lldd::abi::ReadKey;
using lldd::abi::ReadStruct;

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
        Status status = engine.Allocate(read, read_keys, &id, &allocated);
        lldd::BoxCache(engine.box(), "allocate", id, read, read_keys, true, status);
        LLDD_RETURN_IF_ERROR(std::move(status));
        std::copy(allocated.begin(), allocated.end(), addrs);
        *cache_id = id;
        lldd::LogCacheMade("allocated", id, read, read_keys);
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
        const bool reachable = (read.flags & LLDD_REGISTER_REMOTE_ACCESSIBLE) != 0;
        int64_t id = 0;
        Status status = engine.Register(desc, std::move(addrs), keys, reachable, &id);
        lldd::BoxCache(engine.box(), "register", id, desc, keys, reachable, status);
        LLDD_RETURN_IF_ERROR(std::move(status));
        *cache_id = id;
        lldd::LogCacheMade(reachable ? "registered, remote accessible" : "registered", *cache_id,
                           desc, keys);
        return Status::Ok();
    });
}

lldd_status lldd_cache_deallocate(lldd_engine *handle, int64_t cache_id) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        Status status = engine.Deallocate(cache_id);
        lldd::BoxCacheGoes(engine.box(), "deallocate", cache_id, status);
        LLDD_RETURN_IF_ERROR(std::move(status));
        LLDD_LOG(LLDD_LOG_INFO, "cache %lld deallocated", lldd::Printable(cache_id));
        return Status::Ok();
    });
}

lldd_status lldd_cache_unregister(lldd_engine *handle, int64_t cache_id) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        Status status = engine.Unregister(cache_id);
        lldd::BoxCacheGoes(engine.box(), "unregister", cache_id, status);
        LLDD_RETURN_IF_ERROR(std::move(status));
        LLDD_LOG(LLDD_LOG_INFO, "cache %lld unregistered", lldd::Printable(cache_id));
        return Status::Ok();
    });
}

lldd_status lldd_key_remove(lldd_engine *handle, const lldd_cache_key *key) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        lldd_cache_key read;
        LLDD_RETURN_IF_ERROR(ReadKey(key, &read));
        Status status = engine.RemoveKey(read);
        lldd::BoxKeyGoes(engine.box(), read, status);
        return status;
    });
}

lldd_status lldd_memory_remap(lldd_engine *handle, const lldd_memory *memory, uint64_t count) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        std::vector<lldd_memory> read;
        LLDD_RETURN_IF_ERROR(ReadArray("memory", memory, count, &read));
        Status status = engine.Remap(read);
        lldd::BoxCall(engine.box(), "remap", count, status);
        return status;
    });
}
