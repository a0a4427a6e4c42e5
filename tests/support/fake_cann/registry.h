// The registered memory of a process, by device: engines on one device share it, handles included.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <set>

#include "hixl/hixl_types.h"

namespace hixl {

struct Region {
    uintptr_t addr;
    size_t len;
    MemType type;
    uint64_t id;
    std::set<const void *> engines;
    // In the table of segments: connections that are made from now on know it.
    bool listed = true;

    bool Contains(uintptr_t start, size_t length) const {
        return start >= addr && start - addr < len && length <= len - (start - addr);
    }
};

// What a connection knows: ids of regions.
using Snapshot = std::set<uint64_t>;

class Registry {
public:
    // Of the device of this context.
    static Registry &Of(const void *context);

    Status Register(const void *engine, const MemDesc &mem, MemType type, MemHandle *handle);
    // `bound` is asked for the id of the region: whether a connection knows it. What is refused is
    // not in the table of segments any more.
    template <typename Bound>
    Status Deregister(MemHandle handle, const Bound &bound) {
        std::lock_guard<std::mutex> lock(mutex_);
        for (auto region = regions_.begin(); region != regions_.end(); ++region) {
            if (&*region != handle) continue;
            const Status refused = bound(region->id);
            if (refused == SUCCESS)
                regions_.erase(region);
            else
                region->listed = false;
            return refused;
        }
        return SUCCESS;
    }
    // With the engine goes all that it registered, even what others have registered, too.
    void TakeAway(const void *engine);

    Snapshot Known(const void *engine) const;
    // The region of the snapshot that the range lies in. False: none.
    bool Find(uintptr_t addr, size_t len, const Snapshot &known, MemType *type) const;

private:
    mutable std::mutex mutex_;
    std::list<Region> regions_;  // a handle is the address of one
    uint64_t next_id_ = 1;
};

}  // namespace hixl
