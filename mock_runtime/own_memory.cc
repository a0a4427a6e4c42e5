// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/own_memory.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "mock_runtime/host_memory.h"

namespace lldd::mock {
namespace {

// Snapshots are used within the making of their link; more than this are never under way at once.
constexpr size_t kMostMarks = 4096;
// What is left to the rest of the machine when a pool grows.
constexpr uint64_t kLeftFree = 64U << 20;

unsigned long long Hex(uint64_t addr) { return addr; }

// How much registrations of this process have populated; see MayPopulate.
std::atomic<uint64_t> g_populated{0};

// Registration populates at most a quarter of what was free before the first of them.
bool MayPopulate(PageRange range) {
    uint64_t absent = 0;
    const uint64_t available = AvailableMemory();
    if (!CountAbsent(range, available, &absent)) return false;
    const uint64_t before = g_populated.fetch_add(absent);
    if (before + absent <= (available + before) / 4) return true;
    g_populated.fetch_sub(absent);
    return false;
}

// Whether the range can be read and written; populates it where that is in bounds. Whole pages are
// looked at, because only so the ends are known to be writable; populating changes no byte of them.
bool ProbeMapped(uint64_t addr, uint64_t size) {
    const PageRange pages = RoundOutward(addr, size);
    if (pages.addr + pages.size != 0 && MayPopulate(pages)) {
        const Populated populated = PopulateForWriting(pages);
        if (populated != Populated::kUnknown) return populated == Populated::kYes;
    }
    return IsMapped(addr, size, true);
}

// Keeps or gives back whole pages of registered memory to children. Failure is no error: the range
// may not be mapped at all.
void Advise(uint64_t addr, uint64_t size, int advice) {
    const PageRange pages = RoundInward(addr, size);
    if (pages.size == 0) return;
    if (madvise(reinterpret_cast<void *>(pages.addr), pages.size, advice) != 0) {
        LLDD_LOG(LLDD_LOG_INFO, "madvise(%#llx, %llu, %d) failed with errno %d", Hex(pages.addr),
                 Hex(pages.size), advice, errno);
    }
}

}  // namespace

KnownMemory::KnownMemory(std::vector<Range> ranges) {
    std::sort(ranges.begin(), ranges.end(),
              [](const Range &a, const Range &b) { return a.start < b.start; });
    for (const Range &range : ranges) {
        if (!ranges_.empty() && range.start - 1 <= ranges_.back().end) {
            ranges_.back().end = std::max(ranges_.back().end, range.end);
        } else {
            ranges_.push_back(range);
        }
    }
}

bool KnownMemory::Search(uint64_t addr, uint64_t size, size_t *hint) const {
    auto next =
        std::upper_bound(ranges_.begin(), ranges_.end(), addr,
                         [](uint64_t value, const Range &range) { return value < range.start; });
    if (next == ranges_.begin()) return false;
    --next;
    if (addr > next->end || size - 1 > next->end - addr) return false;
    *hint = static_cast<size_t>(next - ranges_.begin());
    return true;
}

Status OwnMemory::Create(bool exclude_from_fork, std::unique_ptr<OwnMemory> *memory) {
    std::unique_ptr<OwnMemory> made(new OwnMemory(exclude_from_fork));
    LLDD_RETURN_IF_ERROR(RegionTable::Create(&made->table_));
    *memory = std::move(made);
    return Status::Ok();
}

OwnMemory::~OwnMemory() {
    if (!exclude_from_fork_) return;
    for (const auto &entry : registrations_)
        Advise(entry.first.first, entry.first.second, MADV_DOFORK);
}

Status OwnMemory::AllocatePool(Placement placement, uint64_t size, uint64_t *addr) {
    if (size == 0 || size > UINT64_MAX - PageSize()) {
        return Failure(LLDD_OUT_OF_MEMORY, "a pool of %llu bytes is not possible", Hex(size));
    }
    Pool pool;
    pool.placement = placement;
    const char *name = placement == Placement::kDevice ? "lldd-device-pool" : "lldd-host-pool";
    LLDD_RETURN_IF_ERROR(SharedMemory::Create(name, RoundOutward(0, size).size,
                                              SharedMemory::Writers::kAll, &pool.memory));
    std::lock_guard<std::mutex> lock(mutex_);
    LLDD_RETURN_IF_ERROR(table_.Add(&pool.name));
    pool.number = next_pool_++;
    *addr = pool.memory.address();
    // Pools are reachable whenever they were made, so they count as old as the device.
    by_slot_[pool.name.slot] = {{pool.memory.address(), pool.memory.size()}, 0};
    pools_.push_back(std::move(pool));
    Changed();
    return Status::Ok();
}

void OwnMemory::FreePool(uint64_t addr) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto pool = std::find_if(pools_.begin(), pools_.end(), [addr](const Pool &candidate) {
        return candidate.memory.address() == addr;
    });
    if (pool == pools_.end()) return;
    table_.Withdraw(pool->name);
    by_slot_.erase(pool->name.slot);
    pools_.erase(pool);
    Changed();
}

Status OwnMemory::Commit(uint64_t addr, uint64_t size) {
    if (size == 0) return Status::Ok();
    PageRange pages;
    int fd = -1;
    uint64_t offset = 0;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        for (const Pool &pool : pools_) {
            const Region whole{pool.name, pool.memory.address(), pool.memory.size(), pool.number};
            if (!whole.Contains(addr, size)) continue;
            pages = RoundOutward(addr, size);
            fd = pool.memory.fd();
            offset = pages.addr - pool.memory.address();
        }
    }
    if (fd < 0) {
        return Failure(LLDD_PARAM_INVALID, "%#llx with %llu bytes is not in a pool", Hex(addr),
                       Hex(size));
    }
    uint64_t absent = 0;
    const uint64_t available = AvailableMemory();
    if (!CountAbsent(pages, available, &absent)) absent = pages.size;
    if (absent == 0) return Status::Ok();
    if (absent + kLeftFree > available) {
        return Failure(LLDD_OUT_OF_MEMORY,
                       "%llu bytes of the pool are needed, %llu are available on this machine",
                       Hex(pages.size), Hex(available));
    }
    const Populated populated = PopulateForWriting(pages);
    if (populated == Populated::kUnknown &&
        fallocate(fd, 0, static_cast<off_t>(offset), static_cast<off_t>(pages.size)) != 0) {
        return ErrnoFailure(LLDD_OUT_OF_MEMORY, errno, "no memory for %llu bytes of the pool",
                            Hex(pages.size));
    }
    if (populated == Populated::kNotUsable) {
        return Failure(LLDD_OUT_OF_MEMORY, "no memory for %llu bytes of the pool", Hex(pages.size));
    }
    return Status::Ok();
}

Status OwnMemory::Register(uint64_t addr, uint64_t size, Placement) {
    if (size == 0 || addr == 0 || size - 1 > UINT64_MAX - addr) {
        return Failure(LLDD_PARAM_INVALID, "%#llx with %llu bytes is no range of the address space",
                       Hex(addr), Hex(size));
    }
    {
        std::lock_guard<std::mutex> lock(mutex_);
        const auto found = registrations_.find({addr, size});
        if (found != registrations_.end()) {
            ++found->second.count;
            return Status::Ok();
        }
    }
    // Outside the lock: it may populate gigabytes.
    const bool mapped = ProbeMapped(addr, size);
    std::lock_guard<std::mutex> lock(mutex_);
    Registration &registration = registrations_[{addr, size}];
    if (registration.count == 0) {
        const Status added = table_.Add(&registration.name);
        if (!added.ok()) {
            registrations_.erase({addr, size});
            return added;
        }
        registration.order = next_order_++;
        registration.mapped = mapped;
        by_slot_[registration.name.slot] = {{addr, size}, registration.order};
        if (exclude_from_fork_) Advise(addr, size, MADV_DONTFORK);
        Changed();
    }
    ++registration.count;
    return Status::Ok();
}

Status OwnMemory::Unregister(uint64_t addr, uint64_t size, bool *withdrawn) {
    *withdrawn = false;
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = registrations_.find({addr, size});
    if (found == registrations_.end()) {
        return Failure(LLDD_PARAM_INVALID, "%#llx with %llu bytes is not registered", Hex(addr),
                       Hex(size));
    }
    if (--found->second.count > 0) return Status::Ok();
    table_.Withdraw(found->second.name);
    by_slot_.erase(found->second.name.slot);
    registrations_.erase(found);
    if (exclude_from_fork_) RestoreForkOf({addr, size});
    Changed();
    *withdrawn = true;
    return Status::Ok();
}

// Children get the range again, but for what other registrations still keep from them.
void OwnMemory::RestoreForkOf(const RangeKey &removed) {
    Advise(removed.first, removed.second, MADV_DOFORK);
    const uint64_t last = removed.first + (removed.second - 1);
    for (const auto &entry : registrations_) {
        const RangeKey &other = entry.first;
        if (other.first > last) break;
        if (other.first + (other.second - 1) < removed.first) continue;
        Advise(other.first, other.second, MADV_DONTFORK);
    }
}

std::vector<Region> OwnMemory::Snapshot(const LinkNonce &nonce) {
    std::lock_guard<std::mutex> lock(mutex_);
    marks_.emplace_back(nonce, next_order_);
    if (marks_.size() > kMostMarks) marks_.pop_front();
    std::vector<Region> regions;
    regions.reserve(pools_.size() + registrations_.size());
    for (const Pool &pool : pools_) {
        regions.push_back({pool.name, pool.memory.address(), pool.memory.size(), pool.number});
    }
    for (const auto &entry : registrations_) {
        regions.push_back(
            {entry.second.name, entry.first.first, entry.first.second, Region::kNoPool});
    }
    return regions;
}

uint64_t OwnMemory::SnapshotMark(const LinkNonce &nonce) const {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = std::find_if(marks_.rbegin(), marks_.rend(),
                                    [&](const auto &mark) { return mark.first == nonce; });
    // Without a snapshot the peer has learnt of no region: it may reach pools, which are older.
    return found != marks_.rend() ? found->second : 1;
}

OwnMemory::Claim OwnMemory::Check(uint64_t mark, uint64_t addr, uint64_t length,
                                  RegionName *name) const {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto covers = [&](const RangeKey &range, uint64_t order) {
        return order < mark && Region{{}, range.first, range.second, 0}.Contains(addr, length);
    };
    if (table_.IsLive(*name)) {
        const auto found = by_slot_.find(name->slot);
        const bool allowed =
            found != by_slot_.end() && covers(found->second.first, found->second.second);
        return allowed ? Claim::kAllowed : Claim::kUnknown;
    }
    // Rare: the range may be covered by another region that the peer knows as well.
    for (const auto &entry : registrations_) {
        if (entry.first.first > addr) break;
        if (covers(entry.first, entry.second.order)) {
            *name = entry.second.name;
            return Claim::kAllowed;
        }
    }
    return Claim::kWithdrawn;
}

std::shared_ptr<const KnownMemory> OwnMemory::Known() const {
    std::lock_guard<std::mutex> lock(mutex_);
    const uint64_t version = version_.load(std::memory_order_relaxed);
    if (known_ == nullptr || known_version_ != version) {
        std::vector<KnownMemory::Range> ranges;
        for (const Pool &pool : pools_) {
            ranges.push_back(
                {pool.memory.address(), pool.memory.address() + pool.memory.size() - 1});
        }
        for (const auto &entry : registrations_) {
            if (!entry.second.mapped) continue;
            ranges.push_back({entry.first.first, entry.first.first + (entry.first.second - 1)});
        }
        known_ = std::make_shared<const KnownMemory>(std::move(ranges));
        known_version_ = version;
    }
    return known_;
}

std::vector<OwnMemory::PoolDescriptor> OwnMemory::PoolDescriptors() const {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<PoolDescriptor> descriptors;
    for (const Pool &pool : pools_) {
        descriptors.push_back({pool.number, pool.memory.fd(), pool.memory.size()});
    }
    return descriptors;
}

OwnMemory::Census OwnMemory::Count() const {
    std::lock_guard<std::mutex> lock(mutex_);
    Census census;
    census.pools = pools_.size();
    for (const Pool &pool : pools_) census.pool_bytes += pool.memory.size();
    census.registrations = registrations_.size();
    census.known_mapped =
        static_cast<size_t>(std::count_if(registrations_.begin(), registrations_.end(),
                                          [](const auto &entry) { return entry.second.mapped; }));
    return census;
}

}  // namespace lldd::mock
