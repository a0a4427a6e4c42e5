// The caches of one engine, the keys that name them, and the references to them.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/range_map.h"
#include "base/status.h"
#include "engine/cache_key.h"
#include "engine/tensor.h"

namespace lldd {

// Immutable once it is in a store. A thread that holds a reference may use the memory: a release
// runs when the last one goes.
struct Cache {
    Cache() = default;
    Cache(const Cache &) = delete;
    Cache &operator=(const Cache &) = delete;
    ~Cache() {
        if (release) release(*this);
    }

    int64_t id = 0;
    CacheShape shape;
    std::vector<int64_t> dims;    // as described; the shape follows from them
    std::vector<uint64_t> addrs;  // one per tensor
    bool registered = false;      // the client's memory; else allocated from a pool
    bool remote_accessible = false;
    // Gives the memory back. Runs without any lock of the store, on the thread that drops the last
    // reference; must not throw.
    std::function<void(const Cache &)> release;
};

using CacheRef = std::shared_ptr<const Cache>;

// What a name leads to.
struct NamedEntry {
    CacheRef cache;
    uint64_t batch_index = 0;
    // The request key that a successful pull in request mode uses up: see CacheStore::RemoveKey.
    std::optional<CacheName> consumable;
};

// What a peer may know in one-sided mode. Names with a prefix are not part of it.
struct CacheTable {
    struct Name {
        uint64_t req_id;
        uint64_t model_id;
        int64_t cache_id;
        uint64_t batch_index;
    };
    uint64_t version = 0;          // counts changes; 0: nothing was ever written
    std::vector<CacheRef> caches;  // by id
    std::vector<Name> names;       // by req_id, then model_id
};

// How much of it there is.
struct CacheTableSize {
    uint64_t caches = 0;
    uint64_t tensors = 0;
    uint64_t dims = 0;
    uint64_t names = 0;
};

// What lies at an address.
struct TensorThere {
    uint64_t end = 0;        // of the furthest of the tensors that hold it; 0: none does
    uint32_t data_type = 0;  // of all of them, or kSeveralTypes
};

// Thread-safe. References are dropped after the lock is released, so a release may call the store.
// Nothing but Table and Clear takes longer than the logarithm of what there is.
class CacheStore {
public:
    // by_address: At is wanted, which costs some memory for each tensor.
    explicit CacheStore(bool by_address = true) : by_address_(by_address) {}

    // Ids begin with 1 and are never used again.
    int64_t NextId();

    // Makes an allocated cache and its keys known. Contiguous: key i (LLDD_KEY_REQUEST) names batch
    // entry i, and one without req_id and prefix_id is a placeholder. Blocks: at most one key
    // (LLDD_KEY_BLOCKS). LLDD_PARAM_INVALID, and nothing changes: more keys than that, a key of
    // another kind, a name that is bound already or repeated, a placeholder while a blocks cache
    // has its model_id. Notices for the client are appended.
    Status AddAllocated(const CacheRef &cache, const lldd_cache_key *keys, uint64_t num_keys,
                        std::vector<std::string> *notices);
    // The same for registered memory, whose keys are not checked for repetition: a blocks cache
    // takes its name over from an older one, a contiguous one leaves a name where it is bound
    // already. Either leaves a notice.
    Status AddRegistered(const CacheRef &cache, const lldd_cache_key *keys, uint64_t num_keys,
                         std::vector<std::string> *notices);

    // Null: no such cache.
    CacheRef Find(int64_t id) const;
    // LLDD_KV_CACHE_NOT_EXIST: no such cache.
    Status FindOwn(int64_t id, CacheRef *cache) const;
    std::optional<NamedEntry> Find(const CacheName &name) const;
    // A peer's request for a batch entry by cache id. If a request key names the entry, it is as if
    // the peer had used that key; where a prefix key names it, nothing is found. Without a key the
    // index must be below the batch size.
    std::optional<NamedEntry> Find(int64_t id, uint64_t batch_index) const;

    // Drops the client's hold on an allocated cache. A blocks cache goes with its key. A contiguous
    // one goes when no key is bound to it any more; until then it is found as before. No effect on
    // others. These three return the cache if it went, null otherwise; its memory is released with
    // the last reference.
    CacheRef Deallocate(int64_t id);
    // Unbinds a name of an allocated cache. A contiguous one goes if that was the last reference, a
    // blocks cache stays. No effect on registered caches and unknown names.
    CacheRef RemoveKey(const CacheName &name);
    // Removes a cache of any kind with all its keys.
    CacheRef Unregister(int64_t id);
    // Removes everything; ids go on.
    std::vector<CacheRef> Clear();

    CacheTable Table() const;
    CacheTableSize TableSize() const;
    uint64_t version() const;
    uint64_t size() const;
    TensorThere At(uint64_t addr) const;
    // For error texts: "blocks caches for model_id 0, 1".
    std::string DescribeBlocks() const;

private:
    struct Entry {
        CacheRef cache;
        bool client_holds = true;
        // The names bound to this cache, by batch index.
        std::map<uint64_t, CacheName> names;
    };
    struct Binding {
        int64_t cache_id;
        uint64_t batch_index;
    };
    struct Wanted {
        CacheName name;
        uint64_t batch_index;
    };

    static Status ReadKeys(const Cache &cache, const lldd_cache_key *keys, uint64_t num_keys,
                           std::vector<Wanted> *wanted);
    using Names = std::map<CacheName, Binding>;

    void PublishLocked(const CacheRef &cache, const std::vector<Wanted> &wanted)
        LLDD_REQUIRES(mutex_);
    void UnbindLocked(Names::iterator binding) LLDD_REQUIRES(mutex_);
    void EraseNameLocked(Names::iterator binding) LLDD_REQUIRES(mutex_);
    // The tensors of caches that are exactly one range.
    struct Tensors {
        uint32_t count = 0;
        uint32_t data_type = 0;  // or kSeveralTypes
    };
    void CountTensorsLocked(const Cache &cache, bool added) LLDD_REQUIRES(mutex_);
    CacheRef RemoveLocked(std::map<int64_t, Entry>::iterator entry) LLDD_REQUIRES(mutex_);
    std::optional<NamedEntry> FindLocked(const CacheName &name) const LLDD_REQUIRES(mutex_);

    const bool by_address_;
    mutable Mutex mutex_;
    int64_t last_id_ LLDD_GUARDED_BY(mutex_) = 0;
    uint64_t version_ LLDD_GUARDED_BY(mutex_) = 0;
    std::map<int64_t, Entry> caches_ LLDD_GUARDED_BY(mutex_);
    Names names_ LLDD_GUARDED_BY(mutex_);
    uint64_t num_tensors_ LLDD_GUARDED_BY(mutex_) = 0;
    uint64_t num_dims_ LLDD_GUARDED_BY(mutex_) = 0;
    uint64_t num_plain_names_ LLDD_GUARDED_BY(mutex_) = 0;   // without a prefix
    uint64_t num_blocks_names_ LLDD_GUARDED_BY(mutex_) = 0;  // of those
    RangeMap<Tensors> tensors_ LLDD_GUARDED_BY(mutex_);
};

// As many names as a person reads.
constexpr size_t kNamesShown = 16;

// The text of CacheStore::DescribeBlocks: `model_ids` are the first kNamesShown of `count`.
std::string DescribeBlocks(const std::vector<uint64_t> &model_ids, uint64_t count);

}  // namespace lldd
