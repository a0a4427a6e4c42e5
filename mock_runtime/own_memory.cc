// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/own_memory.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "base/address.h"
#include "base/control_groups.h"
#include "base/log.h"
#include "mock_runtime/host_memory.h"

namespace lldd::mock {
namespace {

// Snapshots are used within the making of their link; more than this are never under way at once.
constexpr size_t kMostMarks = 4096;
// What is left to the rest of the machine when a pool grows.
constexpr uint64_t kLeftFree = 64U << 20;

// How much registrations of this process have populated; see MayPopulate.
std::atomic<uint64_t> g_populated{0};

// Registration populates at most a quarter of what was free before the first of them.
bool MayPopulate(PageRange range, const std::string &host_root) {
    uint64_t absent = 0;
    if (!CountAbsent(range, 0, &absent)) return false;
    // The usual case, and most of the time of a registration: how much is free need not be asked.
    if (absent == 0) return true;
    const uint64_t available = FindAvailableMemory(host_root).bytes;
    if (!CountAbsent(range, available, &absent)) return false;
    const uint64_t before = g_populated.fetch_add(absent);
    if (before + absent <= (available + before) / 4) return true;
    g_populated.fetch_sub(absent);
    return false;
}

// Whether the range can be read and written; populates it where that is in bounds. Whole pages are
// looked at, because only so the ends are known to be writable; populating changes no byte of them.
bool ProbeMapped(uint64_t addr, uint64_t size, const std::string &host_root) {
    const PageRange pages = RoundOutward(addr, size);
    if (pages.addr + pages.size != 0 && MayPopulate(pages, host_root)) {
        const Populated populated = PopulateForWriting(pages);
        if (populated != Populated::kUnknown) return populated == Populated::kYes;
    }
    return IsMapped(addr, size, true);
}

// Keeps or gives back whole pages of registered memory to children. Failure is not an error: the
// range may not be mapped at all.
void Advise(uint64_t addr, uint64_t size, int advice) {
    const PageRange pages = RoundInward(addr, size);
    if (pages.size == 0) return;
    if (madvise(Pointer(pages.addr), pages.size, advice) != 0) {
        LLDD_LOG(LLDD_LOG_INFO, "madvise(%#llx, %llu, %d) failed with errno %d",
                 Printable(pages.addr), Printable(pages.size), advice, errno);
    }
}

}  // namespace

Status OwnMemory::Create(bool exclude_from_fork, const std::string &host_root,
                         std::unique_ptr<OwnMemory> *memory) {
    std::unique_ptr<OwnMemory> made(new OwnMemory(exclude_from_fork, host_root));
    LLDD_RETURN_IF_ERROR(RegionTable::Create(&made->table_));
    *memory = std::move(made);
    return Status::Ok();
}

OwnMemory::~OwnMemory() {
    if (!exclude_from_fork_) return;
    registrations_.ForEach([](uint64_t addr, uint64_t size, const Registration &) {
        Advise(addr, size, MADV_DOFORK);
    });
}

void OwnMemory::UseSlotLocked(uint32_t slot, const Slot &use) {
    if (slot >= slots_.size()) slots_.resize(size_t{slot} + 1);
    slots_[slot] = use;
}

Status OwnMemory::AllocatePool(Placement placement, uint64_t size, uint64_t *addr) {
    if (size == 0 || size > UINT64_MAX - PageSize()) {
        return Failure(LLDD_OUT_OF_MEMORY, "a pool of %llu bytes is not possible", Printable(size));
    }
    Pool pool;
    pool.placement = placement;
    const char *name = placement == Placement::kDevice ? "lldd-device-pool" : "lldd-host-pool";
    LLDD_RETURN_IF_ERROR(SharedMemory::Create(name, RoundOutward(0, size).size,
                                              SharedMemory::Writers::kAll, &pool.memory));
    MutexLock lock(mutex_);
    LLDD_RETURN_IF_ERROR(table_.Add(&pool.name));
    pool.number = next_pool_++;
    *addr = pool.memory.address();
    // Pools are reachable whenever they were made, so they count as old as the device.
    UseSlotLocked(pool.name.slot, {pool.memory.address(), pool.memory.size(), 0});
    known_.Add(pool.memory.address(), pool.memory.size());
    pools_.push_back(std::move(pool));
    return Status::Ok();
}

void OwnMemory::FreePool(uint64_t addr) {
    MutexLock lock(mutex_);
    const auto pool = std::find_if(pools_.begin(), pools_.end(), [addr](const Pool &candidate) {
        return candidate.memory.address() == addr;
    });
    if (pool == pools_.end()) return;
    table_.Withdraw(pool->name);
    UseSlotLocked(pool->name.slot, {});
    known_.Remove(pool->memory.address(), pool->memory.size());
    pools_.erase(pool);
}

Status OwnMemory::Commit(uint64_t addr, uint64_t size) {
    if (size == 0) return Status::Ok();
    PageRange pages;
    int fd = -1;
    uint64_t offset = 0;
    {
        MutexLock lock(mutex_);
        for (const Pool &pool : pools_) {
            const AddressRange whole{pool.memory.address(), pool.memory.size()};
            if (!whole.Contains(addr, size)) continue;
            pages = RoundOutward(addr, size);
            fd = pool.memory.fd();
            offset = pages.addr - pool.memory.address();
        }
    }
    if (fd < 0) {
        return Failure(LLDD_PARAM_INVALID, "%#llx with %llu bytes is not in a pool",
                       Printable(addr), Printable(size));
    }
    uint64_t absent = 0;
    const AvailableMemory available = FindAvailableMemory(host_root_);
    if (!CountAbsent(pages, available.bytes, &absent)) absent = pages.size;
    if (absent == 0) return Status::Ok();
    if (absent + kLeftFree > available.bytes) {
        return Failure(LLDD_OUT_OF_MEMORY,
                       "%llu bytes of the pool are needed, %llu are available %s",
                       Printable(pages.size), Printable(available.bytes), available.where.c_str());
    }
    const Populated populated = PopulateForWriting(pages);
    if (populated == Populated::kUnknown &&
        fallocate(fd, 0, static_cast<off_t>(offset), static_cast<off_t>(pages.size)) != 0) {
        return ErrnoFailure(LLDD_OUT_OF_MEMORY, errno, "no memory for %llu bytes of the pool",
                            Printable(pages.size));
    }
    if (populated == Populated::kNotUsable) {
        return Failure(LLDD_OUT_OF_MEMORY, "no memory for %llu bytes of the pool",
                       Printable(pages.size));
    }
    return Status::Ok();
}

Status OwnMemory::Register(uint64_t addr, uint64_t size, Placement placement) {
    if (size == 0 || addr == 0 || size - 1 > UINT64_MAX - addr) {
        return Failure(LLDD_PARAM_INVALID, "%#llx with %llu bytes is no range of the address space",
                       Printable(addr), Printable(size));
    }
    {
        MutexLock lock(mutex_);
        Registration *const found = registrations_.Find(addr, size);
        if (found != nullptr) {
            ++found->count;
            found->placement = placement;
            return Status::Ok();
        }
    }
    // Outside the lock: it may populate gigabytes.
    const bool mapped = ProbeMapped(addr, size, host_root_);
    MutexLock lock(mutex_);
    Registration &registration = registrations_.Get(addr, size);
    if (registration.count == 0) {
        const Status added = table_.Add(&registration.name);
        if (!added.ok()) {
            registrations_.Erase(addr, size);
            return added;
        }
        registration.order = next_order_++;
        registration.mapped = mapped;
        registration.placement = placement;
        UseSlotLocked(registration.name.slot, {addr, size, registration.order});
        if (mapped) known_.Add(addr, size);
        if (exclude_from_fork_) Advise(addr, size, MADV_DONTFORK);
        ++num_registrations_;
    }
    ++registration.count;
    return Status::Ok();
}

Status OwnMemory::Unregister(uint64_t addr, uint64_t size, bool *withdrawn, uint64_t *order) {
    *withdrawn = false;
    MutexLock lock(mutex_);
    Registration *const found = size == 0 ? nullptr : registrations_.Find(addr, size);
    if (found == nullptr) {
        return Failure(LLDD_PARAM_INVALID, "%#llx with %llu bytes is not registered",
                       Printable(addr), Printable(size));
    }
    if (--found->count > 0) return Status::Ok();
    table_.Withdraw(found->name);
    UseSlotLocked(found->name.slot, {});
    if (found->mapped) known_.Remove(addr, size);
    *order = found->order;
    // A peer that an earlier call has left inside may know the range from then only.
    const auto left = left_in_use_.find({addr, size});
    if (left != left_in_use_.end()) *order = std::min(*order, left->second);
    *withdrawn = true;
    registrations_.Erase(addr, size);
    --num_registrations_;
    if (exclude_from_fork_) RestoreForkLocked(addr, size);
    return Status::Ok();
}

void OwnMemory::LeaveInUse(uint64_t addr, uint64_t size, uint64_t order, bool in_use) {
    MutexLock lock(mutex_);
    if (in_use) {
        left_in_use_[{addr, size}] = order;
    } else {
        left_in_use_.erase({addr, size});
    }
}

bool OwnMemory::WasLeftInUse(uint64_t addr, uint64_t size, uint64_t *order) const {
    MutexLock lock(mutex_);
    const auto found = left_in_use_.find({addr, size});
    if (found == left_in_use_.end()) return false;
    *order = found->second;
    return true;
}

// Children get the range again, but for what other registrations still keep from them.
void OwnMemory::RestoreForkLocked(uint64_t addr, uint64_t size) {
    Advise(addr, size, MADV_DOFORK);
    registrations_.ForEachOverlapping(
        addr, size, [](uint64_t other, uint64_t other_size, const Registration &) {
            Advise(other, other_size, MADV_DONTFORK);
        });
}

std::vector<Region> OwnMemory::Snapshot(const LinkNonce &nonce) {
    MutexLock lock(mutex_);
    marks_.emplace_back(nonce, next_order_);
    if (marks_.size() > kMostMarks) marks_.pop_front();
    std::vector<Region> regions;
    regions.reserve(pools_.size() + num_registrations_);
    for (const Pool &pool : pools_) {
        regions.push_back(
            {{pool.memory.address(), pool.memory.size()}, pool.name, pool.number, pool.placement});
    }
    registrations_.ForEach([&](uint64_t addr, uint64_t size, const Registration &registration) {
        regions.push_back(
            {{addr, size}, registration.name, Region::kNoPool, registration.placement});
    });
    return regions;
}

uint64_t OwnMemory::SnapshotMark(const LinkNonce &nonce) const {
    MutexLock lock(mutex_);
    const auto found = std::find_if(marks_.rbegin(), marks_.rend(),
                                    [&](const auto &mark) { return mark.first == nonce; });
    // Without a snapshot the peer has learnt of no region: it may reach pools, which are older.
    return found != marks_.rend() ? found->second : 1;
}

OwnMemory::Claim OwnMemory::Check(uint64_t mark, uint64_t addr, uint64_t length,
                                  RegionName *name) const {
    MutexLock lock(mutex_);
    const auto covers = [&](uint64_t start, uint64_t size, uint64_t order) {
        return order < mark && AddressRange{start, size}.Contains(addr, length);
    };
    if (table_.IsLive(*name)) {
        const Slot &slot = slots_[name->slot];
        return covers(slot.addr, slot.size, slot.order) ? Claim::kAllowed : Claim::kUnknown;
    }
    // Rare: the range may be covered by another region that the peer knows as well.
    Claim claim = Claim::kWithdrawn;
    registrations_.ForEachOverlapping(
        addr, 1, [&](uint64_t start, uint64_t size, const Registration &registration) {
            if (!covers(start, size, registration.order)) return;
            *name = registration.name;
            claim = Claim::kAllowed;
        });
    return claim;
}

bool OwnMemory::Reaches(uint64_t mark, uint64_t addr, uint64_t length) const {
    MutexLock lock(mutex_);
    while (length > 0) {
        uint64_t taken = 0;
        const auto look = [&](const AddressRange &range) {
            if (range.Contains(addr, 1)) taken = std::max(taken, range.Within(addr, length));
        };
        for (const Pool &pool : pools_) look({pool.memory.address(), pool.memory.size()});
        registrations_.ForEachOverlapping(
            addr, 1, [&](uint64_t start, uint64_t size, const Registration &registration) {
                if (registration.order < mark) look({start, size});
            });
        if (taken == 0) return false;
        addr += taken;
        length -= taken;
    }
    return true;
}

Placement OwnMemory::PlacementOf(uint64_t addr, AddressRange *range) const {
    MutexLock lock(mutex_);
    for (const Pool &pool : pools_) {
        *range = {pool.memory.address(), pool.memory.size()};
        if (range->Contains(addr, 1)) return pool.placement;
    }
    *range = {addr, 1};
    Placement placement = Placement::kHost;
    registrations_.ForEachOverlapping(
        addr, 1, [&](uint64_t start, uint64_t size, const Registration &registration) {
            *range = {start, size};
            placement = registration.placement;
        });
    return placement;
}

std::vector<OwnMemory::PoolDescriptor> OwnMemory::PoolDescriptors() const {
    MutexLock lock(mutex_);
    std::vector<PoolDescriptor> descriptors;
    descriptors.reserve(pools_.size());
    for (const Pool &pool : pools_) {
        descriptors.push_back({pool.number, pool.memory.fd(), pool.memory.size()});
    }
    return descriptors;
}

OwnMemory::Census OwnMemory::Count() const {
    MutexLock lock(mutex_);
    Census census;
    census.pools = pools_.size();
    for (const Pool &pool : pools_) census.pool_bytes += pool.memory.size();
    census.registrations = num_registrations_;
    registrations_.ForEach([&](uint64_t, uint64_t, const Registration &registration) {
        if (registration.mapped) ++census.known_mapped;
    });
    return census;
}

}  // namespace lldd::mock
