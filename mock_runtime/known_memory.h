// Memory of this process that was found mapped for reading and writing and may be touched directly.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <map>

#include "base/mutex.h"

namespace lldd::mock {

// Ranges that come and go, and may overlap. Thread-safe; a change and a question take the logarithm
// of the number of ranges.
class KnownMemory {
public:
    void Add(uint64_t addr, uint64_t size) { Change(addr, size, 1); }
    // A range that was added.
    void Remove(uint64_t addr, uint64_t size) { Change(addr, size, -1); }

    // Asks about it, one thread at a time; neighbouring questions take no lock.
    class View {
    public:
        explicit View(const KnownMemory &memory) : memory_(memory) {}
        // Whether all of it is known. Size is not 0.
        bool Contains(uint64_t addr, uint64_t size) {
            const bool answered = addr >= start_ && addr <= last_ && size - 1 <= last_ - addr &&
                                  memory_.version_.load(std::memory_order_acquire) == version_;
            return answered || Ask(addr, size);
        }

    private:
        bool Ask(uint64_t addr, uint64_t size);

        const KnownMemory &memory_;
        // What was known in one piece at that version; nothing at 0, which no memory ever has.
        uint64_t version_ = 0;
        uint64_t start_ = 1;
        uint64_t last_ = 0;
    };

private:
    // How many ranges cover the addresses from one boundary to the next.
    using Boundaries = std::map<uint64_t, int64_t>;

    void Change(uint64_t addr, uint64_t size, int64_t by);
    Boundaries::iterator BoundaryAtLocked(uint64_t addr) LLDD_REQUIRES(mutex_);
    void DropIfLevelLocked(Boundaries::iterator boundary) LLDD_REQUIRES(mutex_);

    mutable Mutex mutex_;
    Boundaries cover_ LLDD_GUARDED_BY(mutex_);
    std::atomic<uint64_t> version_{1};
};

}  // namespace lldd::mock
