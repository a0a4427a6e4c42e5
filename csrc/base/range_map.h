// Values of address ranges that may overlap: which ranges hold an address.
//
// Ranges are kept by how long they are, each class twice as long as the one before, and by address
// within their class. In a class, only ranges that begin less than its longest before an address
// can hold it: of ranges that do not overlap, these are a handful. So a search is logarithmic in
// the number of ranges, and linear only in those that overlap there.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>

namespace lldd {

// Not thread-safe. Sizes are not 0, and no range wraps around.
template <typename Value>
class RangeMap {
public:
    // Null: there is no value of exactly that range.
    Value *Find(uint64_t start, uint64_t size) {
        const auto ranges = classes_.find(ClassOf(size));
        if (ranges == classes_.end()) return nullptr;
        const auto found = ranges->second.find({start, size});
        return found == ranges->second.end() ? nullptr : &found->second;
    }
    // The value of that range, a fresh one if there was none.
    Value &Get(uint64_t start, uint64_t size) { return classes_[ClassOf(size)][{start, size}]; }
    void Erase(uint64_t start, uint64_t size) {
        const auto ranges = classes_.find(ClassOf(size));
        if (ranges != classes_.end()) ranges->second.erase({start, size});
    }
    void Clear() { classes_.clear(); }

    // Calls visit(start, size, value) for all ranges.
    template <typename Visit>
    void ForEach(const Visit &visit) const {
        for (const auto &ranges : classes_) {
            for (const auto &entry : ranges.second)
                visit(entry.first.first, entry.first.second, entry.second);
        }
    }
    // The same for those that have a byte of [start, start + size), in no order.
    template <typename Visit>
    void ForEachOverlapping(uint64_t start, uint64_t size, const Visit &visit) const {
        const uint64_t last = start + (size - 1);
        for (const auto &ranges : classes_) {
            const uint64_t longest = (uint64_t{2} << ranges.first) - 1;  // 2^64 - 1 of the last one
            const uint64_t first = start < longest ? 0 : start - longest + 1;
            auto entry = ranges.second.lower_bound({first, 0});
            for (; entry != ranges.second.end() && entry->first.first <= last; ++entry) {
                const auto [at, length] = entry->first;
                if (at + (length - 1) >= start) visit(at, length, entry->second);
            }
        }
    }

private:
    using Key = std::pair<uint64_t, uint64_t>;  // start and size

    static int ClassOf(uint64_t size) { return 63 - __builtin_clzll(size); }

    std::map<int, std::map<Key, Value>> classes_;
};

}  // namespace lldd
