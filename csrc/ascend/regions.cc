// SPDX-License-Identifier: Apache-2.0
#include "ascend/regions.h"

#include "base/codec.h"

namespace lldd::ascend {
namespace {

constexpr uint32_t kMagic = 0x50454141;  // "AAEP"
constexpr uint32_t kVersion = 2;
constexpr size_t kRegionBytes = 25;
constexpr size_t kLongestName = 64;
constexpr size_t kLongestText = 256;

}  // namespace

const Region *Find(const Regions &regions, uint64_t addr) {
    const size_t found = regions.Find(addr, [](const Region &) { return true; });
    return found < regions.size() ? &regions[found] : nullptr;
}

bool Remove(uint64_t id, Regions *regions, Region *removed) {
    for (size_t i = 0; i < regions->size(); ++i) {
        if ((*regions)[i].id != id) continue;
        *removed = (*regions)[i];
        regions->Remove(i);
        return true;
    }
    return false;
}

std::string EndpointData::Encode() const {
    Writer writer;
    writer.Number(kMagic);
    writer.Number(kVersion);
    writer.Bytes(engine);
    writer.Bytes(process.host);
    writer.Number(static_cast<uint64_t>(process.pid));
    writer.Number(process.started);
    writer.Bytes(device);
    writer.Bytes(buffer_pool);
    writer.Number(uint64_t{regions.size()});
    for (const Region &region : regions) {
        writer.Number(region.id);
        writer.Number(region.addr);
        writer.Number(region.size);
        writer.Number(static_cast<uint8_t>(region.pool));
    }
    return writer.Take();
}

Status EndpointData::Decode(const std::string &bytes) {
    const auto malformed = [](const char *what) {
        return Failure(LLDD_FAILED, "the peer's endpoint is malformed: %s", what);
    };
    Reader reader(bytes);
    if (reader.Number<uint32_t>() != kMagic) return malformed("another runtime's");
    const auto version = reader.Number<uint32_t>();
    if (version != kVersion) {
        return Failure(LLDD_FAILED, "the peer's endpoint has version %u, this runtime speaks %u",
                       version, kVersion);
    }
    engine = reader.Bytes();
    process.host = reader.Bytes();
    process.pid = static_cast<int32_t>(reader.Number<uint64_t>());
    process.started = reader.Number<uint64_t>();
    device = reader.Bytes();
    buffer_pool = reader.Bytes();
    const auto count = reader.Number<uint64_t>();
    if (engine.empty() || engine.size() > kLongestName) return malformed("no HIXL engine");
    if (process.host.size() > kLongestText || device.size() > kLongestText ||
        buffer_pool.size() > kLongestText)
        return malformed("a text that is too long");
    if (reader.left() % kRegionBytes != 0 || reader.left() / kRegionBytes != count)
        return malformed("its length does not fit its regions");
    regions.clear();
    regions.reserve(static_cast<size_t>(count));
    for (uint64_t i = 0; i < count; ++i) {
        Region region;
        region.id = reader.Number<uint64_t>();
        region.addr = reader.Number<uint64_t>();
        region.size = reader.Number<uint64_t>();
        region.pool = reader.Number<uint8_t>() != 0;
        if (region.size == 0 || region.size - 1 > UINT64_MAX - region.addr)
            return malformed("a region past the end of the address space");
        regions.push_back(region);
    }
    return reader.Done() ? Status::Ok() : malformed("it cannot be read");
}

}  // namespace lldd::ascend
