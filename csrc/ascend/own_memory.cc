// SPDX-License-Identifier: Apache-2.0
#include "ascend/own_memory.h"

#include <algorithm>

#include "base/address.h"
#include "base/fork.h"
#include "base/log.h"

namespace lldd::ascend {
namespace {

// Of a call of HIXL that waits for no peer.
constexpr uint64_t kDeregisterMs = 10'000;

bool Overlap(const AddressRange &a, const AddressRange &b) {
    return a.addr <= b.last() && b.addr <= a.last();
}

// HIXL has one registry per process and device, and the first engine that ends takes away what others
// have registered, too: so no two engines of a device register the same memory.
class RangesOfOthers {
public:
    // Never destroyed: engines may outlive static destructors.
    static RangesOfOthers &Get() { return OfThisProcess<RangesOfOthers>(); }

    Status Add(int32_t device_id, const void *owner, const AddressRange &range) {
        MutexLock lock(mutex_);
        for (const Owned &each : owned_) {
            if (each.device_id != device_id || each.owner == owner || !Overlap(each.range, range))
                continue;
            return Failure(
                LLDD_FAILED,
                "%llu bytes at %#llx overlap memory that another engine of this process "
                "on device %d has registered: HIXL would take it away from both when one "
                "of them ends",
                Printable(range.size), Printable(range.addr), device_id);
        }
        owned_.push_back({device_id, owner, range});
        return Status::Ok();
    }
    void Remove(const void *owner, uint64_t addr) {
        Remove([&](const Owned &each) { return each.owner == owner && each.range.addr == addr; });
    }
    void RemoveAll(const void *owner) {
        Remove([&](const Owned &each) { return each.owner == owner; });
    }

private:
    struct Owned {
        int32_t device_id;
        const void *owner;
        AddressRange range;
    };

    template <typename Which>
    void Remove(const Which &which) {
        MutexLock lock(mutex_);
        owned_.erase(std::remove_if(owned_.begin(), owned_.end(), which), owned_.end());
    }

    Mutex mutex_;
    std::vector<Owned> owned_ LLDD_GUARDED_BY(mutex_);
};

}  // namespace

OwnMemory::~OwnMemory() {
    RangesOfOthers::Get().RemoveAll(this);
    const Context::Scope in_context(*context_);
    for (const auto &[range, entry] : entries_) {
        if (!entry.region.pool) continue;
        void *memory = Pointer(range.first);
        const aclError error =
            entry.placement == Placement::kDevice ? aclrtFree(memory) : aclrtFreeHost(memory);
        const Status freed = FromAcl(error, "free a pool");
        if (!freed.ok()) LLDD_LOG(LLDD_LOG_WARNING, "%s", freed.text().c_str());
    }
}

Status OwnMemory::RegisterAll() {
    MutexLock one_at_a_time(change_mutex_);
    for (auto &[addr, span] : spans_) {
        if (span.handle == nullptr) LLDD_RETURN_IF_ERROR(RegisterSpan(addr, &span));
    }
    return Status::Ok();
}

Status OwnMemory::AllocatePool(Placement placement, uint64_t size, uint64_t *addr) {
    void *memory = nullptr;
    const Context::Scope in_context(*context_);
    const bool on_device = placement == Placement::kDevice;
    // HCCS reaches huge pages only, RDMA only host memory that was allocated like this.
    const aclError error = on_device ? aclrtMalloc(&memory, size, ACL_MEM_MALLOC_HUGE_ONLY)
                                     : aclrtMallocHost(&memory, size);
    if (error != ACL_SUCCESS) {
        const Status failed =
            FromAcl(error, Format("allocate a %s pool of %llu bytes", on_device ? "device" : "host",
                                  Printable(size)));
        const lldd_status code = failed.code() == LLDD_FAILED ? LLDD_OUT_OF_MEMORY : failed.code();
        return Status(code, failed.text(), failed.raw());
    }
    *addr = Address(memory);
    Status added = Add(*addr, size, placement, true);
    if (!added.ok()) (void)(on_device ? aclrtFree(memory) : aclrtFreeHost(memory));
    return added;
}

Status OwnMemory::Register(uint64_t addr, uint64_t size, Placement placement) {
    if (size == 0 || size - 1 > UINT64_MAX - addr) {
        return Failure(LLDD_PARAM_INVALID, "%llu bytes at %#llx end past the address space",
                       Printable(size), Printable(addr));
    }
    return Add(addr, size, placement, false);
}

Status OwnMemory::Add(uint64_t addr, uint64_t size, Placement placement, bool pool) {
    MutexLock one_at_a_time(change_mutex_);
    {
        MutexLock lock(mutex_);
        const auto found = entries_.find({addr, size});
        if (found != entries_.end()) {
            ++found->second.count;
            return Status::Ok();
        }
    }
    Entry entry;
    entry.placement = placement;
    entry.count = 1;
    LLDD_RETURN_IF_ERROR(FindSpan({addr, size}, placement, &entry.span));
    ++spans_.at(entry.span).entries;
    MutexLock lock(mutex_);
    entry.region = {{addr, size}, next_id_++, pool};
    entries_.emplace(Range(addr, size), entry);
    engine_->SetNextRegion(next_id_);
    PublishLocked();
    return Status::Ok();
}

Status OwnMemory::Unregister(uint64_t addr, uint64_t size, Withdrawn *withdrawn) {
    MutexLock one_at_a_time(change_mutex_);
    MutexLock lock(mutex_);
    const auto found = entries_.find({addr, size});
    if (found == entries_.end()) {
        return Failure(LLDD_FAILED, "%llu bytes at %#llx are not registered", Printable(size),
                       Printable(addr));
    }
    if (--found->second.count > 0) return Status::Ok();
    const auto span = spans_.find(found->second.span);
    const bool in_use = --span->second.entries > 0;
    *withdrawn = {found->second.region.id, span->second.handle, span->first, span->second.size,
                  in_use};
    if (!in_use) {
        RangesOfOthers::Get().Remove(this, span->first);
        spans_.erase(span);
    }
    entries_.erase(found);
    PublishLocked();
    return Status::Ok();
}

Status OwnMemory::Deregister(const Withdrawn &withdrawn, const Deadline &deadline) {
    MutexLock one_at_a_time(change_mutex_);
    DeregisterLeftOver();
    return IsInUse(withdrawn.handle) ? Status::Ok()
                                     : engine_->Deregister(withdrawn.handle, deadline);
}

void OwnMemory::DeregisterLater(const Withdrawn &withdrawn, bool safe) {
    MutexLock one_at_a_time(change_mutex_);
    if (withdrawn.in_use || IsInUse(withdrawn.handle)) return;
    left_over_.push_back({withdrawn.handle, withdrawn.addr, withdrawn.size, safe});
}

bool OwnMemory::Resume(const Withdrawn &withdrawn) {
    MutexLock one_at_a_time(change_mutex_);
    DeregisterLeftOver();
    const auto left = std::find_if(left_over_.begin(), left_over_.end(), [&](const LeftOver &each) {
        return each.handle == withdrawn.handle && !each.safe;
    });
    if (left == left_over_.end()) return IsInUse(withdrawn.handle);
    left_over_.erase(left);
    return true;
}

std::vector<uint64_t> OwnMemory::Overlapping(const AddressRange &range) const {
    std::vector<uint64_t> found;
    for (const auto &[addr, span] : spans_) {
        if (Overlap(range, {addr, span.size})) found.push_back(addr);
    }
    return found;
}

Status OwnMemory::FindSpan(const AddressRange &range, Placement placement, uint64_t *span) {
    const std::vector<uint64_t> overlapping = Overlapping(range);
    for (const uint64_t addr : overlapping) {
        const Span &other = spans_.at(addr);
        if (other.placement != placement) {
            return Failure(LLDD_FAILED,
                           "%llu bytes at %#llx overlap %llu bytes at %#llx that are registered as "
                           "memory of the other kind",
                           Printable(range.size), Printable(range.addr), Printable(other.size),
                           Printable(addr));
        }
        *span = addr;
        if (AddressRange{addr, other.size}.Contains(range.addr, range.size)) return Status::Ok();
    }
    if (!overlapping.empty()) return Join(range, placement, span);
    Span made;
    made.size = range.size;
    made.placement = placement;
    if (engine_->started()) LLDD_RETURN_IF_ERROR(RegisterSpan(range.addr, &made));
    *span = range.addr;
    spans_.emplace(range.addr, made);
    return Status::Ok();
}

// One span in the place of those that the range overlaps. HIXL can change what it has registered
// only while no connection knows it.
Status OwnMemory::Join(const AddressRange &range, Placement placement, uint64_t *span) {
    const std::vector<uint64_t> overlapping = Overlapping(range);
    if (engine_->has_connections()) {
        return Failure(
            LLDD_FAILED,
            "%llu bytes at %#llx overlap %llu bytes at %#llx, which are registered, and "
            "are not within them: HIXL takes that only while nothing is linked. Register "
            "one range that has both, or this one before the first link",
            Printable(range.size), Printable(range.addr),
            Printable(spans_.at(overlapping.front()).size), Printable(overlapping.front()));
    }
    Span joined;
    joined.placement = placement;
    uint64_t begin = range.addr;
    uint64_t last = range.last();
    for (const uint64_t addr : overlapping) {
        Span &old = spans_.at(addr);
        begin = std::min(begin, addr);
        last = std::max(last, AddressRange{addr, old.size}.last());
        joined.entries += old.entries;
        if (old.handle != nullptr)
            LLDD_RETURN_IF_ERROR(engine_->Deregister(old.handle, Deadline::InMs(kDeregisterMs)));
        old.handle = nullptr;
        RangesOfOthers::Get().Remove(this, addr);
    }
    joined.size = last - begin + 1;
    Status status = engine_->started() ? RegisterSpan(begin, &joined) : Status::Ok();
    if (!status.ok()) {
        for (const uint64_t addr : overlapping) {
            const Status again = RegisterSpan(addr, &spans_.at(addr));
            if (!again.ok()) LLDD_LOG(LLDD_LOG_ERROR, "%s", again.text().c_str());
        }
        return status;
    }
    for (const uint64_t addr : overlapping) spans_.erase(addr);
    spans_.emplace(begin, joined);
    MutexLock lock(mutex_);
    for (auto &[key, entry] : entries_) {
        if (AddressRange{begin, joined.size}.Contains(key.first, key.second)) entry.span = begin;
    }
    *span = begin;
    return status;
}

// HIXL has the same handle for the same range, and maybe the memory that was there before: what is
// left over of it has to go first, unless no peer is in it any more.
Status OwnMemory::RegisterSpan(uint64_t addr, Span *span) {
    DeregisterLeftOver();
    const AddressRange range{addr, span->size};
    for (LeftOver &left : left_over_) {
        // By now the peers that might have been in it have ended, perhaps.
        left.safe = left.safe || !unsure_();
        if (!Overlap(range, {left.addr, left.size})) continue;
        if (left.safe && left.addr == addr && left.size == span->size) continue;
        return Failure(LLDD_FAILED,
                       "%llu bytes at %#llx are known to HIXL from an earlier registration (%llu "
                       "bytes at %#llx), which %s",
                       Printable(span->size), Printable(addr), Printable(left.size),
                       Printable(left.addr),
                       left.safe ? "it keeps until a peer that has ended is forgotten, and which "
                                   "only an equal range may take over"
                                 : "a peer that did not answer may still use");
    }
    LLDD_RETURN_IF_ERROR(RangesOfOthers::Get().Add(device_id_, this, range));
    Status status = engine_->Register(addr, span->size, span->placement, &span->handle);
    if (!status.ok()) RangesOfOthers::Get().Remove(this, addr);
    const auto taken_over = [span](const LeftOver &left) { return left.handle == span->handle; };
    if (status.ok()) {
        left_over_.erase(std::remove_if(left_over_.begin(), left_over_.end(), taken_over),
                         left_over_.end());
    }
    return status;
}

void OwnMemory::DeregisterLeftOver() {
    const auto goes = [this](const LeftOver &left) {
        return engine_->Deregister(left.handle, Deadline::InMs(kDeregisterMs)).ok();
    };
    left_over_.erase(std::remove_if(left_over_.begin(), left_over_.end(), goes), left_over_.end());
}

// The same range may have been registered again meanwhile.
bool OwnMemory::IsInUse(hixl::MemHandle handle) const {
    return std::any_of(spans_.begin(), spans_.end(),
                       [handle](const auto &each) { return each.second.handle == handle; });
}

void OwnMemory::PublishLocked() {
    std::vector<Region> regions;
    regions.reserve(entries_.size());
    for (const auto &[range, entry] : entries_) regions.push_back(entry.region);
    auto known = std::make_shared<Regions>();
    known->Assign(std::move(regions));
    known_ = std::move(known);
}

std::shared_ptr<const Regions> OwnMemory::Known() const {
    MutexLock lock(mutex_);
    return known_;
}

}  // namespace lldd::ascend
