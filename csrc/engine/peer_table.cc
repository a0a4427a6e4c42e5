// SPDX-License-Identifier: Apache-2.0
#include "engine/peer_table.h"

#include <algorithm>

namespace lldd {

void EncodeCache(const Cache &cache, Writer *writer) {
    const CacheShape &shape = cache.shape;
    writer->Number(cache.id);
    writer->Number(shape.num_tensors);
    writer->Number(static_cast<uint8_t>(shape.blocks));
    writer->Number(static_cast<uint8_t>(shape.placement));
    writer->Number(static_cast<uint8_t>(cache.remote_accessible));
    writer->Number(shape.data_type);
    writer->Number(shape.tensor_bytes);
    writer->Number(shape.count);
    writer->Number(static_cast<uint8_t>(cache.dims.size()));
    for (const int64_t dim : cache.dims) writer->Number(dim);
    for (const uint64_t addr : cache.addrs) writer->Number(addr);
}

bool DecodeCache(Reader *reader, bool with_dims, PeerCache *cache) {
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
    const uint32_t num_dims = reader->Number<uint8_t>();
    if (num_dims > kMaxDims) return false;
    if (with_dims) cache->dims.reserve(num_dims);
    for (uint32_t i = 0; i < num_dims; ++i) {
        const auto dim = reader->Number<int64_t>();
        if (with_dims) cache->dims.push_back(dim);
    }
    if (!reader->ok() || !CheckShape(shape).ok()) return false;
    if (shape.num_tensors > reader->left() / sizeof(uint64_t)) return false;
    cache->addrs.resize(shape.num_tensors);
    for (uint64_t &addr : cache->addrs) addr = reader->Number<uint64_t>();
    return reader->ok();
}

uint64_t PeerTable::EncodedBytes(const CacheTableSize &size) {
    return 16 + 36 * size.caches + 8 * (size.tensors + size.dims) + 32 * size.names;
}

std::string PeerTable::Encode(const CacheTable &table) {
    Writer writer;
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

bool PeerTable::Decode(std::string_view bytes, bool with_dims, PeerTable *table, bool *written) {
    Reader reader(bytes);
    PeerTable read;
    *written = reader.Number<uint64_t>() != 0;
    const auto num_caches = reader.Number<uint32_t>();
    for (uint32_t i = 0; i < num_caches && reader.ok(); ++i) {
        PeerCache cache;
        if (!DecodeCache(&reader, with_dims, &cache)) return false;
        if (!read.caches_.empty() && read.caches_.back().id >= cache.id) return false;
        read.caches_.push_back(std::move(cache));
    }
    const auto num_names = reader.Number<uint32_t>();
    for (uint32_t i = 0; i < num_names && reader.ok(); ++i) {
        Name name{};
        name.req_id = reader.Number<uint64_t>();
        name.model_id = reader.Number<uint64_t>();
        const PeerCache *const cache = read.FindId(reader.Number<int64_t>());
        name.batch_index = reader.Number<uint64_t>();
        if (cache == nullptr) return false;
        name.cache = static_cast<uint32_t>(cache - read.caches_.data());
        if (!read.names_.empty() && !(read.names_.back() < name)) return false;
        read.names_.push_back(name);
    }
    if (!reader.Done()) return false;
    read.names_.shrink_to_fit();
    *table = std::move(read);
    return true;
}

const PeerCache *PeerTable::FindId(int64_t cache_id) const {
    const auto found =
        std::lower_bound(caches_.begin(), caches_.end(), cache_id,
                         [](const PeerCache &cache, int64_t id) { return cache.id < id; });
    return found != caches_.end() && found->id == cache_id ? &*found : nullptr;
}

std::vector<PeerTable::Name>::const_iterator PeerTable::FirstName(uint64_t req_id,
                                                                  uint64_t model_id) const {
    return std::lower_bound(names_.begin(), names_.end(), Name{req_id, model_id, 0, 0});
}

PeerTable::Found PeerTable::Find(const KeyTarget &target) const {
    Found found;
    if (!target.name.has_value()) {
        found.cache = FindId(target.cache_id);
    } else if (!target.name->prefix) {  // names with a prefix are not part of a table
        const uint64_t req_id = target.name->id;
        const uint64_t model_id = target.name->model_id;
        const auto name = FirstName(req_id, model_id);
        if (name != names_.end() && name->req_id == req_id && name->model_id == model_id)
            found = {&caches_[name->cache], name->batch_index};
    }
    found.batch_index = target.batch_index.value_or(found.batch_index);
    return found;
}

std::string PeerTable::DescribeBlocksNames() const {
    // They are the last ones.
    const auto first = FirstName(LLDD_ID_UNSET, 0);
    std::vector<uint64_t> model_ids;
    for (auto name = first; name != names_.end() && model_ids.size() < kNamesShown; ++name)
        model_ids.push_back(name->model_id);
    return DescribeBlocks(model_ids, static_cast<uint64_t>(names_.end() - first));
}

std::string PeerTable::DescribeIds() const {
    if (caches_.empty()) return "no caches";
    std::string text = "caches";
    for (size_t i = 0; i < caches_.size(); ++i) {
        if (i == kNamesShown) return text + ", ...";
        text += Format("%s %lld", i == 0 ? "" : ",", Printable(caches_[i].id));
    }
    return text;
}

}  // namespace lldd
