// What an engine does about its caches, their keys and their memory.
//
// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "engine/engine.h"

namespace lldd {
namespace {

constexpr uint64_t kMaxTableBytes = 1 << 20;

}  // namespace

Status Engine::CheckHasPool(const char *what) const {
    if (device_pool_.pages != nullptr || host_pool_.pages != nullptr) return Status::Ok();
    return Failure(LLDD_FEATURE_NOT_ENABLED,
                   "%s needs a memory pool; the engine was opened without one", what);
}

Status Engine::Allocate(const lldd_cache_desc &desc, const std::vector<lldd_cache_key> &keys,
                        int64_t *cache_id, std::vector<uint64_t> *addrs) {
    LLDD_RETURN_IF_ERROR(CheckHasPool("allocating"));
    LLDD_RETURN_IF_ERROR(CheckDesc(desc));
    Pool &pool = PoolOf(static_cast<Placement>(desc.placement));
    if (pool.pages == nullptr) {
        return Failure(LLDD_PARAM_INVALID, "the engine was opened without a %s pool",
                       desc.placement == LLDD_PLACEMENT_DEVICE ? "device" : "host");
    }
    const auto cache = std::make_shared<Cache>();
    cache->id = store_.NextId();
    LLDD_RETURN_IF_ERROR(ShapeOf(desc, &cache->shape, &cache->dims));
    cache->remote_accessible = true;
    if (!pool.pages->AllocateAll(cache->shape.tensor_bytes, cache->shape.num_tensors,
                                 &cache->addrs)) {
        return Failure(LLDD_OUT_OF_MEMORY,
                       "%u tensors of %llu bytes (%llu with whole pages) do not fit the pool: %llu "
                       "of %llu bytes are free",
                       cache->shape.num_tensors, Printable(cache->shape.tensor_bytes),
                       Printable(pool.pages->RoundUp(cache->shape.tensor_bytes)),
                       Printable(pool.pages->free_bytes()), Printable(pool.pages->size()));
    }
    cache->release = [pages = pool.pages.get()](const Cache &released) {
        for (const uint64_t addr : released.addrs) pages->Free(addr);
    };
    for (const uint64_t addr : cache->addrs)
        LLDD_RETURN_IF_ERROR(device_->Commit(addr, cache->shape.tensor_bytes));
    std::vector<std::string> notices;
    LLDD_RETURN_IF_ERROR(store_.AddAllocated(cache, keys.data(), keys.size(), &notices));
    AddNotices(std::move(notices));
    WarnOfBatchDim(*cache, desc.batch_dim_index);
    // On the device the entry has been made by the time the table turns out to be too large, and it
    // stays.
    LLDD_RETURN_IF_ERROR(CheckTableSize());
    *cache_id = cache->id;
    *addrs = cache->addrs;
    return Status::Ok();
}

Status Engine::Register(const lldd_cache_desc &desc, std::vector<uint64_t> addrs,
                        const std::vector<lldd_cache_key> &keys, bool remote_accessible,
                        int64_t *cache_id) {
    LLDD_RETURN_IF_ERROR(CheckDesc(desc));
    if (addrs.empty() || addrs.size() != desc.num_tensors) {
        return Failure(LLDD_PARAM_INVALID, "%zu addresses are given for %u tensors", addrs.size(),
                       desc.num_tensors);
    }
    const auto cache = std::make_shared<Cache>();
    cache->id = store_.NextId();
    LLDD_RETURN_IF_ERROR(ShapeOf(desc, &cache->shape, &cache->dims));
    cache->registered = true;
    cache->remote_accessible = remote_accessible;
    cache->addrs = std::move(addrs);
    const uint64_t size = cache->shape.tensor_bytes;
    // In request mode a peer may be sent to any cache, whatever its flag.
    const bool for_transport = remote_accessible || mode_ == LLDD_MODE_REQUEST;
    size_t done = 0;
    Status status;
    for (; for_transport && done < cache->addrs.size(); ++done) {
        const uint64_t addr = cache->addrs[done];
        if (addr == 0 && !remote_accessible) continue;
        if (addr == 0 || addr > UINT64_MAX - size) {
            status = Failure(LLDD_PARAM_INVALID, "addrs[%zu] is 0x%llx: %s", done, Printable(addr),
                             addr == 0 ? "a tensor cannot start there"
                                       : "the tensor would end past the address space");
        } else {
            status = device_->Register(addr, size, cache->shape.placement);
        }
        if (!status.ok()) break;
    }
    std::vector<std::string> notices;
    if (status.ok()) status = store_.AddRegistered(cache, keys.data(), keys.size(), &notices);
    if (!status.ok()) {
        for (size_t i = 0; for_transport && i < done; ++i) {
            if (cache->addrs[i] == 0) continue;
            const Status undone = device_->Unregister(cache->addrs[i], size, SyncDeadline());
            if (!undone.ok())
                LLDD_LOG(LLDD_LOG_WARNING, "registration taken back: %s", undone.text().c_str());
        }
        return status;
    }
    AddNotices(std::move(notices));
    WarnOfBatchDim(*cache, desc.batch_dim_index);
    *cache_id = cache->id;
    return status;
}

void Engine::WarnOfBatchDim(const Cache &cache, uint32_t batch_dim_index) {
    if (batch_dim_index == 0 || cache.shape.blocks) return;
    notices_.Add(
        Format("cache %lld has batch_dim_index %u, but a transfer takes shape[0], %llu, for "
               "the batch",
               Printable(cache.id), batch_dim_index, Printable(cache.shape.count)));
}

// How the device lays the table of one-sided mode out.
Status Engine::CheckTableSize() const {
    if (!strict_hardware_ || mode_ != LLDD_MODE_ONE_SIDED) return Status::Ok();
    const CacheTableSize size = store_.TableSize();
    const uint64_t bytes = 24 + 24 * size.names + 64 * size.caches + 8 * size.tensors;
    if (bytes <= kMaxTableBytes) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID,
                   "the cache table would have %llu bytes, the device holds %llu", Printable(bytes),
                   Printable(kMaxTableBytes));
}

Status Engine::Deallocate(int64_t cache_id) {
    LLDD_RETURN_IF_ERROR(CheckHasPool("deallocating"));
    store_.Deallocate(cache_id);
    return Status::Ok();
}

Status Engine::Unregister(int64_t cache_id) {
    Interruption call(&closing_);
    const Deadline deadline = SyncDeadline().InterruptedBy(&call);
    return WithCause(unregistrations_->Unregister(cache_id, deadline), deadline.cause());
}

Status Engine::RemoveKey(const lldd_cache_key &key) {
    LLDD_RETURN_IF_ERROR(CheckHasPool("removing a key"));
    if (key.kind != LLDD_KEY_REQUEST && key.kind != LLDD_KEY_BLOCKS) {
        return Failure(LLDD_PARAM_INVALID, "key kind %u names no key that can be removed",
                       key.kind);
    }
    store_.RemoveKey(CacheName::Of(key));
    return Status::Ok();
}

// The checks of the call are all of it: a runtime is told nothing, see llm_datadist.h.
Status Engine::Remap(const std::vector<lldd_memory> &memory) {
    if (memory.empty()) return Failure(LLDD_PARAM_INVALID, "no memory is given");
    for (size_t i = 0; i < memory.size(); ++i) {
        if (memory[i].placement != LLDD_PLACEMENT_DEVICE || memory[i].addr == 0 ||
            memory[i].size == 0) {
            return Failure(LLDD_PARAM_INVALID,
                           "memory[%zu] has placement %u, addr 0x%llx, size %llu; it must be "
                           "device memory, neither 0",
                           i, memory[i].placement, Printable(memory[i].addr),
                           Printable(memory[i].size));
        }
    }
    for (const auto &link : directory_->All()) {
        if (!link->peer_gone()) return Status::Ok();
    }
    return Failure(LLDD_NOT_YET_LINK, "there is no live link");
}

}  // namespace lldd
