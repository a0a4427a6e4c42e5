// SPDX-License-Identifier: Apache-2.0
#include "engine/cache_key.h"

namespace lldd {

bool IsKeyKind(uint32_t kind) { return kind >= LLDD_KEY_REQUEST && kind <= LLDD_KEY_BLOCKS; }

std::string KeyText(const lldd_cache_key &key) {
    if (key.kind == LLDD_KEY_ID) {
        return Format("cache id %lld, batch index %u", Printable(key.cache_id), key.batch_index);
    }
    return CacheName::Of(key).ToString();
}

CacheName CacheName::Of(const lldd_cache_key &key) {
    if (key.kind == LLDD_KEY_BLOCKS) return OfBlocks(key.model_id);
    if (key.prefix_id != LLDD_ID_UNSET) return {true, key.prefix_id, key.model_id};
    return {false, key.req_id, key.model_id};
}

std::string CacheName::ToString() const {
    if (names_blocks()) return Format("BlocksCacheKey with model_id %llu", Printable(model_id));
    return Format("%s %llu, model_id %llu", prefix ? "prefix_id" : "req_id", Printable(id),
                  Printable(model_id));
}

std::optional<KeyTarget> TargetOfPull(const lldd_cache_key &key) {
    if (key.kind == LLDD_KEY_ID) {
        if (key.cache_id <= 0) return std::nullopt;
        return KeyTarget{std::nullopt, key.cache_id, key.batch_index};
    }
    const CacheName name = CacheName::Of(key);
    if (name.names_blocks() != (key.kind == LLDD_KEY_BLOCKS)) return std::nullopt;
    return KeyTarget{name, 0, std::nullopt};
}

Status TargetOfPush(const lldd_cache_key &key, KeyTarget *target) {
    if (key.kind == LLDD_KEY_BLOCKS) {
        *target = {CacheName::OfBlocks(key.model_id), 0, std::nullopt};
        return Status::Ok();
    }
    if (key.kind != LLDD_KEY_ID) {
        return Failure(LLDD_PARAM_INVALID,
                       "the destination's key kind is %u, allowed are blocks (%d) and id (%d)",
                       key.kind, LLDD_KEY_BLOCKS, LLDD_KEY_ID);
    }
    if (key.cache_id < 0) {
        return Failure(LLDD_PARAM_INVALID,
                       "the destination's cache id is %lld, it must not be negative",
                       Printable(key.cache_id));
    }
    *target = {std::nullopt, key.cache_id, key.batch_index};
    if (key.cache_id == 0) target->name = CacheName{false, 0, 0};
    return Status::Ok();
}

}  // namespace lldd
