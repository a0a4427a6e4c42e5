// Page-granular allocation over one region of memory, which it never touches.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"

namespace lldd {

constexpr uint32_t kDefaultPageShift = 16;

// LLDD_PARAM_INVALID unless a pool of `size` bytes may have pages of 2^page_shift bytes. `name`
// ("device", "host") is for the text.
Status CheckPoolConfig(const char *name, uint64_t size, uint32_t page_shift);

// Thread-safe. Each operation takes O(log n) of the number of spans.
class PagePool {
public:
    // The configuration has passed CheckPoolConfig. A page that the region ends in is not used.
    PagePool(uint64_t base, uint64_t size, uint32_t page_shift);
    PagePool(const PagePool &) = delete;
    PagePool &operator=(const PagePool &) = delete;

    // Whole pages, at least one: a free span that fits exactly, else the high end of the smallest
    // larger one.
    std::optional<uint64_t> Allocate(uint64_t size);
    // `count` allocations of the same size, or none at all (false; addrs is left as it was).
    bool AllocateAll(uint64_t size, uint32_t count, std::vector<uint64_t> *addrs);
    // Takes back what Allocate gave. False, without effect, for any other address.
    bool Free(uint64_t addr);

    uint64_t free_bytes() const;
    // Of whole pages.
    uint64_t size() const { return num_pages_ << page_shift_; }
    // What Allocate(size) takes; saturates.
    uint64_t RoundUp(uint64_t size) const;

private:
    // Free spans by (pages, first page).
    using SizeIndex = std::set<std::pair<uint64_t, uint64_t>>;
    struct Span {
        uint64_t pages;
        // While the span is used: its place in the index, kept so that freeing allocates nothing
        // and cannot fail.
        SizeIndex::node_type unlisted;

        bool free() const { return unlisted.empty(); }
    };
    using Spans = std::map<uint64_t, Span>;

    uint64_t PagesFor(uint64_t size) const;
    std::optional<uint64_t> AllocatePagesLocked(uint64_t pages) LLDD_REQUIRES(mutex_);
    void FreeSpanLocked(Spans::iterator span) LLDD_REQUIRES(mutex_);

    const uint64_t base_;
    const uint32_t page_shift_;
    const uint64_t num_pages_;

    mutable Mutex mutex_;
    // By first page, without gaps; no two neighbours are free.
    Spans spans_ LLDD_GUARDED_BY(mutex_);
    SizeIndex free_by_size_ LLDD_GUARDED_BY(mutex_);
    uint64_t free_pages_ LLDD_GUARDED_BY(mutex_) = 0;
};

}  // namespace lldd
