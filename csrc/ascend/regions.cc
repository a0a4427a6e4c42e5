// SPDX-License-Identifier: Apache-2.0
#include "ascend/regions.h"

#include "base/codec.h"

namespace lldd::ascend {
namespace {

constexpr uint32_t kMagic = 0x50454141;  // "AAEP"
constexpr uint32_t kVersion = 1;
constexpr size_t kRegionBytes = 25;
constexpr size_t kLongestName = 64;

}  // namespace

void Regions::Assign(std::vector<Region> regions) {
    regions_ = std::move(regions);
    std::sort(regions_.begin(), regions_.end(),
              [](const Region &a, const Region &b) { return a.addr < b.addr; });
    Measure();
}

bool Regions::Remove(uint64_t id, Region *removed) {
    const auto found = std::find_if(regions_.begin(), regions_.end(),
                                    [id](const Region &region) { return region.id == id; });
    if (found == regions_.end()) return false;
    *removed = *found;
    regions_.erase(found);
    Measure();
    return true;
}

void Regions::Measure() {
    furthest_.clear();
    for (const Region &region : regions_) {
        const uint64_t before = furthest_.empty() ? 0 : furthest_.back();
        furthest_.push_back(std::max(before, region.last()));
    }
}

const Region *Regions::Find(uint64_t addr) const {
    const auto after =
        std::upper_bound(regions_.begin(), regions_.end(), addr,
                         [](uint64_t value, const Region &region) { return value < region.addr; });
    for (auto i = static_cast<size_t>(after - regions_.begin()); i > 0; --i) {
        if (regions_[i - 1].last() >= addr) return &regions_[i - 1];
        // Nothing further to the left reaches so far.
        if (furthest_[i - 1] < addr) break;
    }
    return nullptr;
}

std::string EndpointData::Encode() const {
    Writer writer;
    writer.Number(kMagic);
    writer.Number(kVersion);
    writer.Bytes(engine);
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
    if (reader.Number<uint32_t>() != kVersion) return malformed("another version's");
    engine = reader.Bytes();
    const auto count = reader.Number<uint64_t>();
    if (engine.empty() || engine.size() > kLongestName) return malformed("no HIXL engine");
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
