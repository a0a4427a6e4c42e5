// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/endpoint.h"

#include <cstring>
#include <type_traits>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the mock runtime's messages are little-endian"
#endif

namespace lldd::mock {
namespace {

constexpr uint32_t kMagic = 0x50454D4C;  // "LMEP"
constexpr uint32_t kVersion = 1;

struct Header {
    uint32_t magic;
    uint32_t version;
    uint32_t transports;
    uint32_t pid;
    uint32_t uid;
    uint32_t traceable_by_all;
    uint64_t cookie_addr;
    uint8_t cookie[16];
    uint8_t channel[16];
    uint64_t num_regions;
};
static_assert(sizeof(Header) == 72 && std::is_trivially_copyable_v<Header>, "no padding");

struct WireRegion {
    uint32_t slot;
    uint32_t generation;
    uint64_t addr;
    uint64_t size;
    uint32_t pool;
    uint32_t reserved;
};
static_assert(sizeof(WireRegion) == 32 && std::is_trivially_copyable_v<WireRegion>, "no padding");

Status Malformed(const char *what) {
    return Failure(LLDD_FAILED, "the peer's endpoint is malformed: %s", what);
}

}  // namespace

std::string EncodeEndpoint(const EndpointData &endpoint) {
    Header header{};
    header.magic = kMagic;
    header.version = kVersion;
    header.transports = endpoint.transports;
    header.pid = endpoint.process.pid;
    header.uid = endpoint.process.uid;
    header.traceable_by_all = endpoint.process.traceable_by_all ? 1 : 0;
    header.cookie_addr = endpoint.process.cookie_addr;
    std::memcpy(header.cookie, endpoint.process.cookie.data(), sizeof header.cookie);
    std::memcpy(header.channel, endpoint.channel.data(), sizeof header.channel);
    header.num_regions = endpoint.regions.size();
    std::string bytes;
    bytes.reserve(sizeof header + endpoint.regions.size() * sizeof(WireRegion));
    bytes.append(reinterpret_cast<const char *>(&header), sizeof header);
    for (const Region &region : endpoint.regions) {
        const WireRegion wire{
            region.name.slot, region.name.generation, region.addr, region.size, region.pool, 0};
        bytes.append(reinterpret_cast<const char *>(&wire), sizeof wire);
    }
    return bytes;
}

Status DecodeEndpoint(const std::string &bytes, EndpointData *endpoint) {
    Header header;
    if (bytes.size() < sizeof header) return Malformed("too short");
    std::memcpy(&header, bytes.data(), sizeof header);
    if (header.magic != kMagic) return Malformed("another runtime's");
    if (header.version != kVersion) return Malformed("another version's");
    if (header.num_regions > kMostRegions) return Malformed("too many regions");
    if (bytes.size() - sizeof header != header.num_regions * sizeof(WireRegion)) {
        return Malformed("its length does not fit its regions");
    }
    EndpointData read;
    read.transports = header.transports;
    read.process.pid = header.pid;
    read.process.uid = header.uid;
    read.process.traceable_by_all = header.traceable_by_all == 1;
    read.process.cookie_addr = header.cookie_addr;
    std::memcpy(read.process.cookie.data(), header.cookie, sizeof header.cookie);
    std::memcpy(read.channel.data(), header.channel, sizeof header.channel);
    read.regions.reserve(static_cast<size_t>(header.num_regions));
    for (uint64_t i = 0; i < header.num_regions; ++i) {
        WireRegion wire;
        std::memcpy(&wire, bytes.data() + sizeof header + i * sizeof wire, sizeof wire);
        if (wire.slot >= kMostRegions || (wire.generation & 1) == 0) {
            return Malformed("a region without a name");
        }
        if (wire.size == 0 || wire.size - 1 > UINT64_MAX - wire.addr) {
            return Malformed("a region past the end of the address space");
        }
        read.regions.push_back({{wire.addr, wire.size}, {wire.slot, wire.generation}, wire.pool});
    }
    *endpoint = std::move(read);
    return Status::Ok();
}

}  // namespace lldd::mock
