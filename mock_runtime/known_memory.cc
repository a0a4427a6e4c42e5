// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/known_memory.h"

#include <iterator>

namespace lldd::mock {

void KnownMemory::Change(uint64_t addr, uint64_t size, int64_t by) {
    MutexLock lock(mutex_);
    const uint64_t end = addr + size;
    const auto first = BoundaryAtLocked(addr);
    // A range may reach the end of the address space, where no boundary can be.
    const auto last = end == 0 ? cover_.end() : BoundaryAtLocked(end);
    for (auto boundary = first; boundary != last; ++boundary) boundary->second += by;
    DropIfLevelLocked(first);
    if (last != cover_.end()) DropIfLevelLocked(last);
    version_.fetch_add(1, std::memory_order_release);
}

KnownMemory::Boundaries::iterator KnownMemory::BoundaryAtLocked(uint64_t addr) {
    const auto next = cover_.lower_bound(addr);
    if (next != cover_.end() && next->first == addr) return next;
    return cover_.emplace_hint(next, addr, next == cover_.begin() ? 0 : std::prev(next)->second);
}

// Ranges that meet become one.
void KnownMemory::DropIfLevelLocked(Boundaries::iterator boundary) {
    const int64_t before = boundary == cover_.begin() ? 0 : std::prev(boundary)->second;
    if (boundary->second == before) cover_.erase(boundary);
}

bool KnownMemory::View::Ask(uint64_t addr, uint64_t size) {
    MutexLock lock(memory_.mutex_);
    const Boundaries &cover = memory_.cover_;
    auto next = cover.upper_bound(addr);
    if (next == cover.begin() || std::prev(next)->second == 0) return false;
    const uint64_t start = std::prev(next)->first;
    // Looks only as far as the question reaches: a few steps where ranges overlap, one elsewhere.
    while (next != cover.end() && next->second != 0 && next->first - addr < size) ++next;
    const uint64_t last = next == cover.end() ? UINT64_MAX : next->first - 1;
    if (size - 1 > last - addr) return false;
    version_ = memory_.version_.load(std::memory_order_relaxed);
    start_ = start;
    last_ = last;
    return true;
}

}  // namespace lldd::mock
