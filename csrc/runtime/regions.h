// Regions of memory by address: which one an address is in.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace lldd {

// Never empty, and not past the end of the address space. What a runtime knows of a region, it adds
// by deriving from this.
struct AddressRange {
    uint64_t addr = 0;
    uint64_t size = 0;

    uint64_t last() const { return addr + (size - 1); }
    bool Contains(uint64_t start, uint64_t length) const {
        return start >= addr && start - addr < size && length <= size - (start - addr);
    }
    // `length`, or less where the region ends before; the address is in the region.
    uint64_t Within(uint64_t address, uint64_t length) const {
        return std::min(length, size - (address - addr));
    }
};

// Regions (anything derived from AddressRange); they may overlap. Not thread-safe.
template <typename Region>
class SortedRegions {
public:
    void Assign(std::vector<Region> regions) {
        regions_ = std::move(regions);
        std::sort(regions_.begin(), regions_.end(),
                  [](const Region &a, const Region &b) { return a.addr < b.addr; });
        Measure();
    }

    size_t size() const { return regions_.size(); }
    const Region &operator[](size_t index) const { return regions_[index]; }
    // Address and size of a region must stay as they are.
    Region &operator[](size_t index) { return regions_[index]; }
    const std::vector<Region> &all() const { return regions_; }

    // The place of a region that the address is in: one that `is_preferred` if there is any, else
    // another one; size(): no region holds it.
    template <typename IsPreferred>
    size_t Find(uint64_t address, const IsPreferred &is_preferred) const {
        const auto after = std::upper_bound(
            regions_.begin(), regions_.end(), address,
            [](uint64_t value, const Region &region) { return value < region.addr; });
        size_t other = regions_.size();
        for (auto i = static_cast<size_t>(after - regions_.begin()); i > 0; --i) {
            const Region &region = regions_[i - 1];
            if (region.last() >= address) {
                if (is_preferred(region)) return i - 1;
                other = i - 1;
            }
            // Nothing further to the left reaches so far.
            if (furthest_[i - 1] < address) break;
        }
        return other;
    }

    void Remove(size_t index) {
        regions_.erase(regions_.begin() + static_cast<std::ptrdiff_t>(index));
        Measure();
    }

private:
    void Measure() {
        furthest_.clear();
        furthest_.reserve(regions_.size());
        for (const Region &region : regions_) {
            const uint64_t before = furthest_.empty() ? 0 : furthest_.back();
            furthest_.push_back(std::max(before, region.last()));
        }
    }

    std::vector<Region> regions_;     // by address
    std::vector<uint64_t> furthest_;  // the last byte of any region up to this one
};

}  // namespace lldd
