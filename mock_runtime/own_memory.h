// The memory of this process that a device knows: pools and registrations.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/range_map.h"
#include "mock_runtime/known_memory.h"
#include "mock_runtime/region.h"
#include "mock_runtime/region_table.h"
#include "mock_runtime/shared_memory.h"
#include "runtime/runtime.h"

namespace lldd::mock {

struct Pool {
    uint32_t number = 0;
    RegionName name;
    Placement placement = Placement::kHost;
    SharedMemory memory;
};

// Thread-safe.
class OwnMemory {
public:
    // exclude_from_fork: children do not get the whole pages of registered memory.
    // host_root: where the kernel's files are read, see base/control_groups.h.
    static Status Create(bool exclude_from_fork, const std::string &host_root,
                         std::unique_ptr<OwnMemory> *memory);
    ~OwnMemory();

    Status AllocatePool(Placement placement, uint64_t size, uint64_t *addr);
    void FreePool(uint64_t addr);
    Status Commit(uint64_t addr, uint64_t size);

    Status Register(uint64_t addr, uint64_t size, Placement placement);
    // *withdrawn: that was the last registration of the range; its generation has ended, and the
    // caller must wait for peers that may still be inside: those with a snapshot mark above *order.
    Status Unregister(uint64_t addr, uint64_t size, bool *withdrawn, uint64_t *order);

    // Remembers of a withdrawn range whether a peer was still inside when the caller's time was over.
    void LeaveInUse(uint64_t addr, uint64_t size, uint64_t order, bool in_use);
    bool WasLeftInUse(uint64_t addr, uint64_t size, uint64_t *order) const;

    // Everything a peer may reach that connects under this nonce. What is registered later is not.
    std::vector<Region> Snapshot(const LinkNonce &nonce);
    // The mark that separates what was in that snapshot from what came later.
    uint64_t SnapshotMark(const LinkNonce &nonce) const;

    // What a request of a peer for a range under a region's name may touch.
    enum class Claim { kAllowed, kWithdrawn, kUnknown };
    // *name becomes another region that covers the range if only the named one is gone.
    Claim Check(uint64_t mark, uint64_t addr, uint64_t length, RegionName *name) const;
    // Whether a peer of that mark may reach all of the range, in whichever regions. No range that
    // wraps around.
    bool Reaches(uint64_t mark, uint64_t addr, uint64_t length) const;
    // Of the pool or registration that has the address, *range; without one, of host memory that is
    // the address alone.
    Placement PlacementOf(uint64_t addr, AddressRange *range) const;
    // Whether a checked name still holds. Takes no lock.
    bool IsLive(RegionName name) const { return table_.IsLive(name); }

    // The part of it that was found mapped for reading and writing and may be touched directly.
    const KnownMemory &known() const { return known_; }

    int table_fd() const { return table_.fd(); }
    // Descriptors for a same-host peer; they belong to the pools.
    struct PoolDescriptor {
        uint32_t number;
        int fd;
        uint64_t size;
    };
    std::vector<PoolDescriptor> PoolDescriptors() const;

    struct Census {
        size_t pools = 0;
        uint64_t pool_bytes = 0;
        size_t registrations = 0;
        size_t known_mapped = 0;
    };
    Census Count() const;

private:
    struct Registration {
        RegionName name;
        uint64_t count = 0;
        uint64_t order = 0;   // when it was made, counted over the device's life
        bool mapped = false;  // readable and writable when it was registered
        Placement placement = Placement::kHost;
    };
    struct Slot {
        uint64_t addr = 0;
        uint64_t size = 0;  // 0: the slot is not used
        uint64_t order = 0;
    };

    OwnMemory(bool exclude_from_fork, std::string host_root)
        : exclude_from_fork_(exclude_from_fork), host_root_(std::move(host_root)) {}
    void UseSlotLocked(uint32_t slot, const Slot &use) LLDD_REQUIRES(mutex_);
    void RestoreForkLocked(uint64_t addr, uint64_t size) LLDD_REQUIRES(mutex_);

    const bool exclude_from_fork_;
    const std::string host_root_;
    mutable Mutex mutex_;
    RegionTable table_;
    std::vector<Pool> pools_ LLDD_GUARDED_BY(mutex_);
    RangeMap<Registration> registrations_ LLDD_GUARDED_BY(mutex_);
    size_t num_registrations_ LLDD_GUARDED_BY(mutex_) = 0;
    // By address and size: the order of the withdrawn registration.
    std::map<std::pair<uint64_t, uint64_t>, uint64_t> left_in_use_ LLDD_GUARDED_BY(mutex_);
    std::vector<Slot> slots_ LLDD_GUARDED_BY(mutex_);  // of the region table
    std::deque<std::pair<LinkNonce, uint64_t>> marks_ LLDD_GUARDED_BY(mutex_);
    uint64_t next_order_ LLDD_GUARDED_BY(mutex_) = 1;
    uint32_t next_pool_ LLDD_GUARDED_BY(mutex_) = 0;
    KnownMemory known_;
};

}  // namespace lldd::mock
