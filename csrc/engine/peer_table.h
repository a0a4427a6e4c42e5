// What one end of a link knows of the caches of the other: the table of one-sided mode.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "base/codec.h"
#include "engine/cache_key.h"
#include "engine/cache_store.h"
#include "engine/tensor.h"

namespace lldd {

struct PeerCache {
    int64_t id = 0;
    CacheShape shape;
    bool remote_accessible = false;
    std::vector<int64_t> dims;  // empty where they were not asked for
    std::vector<uint64_t> addrs;
};

// One cache on the wire.
void EncodeCache(const Cache &cache, Writer *writer);
// False if the bytes are not a cache. `with_dims`: keep the dimensions; a link may have a million
// caches.
bool DecodeCache(Reader *reader, bool with_dims, PeerCache *cache);

class PeerTable {
public:
    struct Found {
        const PeerCache *cache = nullptr;  // null: there is none
        uint64_t batch_index = 0;
    };

    // What Encode makes of a table of that size.
    static uint64_t EncodedBytes(const CacheTableSize &size);
    static std::string Encode(const CacheTable &table);
    // False if the bytes are not a table. `written`: the peer ever had a cache.
    static bool Decode(std::string_view bytes, bool with_dims, PeerTable *table, bool *written);

    Found Find(const KeyTarget &target) const;

    // For error texts: "blocks caches for model_id 0, 1", "caches 1, 2, 5".
    std::string DescribeBlocksNames() const;
    std::string DescribeIds() const;

private:
    struct Name {
        uint64_t req_id;
        uint64_t model_id;
        uint64_t batch_index;
        uint32_t cache;  // its place in caches_

        friend bool operator<(const Name &a, const Name &b) {
            return std::tie(a.req_id, a.model_id) < std::tie(b.req_id, b.model_id);
        }
    };

    const PeerCache *FindId(int64_t cache_id) const;
    std::vector<Name>::const_iterator FirstName(uint64_t req_id, uint64_t model_id) const;

    // Sorted arrays, by id and by name, as they come: a link may have a million names.
    std::vector<PeerCache> caches_;
    std::vector<Name> names_;
};

}  // namespace lldd
