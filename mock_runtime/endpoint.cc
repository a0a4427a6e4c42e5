// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/endpoint.h"

#include <utility>

#include "base/codec.h"
#include "mock_runtime/region_table.h"

namespace lldd::mock {
namespace {

constexpr uint32_t kMagic = 0x50454D4C;  // "LMEP"
constexpr uint32_t kVersion = 2;
constexpr size_t kHeadBytes = 72;
constexpr size_t kRegionBytes = 32;

Status Malformed(const char *what) {
    return Failure(LLDD_FAILED, "the peer's endpoint is malformed: %s", what);
}

Status DecodeRegion(Reader *reader, Region *region) {
    region->name.slot = reader->Number<uint32_t>();
    region->name.generation = reader->Number<uint32_t>();
    region->addr = reader->Number<uint64_t>();
    region->size = reader->Number<uint64_t>();
    region->pool = reader->Number<uint32_t>();
    const auto placement = reader->Number<uint32_t>();
    if (placement > LLDD_PLACEMENT_DEVICE) return Malformed("a region of no known placement");
    region->placement = static_cast<Placement>(placement);
    if (region->name.slot >= kMostRegions || (region->name.generation & 1) == 0) {
        return Malformed("a region without a name");
    }
    if (region->size == 0 || region->size - 1 > UINT64_MAX - region->addr) {
        return Malformed("a region past the end of the address space");
    }
    return Status::Ok();
}

}  // namespace

std::string EncodeEndpoint(const EndpointData &endpoint) {
    Writer writer;
    writer.Reserve(kHeadBytes + endpoint.regions.size() * kRegionBytes);
    writer.Number(kMagic);
    writer.Number(kVersion);
    writer.Number(endpoint.transports);
    writer.Number(endpoint.process.pid);
    writer.Number(endpoint.process.uid);
    writer.Number(uint32_t{endpoint.process.traceable_by_all});
    writer.Number(endpoint.process.cookie_addr);
    writer.Raw(endpoint.process.cookie.data(), endpoint.process.cookie.size());
    writer.Raw(endpoint.channel.data(), endpoint.channel.size());
    writer.Number(uint64_t{endpoint.regions.size()});
    for (const Region &region : endpoint.regions) {
        writer.Number(region.name.slot);
        writer.Number(region.name.generation);
        writer.Number(region.addr);
        writer.Number(region.size);
        writer.Number(region.pool);
        writer.Number(static_cast<uint32_t>(region.placement));
    }
    return writer.Take();
}

Status DecodeEndpoint(const std::string &bytes, EndpointData *endpoint) {
    if (bytes.size() < kHeadBytes) return Malformed("too short");
    Reader reader(bytes);
    if (reader.Number<uint32_t>() != kMagic) return Malformed("another runtime's");
    const auto version = reader.Number<uint32_t>();
    if (version != kVersion) {
        return Failure(LLDD_FAILED, "the peer's endpoint has version %u, this runtime speaks %u",
                       version, kVersion);
    }
    EndpointData read;
    read.transports = reader.Number<uint32_t>();
    read.process.pid = reader.Number<uint32_t>();
    read.process.uid = reader.Number<uint32_t>();
    read.process.traceable_by_all = reader.Number<uint32_t>() == 1;
    read.process.cookie_addr = reader.Number<uint64_t>();
    reader.Raw(read.process.cookie.data(), read.process.cookie.size());
    reader.Raw(read.channel.data(), read.channel.size());
    const auto num_regions = reader.Number<uint64_t>();
    if (num_regions > kMostRegions) return Malformed("too many regions");
    if (reader.left() != num_regions * kRegionBytes) {
        return Malformed("its length does not fit its regions");
    }
    read.regions.resize(static_cast<size_t>(num_regions));
    for (Region &region : read.regions) LLDD_RETURN_IF_ERROR(DecodeRegion(&reader, &region));
    *endpoint = std::move(read);
    return Status::Ok();
}

}  // namespace lldd::mock
