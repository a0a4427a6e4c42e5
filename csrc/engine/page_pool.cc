// SPDX-License-Identifier: Apache-2.0
#include "engine/page_pool.h"

#include <iterator>
#include <limits>
#include <utility>

namespace lldd {
namespace {

constexpr uint32_t kMinPageShift = 10;
constexpr uint32_t kMaxPageShift = 30;
constexpr uint64_t kPageLimit = 0xFFFFFFFF;

}  // namespace

Status CheckPoolConfig(const char *name, uint64_t size, uint32_t page_shift) {
    if (page_shift < kMinPageShift || page_shift > kMaxPageShift) {
        return Failure(LLDD_PARAM_INVALID, "page_shift of the %s pool is %u, allowed are %u to %u",
                       name, page_shift, kMinPageShift, kMaxPageShift);
    }
    const uint64_t pages = size >> page_shift;
    if (pages == 0) {
        return Failure(LLDD_PARAM_INVALID,
                       "the %s pool has %llu bytes, less than one page of %llu (page_shift %u)",
                       name, Printable(size), Printable(uint64_t{1} << page_shift), page_shift);
    }
    if (pages >= kPageLimit) {
        return Failure(
            LLDD_PARAM_INVALID,
            "the %s pool of %llu bytes has %llu pages (page_shift %u), allowed are less than %llu",
            name, Printable(size), Printable(pages), page_shift, Printable(kPageLimit));
    }
    return Status::Ok();
}

PagePool::PagePool(uint64_t base, uint64_t size, uint32_t page_shift)
    : base_(base), page_shift_(page_shift), num_pages_(size >> page_shift) {
    if (num_pages_ == 0) return;
    spans_.emplace(0, Span{num_pages_, {}});
    free_by_size_.emplace(num_pages_, 0);
    free_pages_ = num_pages_;
}

std::optional<uint64_t> PagePool::Allocate(uint64_t size) {
    const MutexLock lock(mutex_);
    const std::optional<uint64_t> page = AllocatePagesLocked(PagesFor(size));
    if (!page) return std::nullopt;
    return base_ + (*page << page_shift_);
}

bool PagePool::AllocateAll(uint64_t size, uint32_t count, std::vector<uint64_t> *addrs) {
    const uint64_t pages = PagesFor(size);
    const MutexLock lock(mutex_);
    // Keeps a senseless count from taking memory below.
    if (count > free_pages_ / pages) return false;
    const size_t before = addrs->size();
    addrs->reserve(before + count);
    const auto undo = [&]() LLDD_REQUIRES(mutex_) {
        for (; addrs->size() > before; addrs->pop_back()) {
            FreeSpanLocked(spans_.find((addrs->back() - base_) >> page_shift_));
        }
    };
    try {
        for (uint32_t i = 0; i < count; ++i) {
            const std::optional<uint64_t> page = AllocatePagesLocked(pages);
            if (!page) {
                undo();
                return false;
            }
            addrs->push_back(base_ + (*page << page_shift_));
        }
    } catch (...) {
        undo();
        throw;
    }
    return true;
}

bool PagePool::Free(uint64_t addr) {
    const MutexLock lock(mutex_);
    const uint64_t offset = addr - base_;
    if (addr < base_ || (offset & ((uint64_t{1} << page_shift_) - 1)) != 0) return false;
    const auto span = spans_.find(offset >> page_shift_);
    if (span == spans_.end() || span->second.free()) return false;
    FreeSpanLocked(span);
    return true;
}

uint64_t PagePool::free_bytes() const {
    const MutexLock lock(mutex_);
    return free_pages_ << page_shift_;
}

uint64_t PagePool::RoundUp(uint64_t size) const {
    const uint64_t pages = PagesFor(size);
    const uint64_t max = std::numeric_limits<uint64_t>::max();
    return pages > max >> page_shift_ ? max : pages << page_shift_;
}

uint64_t PagePool::PagesFor(uint64_t size) const {
    const uint64_t mask = (uint64_t{1} << page_shift_) - 1;
    const uint64_t pages = (size >> page_shift_) + ((size & mask) != 0 ? 1 : 0);
    return pages == 0 ? 1 : pages;
}

std::optional<uint64_t> PagePool::AllocatePagesLocked(uint64_t pages) {
    // The first span that is not smaller: an exact fit comes before every larger one.
    const auto fit = free_by_size_.lower_bound({pages, 0});
    if (fit == free_by_size_.end()) return std::nullopt;
    const auto span = spans_.find(fit->second);
    uint64_t first = span->first;
    if (fit->first == pages) {
        span->second.unlisted = free_by_size_.extract(fit);
    } else {
        const uint64_t left = fit->first - pages;
        first += left;
        SizeIndex one;
        one.emplace(pages, first);
        spans_.emplace(first, Span{pages, one.extract(one.begin())});
        // Nothing below can throw.
        span->second.pages = left;
        auto listed = free_by_size_.extract(fit);
        listed.value().first = left;
        free_by_size_.insert(std::move(listed));
    }
    free_pages_ -= pages;
    return first;
}

void PagePool::FreeSpanLocked(Spans::iterator span) {
    free_pages_ += span->second.pages;
    auto listed = std::move(span->second.unlisted);
    const auto after = std::next(span);
    if (after != spans_.end() && after->second.free()) {
        free_by_size_.erase({after->second.pages, after->first});
        span->second.pages += after->second.pages;
        spans_.erase(after);
    }
    if (span != spans_.begin() && std::prev(span)->second.free()) {
        const auto before = std::prev(span);
        free_by_size_.erase({before->second.pages, before->first});
        before->second.pages += span->second.pages;
        spans_.erase(span);
        span = before;
    }
    listed.value() = {span->second.pages, span->first};
    free_by_size_.insert(std::move(listed));
}

}  // namespace lldd
