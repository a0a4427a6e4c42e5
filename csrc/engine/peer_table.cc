// SPDX-License-Identifier: Apache-2.0
#include "engine/peer_table.h"

namespace lldd {
namespace {

// So many caches are named in an error text.
constexpr size_t kListed = 16;

}  // namespace

void EncodeCache(const Cache &cache, wire::Writer *writer) {
    const CacheShape &shape = cache.shape;
    writer->Number(cache.id);
    writer->Number(shape.num_tensors);
    writer->Number(static_cast<uint8_t>(shape.blocks));
    writer->Number(static_cast<uint8_t>(shape.placement));
    writer->Number(static_cast<uint8_t>(cache.remote_accessible));
    writer->Number(shape.data_type);
    writer->Number(shape.tensor_bytes);
    writer->Number(shape.count);
    for (const uint64_t addr : cache.addrs) writer->Number(addr);
}

bool DecodeCache(wire::Reader *reader, PeerCache *cache) {
    CacheShape &shape = cache->shape;
    cache->id = reader->Number<int64_t>();
    shape.num_tensors = reader->Number<uint32_t>();
    shape.blocks = reader->Number<uint8_t>() != 0;
    shape.placement =
        reader->Number<uint8_t>() == LLDD_PLACEMENT_HOST ? Placement::kHost : Placement::kDevice;
    cache->remote_accessible = reader->Number<uint8_t>() != 0;
    shape.data_type = reader->Number<uint32_t>();
    shape.tensor_bytes = reader->Number<uint64_t>();
    shape.count = reader->Number<uint64_t>();
    if (!reader->ok() || !CheckShape(shape).ok()) return false;
    if (shape.num_tensors > reader->left() / sizeof(uint64_t)) return false;
    cache->addrs.resize(shape.num_tensors);
    for (uint64_t &addr : cache->addrs) addr = reader->Number<uint64_t>();
    return reader->ok();
}

std::string KeyText(const lldd_cache_key &key) {
    if (key.kind == LLDD_KEY_ID) {
        return Format("cache id %lld, batch index %u", static_cast<long long>(key.cache_id),
                      key.batch_index);
    }
    return CacheName::Of(key).ToString();
}

std::string PeerTable::Encode(const CacheTable &table) {
    wire::Writer writer;
    writer.Number(table.version);
    writer.Number(static_cast<uint32_t>(table.caches.size()));
    for (const CacheRef &cache : table.caches) EncodeCache(*cache, &writer);
    writer.Number(static_cast<uint32_t>(table.names.size()));
    for (const CacheTable::Name &name : table.names) {
        writer.Number(name.req_id);
        writer.Number(name.model_id);
        writer.Number(name.cache_id);
        writer.Number(name.batch_index);
    }
    return writer.Take();
}

bool PeerTable::Decode(std::string_view bytes, PeerTable *table, bool *written) {
    wire::Reader reader(bytes);
    PeerTable read;
    *written = reader.Number<uint64_t>() != 0;
    const auto num_caches = reader.Number<uint32_t>();
    for (uint32_t i = 0; i < num_caches && reader.ok(); ++i) {
        PeerCache cache;
        if (!DecodeCache(&reader, &cache)) return false;
        read.by_id_[cache.id] = read.caches_.size();
        read.caches_.push_back(std::move(cache));
    }
    const auto num_names = reader.Number<uint32_t>();
    for (uint32_t i = 0; i < num_names && reader.ok(); ++i) {
        const auto req_id = reader.Number<uint64_t>();
        const auto model_id = reader.Number<uint64_t>();
        const auto cache_id = reader.Number<int64_t>();
        const auto batch_index = reader.Number<uint64_t>();
        const auto cache = read.by_id_.find(cache_id);
        if (cache == read.by_id_.end()) return false;
        read.by_name_[{req_id, model_id}] = Place{cache->second, batch_index};
    }
    if (!reader.Done()) return false;
    *table = std::move(read);
    return true;
}

PeerTable::Found PeerTable::ById(int64_t cache_id) const {
    const auto found = by_id_.find(cache_id);
    if (found == by_id_.end()) return {};
    return {&caches_[found->second], 0};
}

PeerTable::Found PeerTable::ByName(uint64_t req_id, uint64_t model_id) const {
    const auto found = by_name_.find({req_id, model_id});
    if (found == by_name_.end()) return {};
    return {&caches_[found->second.cache], found->second.batch_index};
}

std::string PeerTable::DescribeBlocksNames() const {
    std::vector<uint64_t> model_ids;
    for (const auto &entry : by_name_) {
        if (entry.first.first == LLDD_ID_UNSET) model_ids.push_back(entry.first.second);
    }
    return DescribeBlocks(model_ids);
}

std::string PeerTable::DescribeIds() const {
    if (by_id_.empty()) return "no caches";
    std::string text = "caches";
    size_t listed = 0;
    for (const auto &entry : by_id_) {
        if (listed == kListed) return text + ", ...";
        text += Format("%s %lld", listed++ == 0 ? "" : ",", static_cast<long long>(entry.first));
    }
    return text;
}

}  // namespace lldd
