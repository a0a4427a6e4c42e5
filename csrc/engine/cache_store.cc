// SPDX-License-Identifier: Apache-2.0
#include "engine/cache_store.h"

#include <algorithm>
#include <set>
#include <utility>

namespace lldd {

int64_t CacheStore::NextId() {
    const MutexLock lock(mutex_);
    return ++last_id_;
}

// Names by batch index, placeholders included: they keep the place that names_blocks() tells.
Status CacheStore::ReadKeys(const Cache &cache, const lldd_cache_key *keys, uint64_t num_keys,
                            std::vector<Wanted> *wanted) {
    const bool blocks = cache.shape.blocks;
    if (blocks && num_keys > 1) {
        return Failure(LLDD_PARAM_INVALID, "%llu keys for a blocks cache, allowed is one",
                       Printable(num_keys));
    }
    const uint32_t kind = blocks ? LLDD_KEY_BLOCKS : LLDD_KEY_REQUEST;
    wanted->reserve(num_keys);
    for (uint64_t i = 0; i < num_keys; ++i) {
        if (keys[i].kind != kind) {
            return Failure(LLDD_PARAM_INVALID, "the kind of keys[%llu] is %u, a %s cache takes %u",
                           Printable(i), keys[i].kind, blocks ? "blocks" : "contiguous", kind);
        }
        wanted->push_back({CacheName::Of(keys[i]), i});
    }
    return Status::Ok();
}

Status CacheStore::AddAllocated(const CacheRef &cache, const lldd_cache_key *keys,
                                uint64_t num_keys, std::vector<std::string> *notices) {
    const bool blocks = cache->shape.blocks;
    if (!blocks && num_keys > cache->shape.count) {
        return Failure(LLDD_PARAM_INVALID, "%llu keys for %llu batch entries", Printable(num_keys),
                       Printable(cache->shape.count));
    }
    std::vector<Wanted> wanted;
    LLDD_RETURN_IF_ERROR(ReadKeys(*cache, keys, num_keys, &wanted));

    const MutexLock lock(mutex_);
    std::set<CacheName> seen;
    std::set<uint64_t> told;
    for (const Wanted &want : wanted) {
        const bool placeholder = !blocks && want.name.names_blocks();
        const auto bound = names_.find(want.name);
        if (bound != names_.end()) {
            if (placeholder) {
                return Failure(LLDD_PARAM_INVALID,
                               "keys[%llu] is a placeholder with model_id %llu, under which the "
                               "blocks cache %lld is bound",
                               Printable(want.batch_index), Printable(want.name.model_id),
                               Printable(bound->second.cache_id));
            }
            return Failure(LLDD_PARAM_INVALID, "keys[%llu] (%s) is bound to cache %lld already",
                           Printable(want.batch_index), want.name.ToString().c_str(),
                           Printable(bound->second.cache_id));
        }
        if (seen.insert(want.name).second) continue;
        if (!placeholder) {
            return Failure(LLDD_PARAM_INVALID, "keys[%llu] (%s) repeats an earlier key of the call",
                           Printable(want.batch_index), want.name.ToString().c_str());
        }
        if (told.insert(want.name.model_id).second) {
            notices->push_back(
                Format("several placeholder keys with model_id %llu in one call: the device's own "
                       "engine accepts one",
                       Printable(want.name.model_id)));
        }
    }
    PublishLocked(cache, wanted);
    return Status::Ok();
}

Status CacheStore::AddRegistered(const CacheRef &cache, const lldd_cache_key *keys,
                                 uint64_t num_keys, std::vector<std::string> *notices) {
    std::vector<Wanted> wanted;
    LLDD_RETURN_IF_ERROR(ReadKeys(*cache, keys, num_keys, &wanted));
    const bool blocks = cache->shape.blocks;

    const MutexLock lock(mutex_);
    std::vector<Wanted> free;
    std::set<CacheName> seen;
    for (const Wanted &want : wanted) {
        if (!blocks && want.name.names_blocks()) continue;
        const auto bound = names_.find(want.name);
        if (bound != names_.end() && blocks) {
            notices->push_back(Format("%s now names cache %lld; it was bound to cache %lld",
                                      want.name.ToString().c_str(), Printable(cache->id),
                                      Printable(bound->second.cache_id)));
        } else if (bound != names_.end() || !seen.insert(want.name).second) {
            notices->push_back(Format(
                "keys[%llu] (%s) of cache %lld was not bound: it names cache %lld already",
                Printable(want.batch_index), want.name.ToString().c_str(), Printable(cache->id),
                Printable(bound != names_.end() ? bound->second.cache_id : cache->id)));
            continue;
        }
        free.push_back(want);
    }
    PublishLocked(cache, free);
    return Status::Ok();
}

// Takes names over from the caches that have them. Placeholders are left out. The caller keeps a
// reference until it has released the lock: see the class.
void CacheStore::PublishLocked(const CacheRef &cache, const std::vector<Wanted> &wanted) {
    const int64_t id = cache->id;
    const bool blocks = cache->shape.blocks;
    const auto place = caches_.emplace(id, Entry{cache, true, {}}).first;
    try {
        CountTensorsLocked(*cache, true);
    } catch (...) {
        caches_.erase(place);
        throw;
    }
    try {
        for (const Wanted &want : wanted) {
            if (!blocks && want.name.names_blocks()) continue;
            const auto bound = names_.find(want.name);
            if (bound != names_.end()) UnbindLocked(bound);
            place->second.names.emplace(want.batch_index, want.name);
            names_.emplace(want.name, Binding{id, want.batch_index});
            if (!want.name.prefix) ++num_plain_names_;
            if (want.name.names_blocks()) ++num_blocks_names_;
        }
    } catch (...) {
        RemoveLocked(place);
        throw;
    }
    ++version_;
}

CacheRef CacheStore::Find(int64_t id) const {
    const MutexLock lock(mutex_);
    const auto found = caches_.find(id);
    return found == caches_.end() ? nullptr : found->second.cache;
}

Status CacheStore::FindOwn(int64_t id, CacheRef *cache) const {
    *cache = Find(id);
    if (*cache != nullptr) return Status::Ok();
    return Failure(LLDD_KV_CACHE_NOT_EXIST, "this engine has no cache with id %lld", Printable(id));
}

std::optional<NamedEntry> CacheStore::Find(const CacheName &name) const {
    const MutexLock lock(mutex_);
    return FindLocked(name);
}

std::optional<NamedEntry> CacheStore::Find(int64_t id, uint64_t batch_index) const {
    const MutexLock lock(mutex_);
    const auto found = caches_.find(id);
    if (found == caches_.end()) return std::nullopt;
    const Entry &entry = found->second;
    const auto name = entry.names.find(batch_index);
    if (name != entry.names.end() && name->second.prefix) return std::nullopt;
    if (name != entry.names.end()) return FindLocked(name->second);
    if (batch_index >= entry.cache->shape.batch_size()) return std::nullopt;
    return NamedEntry{entry.cache, batch_index, std::nullopt};
}

std::optional<NamedEntry> CacheStore::FindLocked(const CacheName &name) const {
    const auto bound = names_.find(name);
    if (bound == names_.end()) return std::nullopt;
    const CacheRef &cache = caches_.at(bound->second.cache_id).cache;
    NamedEntry entry{cache, bound->second.batch_index, std::nullopt};
    if (!name.prefix && !cache->registered && !cache->shape.blocks) entry.consumable = name;
    return entry;
}

CacheRef CacheStore::Deallocate(int64_t id) {
    const MutexLock lock(mutex_);
    const auto found = caches_.find(id);
    if (found == caches_.end() || found->second.cache->registered) return nullptr;
    Entry &entry = found->second;
    entry.client_holds = false;
    if (!entry.cache->shape.blocks && !entry.names.empty()) return nullptr;
    return RemoveLocked(found);
}

CacheRef CacheStore::RemoveKey(const CacheName &name) {
    const MutexLock lock(mutex_);
    const auto bound = names_.find(name);
    if (bound == names_.end()) return nullptr;
    const auto place = caches_.find(bound->second.cache_id);
    const Entry &entry = place->second;
    if (entry.cache->registered) return nullptr;
    UnbindLocked(bound);
    ++version_;
    if (entry.client_holds || entry.cache->shape.blocks || !entry.names.empty()) return nullptr;
    return RemoveLocked(place);
}

CacheRef CacheStore::Unregister(int64_t id) {
    const MutexLock lock(mutex_);
    const auto found = caches_.find(id);
    return found == caches_.end() ? nullptr : RemoveLocked(found);
}

std::vector<CacheRef> CacheStore::Clear() {
    std::vector<CacheRef> removed;
    const MutexLock lock(mutex_);
    removed.reserve(caches_.size());
    for (auto &place : caches_) removed.push_back(std::move(place.second.cache));
    if (!caches_.empty()) ++version_;
    caches_.clear();
    names_.clear();
    tensors_.Clear();
    num_tensors_ = num_dims_ = num_plain_names_ = num_blocks_names_ = 0;
    return removed;
}

void CacheStore::UnbindLocked(Names::iterator binding) {
    caches_.at(binding->second.cache_id).names.erase(binding->second.batch_index);
    EraseNameLocked(binding);
}

void CacheStore::EraseNameLocked(Names::iterator binding) {
    if (!binding->first.prefix) --num_plain_names_;
    if (binding->first.names_blocks()) --num_blocks_names_;
    names_.erase(binding);
}

// All tensors of a cache, or, where there was no memory for it, none.
void CacheStore::CountTensorsLocked(const Cache &cache, bool added) {
    const uint64_t size = cache.shape.tensor_bytes;
    size_t done = 0;
    const auto uncount = [&](size_t tensors) LLDD_REQUIRES(mutex_) {
        for (size_t i = 0; i < tensors; ++i) {
            Tensors *const held = tensors_.Find(cache.addrs[i], size);
            if (held != nullptr && --held->count == 0) tensors_.Erase(cache.addrs[i], size);
        }
    };
    if (!added) {
        num_tensors_ -= cache.addrs.size();
        num_dims_ -= cache.dims.size();
        if (by_address_) uncount(cache.addrs.size());
        return;
    }
    try {
        for (; by_address_ && done < cache.addrs.size(); ++done) {
            // A range past the address space holds nothing that a peer could name.
            if (cache.addrs[done] > UINT64_MAX - size) continue;
            Tensors &held = tensors_.Get(cache.addrs[done], size);
            if (held.count++ == 0) held.data_type = cache.shape.data_type;
            if (held.data_type != cache.shape.data_type) held.data_type = kSeveralTypes;
        }
    } catch (...) {
        uncount(done);
        throw;
    }
    num_tensors_ += cache.addrs.size();
    num_dims_ += cache.dims.size();
}

CacheRef CacheStore::RemoveLocked(std::map<int64_t, Entry>::iterator place) {
    Entry &entry = place->second;
    CountTensorsLocked(*entry.cache, false);
    for (const auto &name : entry.names) {
        const auto bound = names_.find(name.second);
        // PublishLocked may have failed between its two maps.
        if (bound != names_.end() && bound->second.cache_id == place->first) EraseNameLocked(bound);
    }
    CacheRef cache = std::move(entry.cache);
    caches_.erase(place);
    ++version_;
    return cache;
}

CacheTable CacheStore::Table() const {
    const MutexLock lock(mutex_);
    CacheTable table;
    table.version = version_;
    table.caches.reserve(caches_.size());
    for (const auto &place : caches_) table.caches.push_back(place.second.cache);
    for (const auto &bound : names_) {
        const CacheName &name = bound.first;
        if (!name.prefix) {
            table.names.push_back(
                {name.id, name.model_id, bound.second.cache_id, bound.second.batch_index});
        }
    }
    return table;
}

CacheTableSize CacheStore::TableSize() const {
    const MutexLock lock(mutex_);
    return {caches_.size(), num_tensors_, num_dims_, num_plain_names_};
}

TensorThere CacheStore::At(uint64_t addr) const {
    const MutexLock lock(mutex_);
    TensorThere there;
    tensors_.ForEachOverlapping(addr, 1, [&](uint64_t start, uint64_t size, const Tensors &held) {
        if (there.end == 0) there.data_type = held.data_type;
        if (there.data_type != held.data_type) there.data_type = kSeveralTypes;
        there.end = std::max(there.end, start + size);
    });
    return there;
}

uint64_t CacheStore::version() const {
    const MutexLock lock(mutex_);
    return version_;
}

uint64_t CacheStore::size() const {
    const MutexLock lock(mutex_);
    return caches_.size();
}

std::string CacheStore::DescribeBlocks() const {
    std::vector<uint64_t> model_ids;
    const MutexLock lock(mutex_);
    // They are neighbours.
    auto name = names_.lower_bound(CacheName::OfBlocks(0));
    for (; name != names_.end() && name->first.names_blocks(); ++name) {
        if (model_ids.size() == kNamesShown) break;
        model_ids.push_back(name->first.model_id);
    }
    return lldd::DescribeBlocks(model_ids, num_blocks_names_);
}

std::string DescribeBlocks(const std::vector<uint64_t> &model_ids, uint64_t count) {
    if (count == 0) return "no blocks caches with a key";
    std::string text = "blocks caches for model_id ";
    for (size_t i = 0; i < model_ids.size(); ++i)
        text += Format("%s%llu", i == 0 ? "" : ", ", Printable(model_ids[i]));
    if (count > model_ids.size())
        text += Format(" and %llu more", Printable(count - model_ids.size()));
    return text;
}

}  // namespace lldd
