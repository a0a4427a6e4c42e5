// Keys of clients, the names that they stand for, and which cache a key leads to.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include "base/status.h"

namespace lldd {

// Whether that is one of LLDD_KEY_*.
bool IsKeyKind(uint32_t kind);

// How a key is named in texts: "BlocksCacheKey with model_id 3", "cache id 2, batch index 0".
std::string KeyText(const lldd_cache_key &key);

// The name of a cache, or of one of its batch entries, without the cluster. Request ids and prefix
// ids are different names; a blocks cache of model m has the request id LLDD_ID_UNSET.
struct CacheName {
    bool prefix = false;
    uint64_t id = 0;
    uint64_t model_id = 0;

    // `key` is LLDD_KEY_REQUEST or LLDD_KEY_BLOCKS.
    static CacheName Of(const lldd_cache_key &key);
    static CacheName OfBlocks(uint64_t model_id) { return {false, LLDD_ID_UNSET, model_id}; }

    // Only blocks caches are bound under it; in a list of request keys it is a placeholder.
    bool names_blocks() const { return !prefix && id == LLDD_ID_UNSET; }
    // "BlocksCacheKey with model_id 3", "req_id 7, model_id 0", "prefix_id 7, model_id 0".
    std::string ToString() const;

    friend bool operator<(const CacheName &a, const CacheName &b) {
        return std::tie(a.prefix, a.id, a.model_id) < std::tie(b.prefix, b.id, b.model_id);
    }
    friend bool operator==(const CacheName &a, const CacheName &b) {
        return std::tie(a.prefix, a.id, a.model_id) == std::tie(b.prefix, b.id, b.model_id);
    }
};

// Where a key leads to: what has that name or, without a name, the cache of that id. A key by id
// tells the batch index itself; a name is bound to one.
struct KeyTarget {
    std::optional<CacheName> name;
    int64_t cache_id = 0;
    std::optional<uint64_t> batch_index;
};

// The target of a key that is pulled from, in both modes; none: such a key leads nowhere. An id is
// a positive number. Only a key of kind LLDD_KEY_BLOCKS leads to a blocks cache by its name, since
// a request key without req_id and prefix_id is a placeholder.
std::optional<KeyTarget> TargetOfPull(const lldd_cache_key &key);

// The same for a key that is pushed to. Id 0 is the name (request 0, model 0). LLDD_PARAM_INVALID:
// nothing is pushed to such a key.
Status TargetOfPush(const lldd_cache_key &key, KeyTarget *target);

}  // namespace lldd
