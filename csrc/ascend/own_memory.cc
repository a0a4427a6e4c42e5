// SPDX-License-Identifier: Apache-2.0
#include "ascend/own_memory.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/address.h"
#include "base/log.h"

namespace lldd::ascend {
namespace {

constexpr uint64_t kPatienceMs = 100;

}  // namespace

OwnMemory::~OwnMemory() {
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
    for (auto &[range, entry] : entries_) {
        if (entry.handle != nullptr) continue;
        LLDD_RETURN_IF_ERROR(
            engine_->Register(range.first, range.second, entry.placement, &entry.handle));
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
    if (engine_->started())
        LLDD_RETURN_IF_ERROR(RegisterAnew(addr, size, placement, &entry.handle));
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
    *withdrawn = {found->second.region.id, found->second.handle};
    entries_.erase(found);
    PublishLocked();
    return Status::Ok();
}

Status OwnMemory::Deregister(const Withdrawn &withdrawn) {
    MutexLock one_at_a_time(change_mutex_);
    DeregisterLeftOver();
    return IsInUse(withdrawn.handle) ? Status::Ok() : DeregisterInPatience(withdrawn.handle);
}

void OwnMemory::DeregisterLater(uint64_t addr, uint64_t size, const Withdrawn &withdrawn) {
    MutexLock one_at_a_time(change_mutex_);
    if (!IsInUse(withdrawn.handle)) left_over_.emplace_back(Range(addr, size), withdrawn);
}

bool OwnMemory::TakeLeftOver(uint64_t addr, uint64_t size, Withdrawn *withdrawn) {
    MutexLock one_at_a_time(change_mutex_);
    const auto found = std::find_if(left_over_.begin(), left_over_.end(), [&](const auto &each) {
        return each.first == Range(addr, size);
    });
    if (found == left_over_.end()) return false;
    *withdrawn = found->second;
    left_over_.erase(found);
    return true;
}

// HIXL has the same handle for the same range, and maybe the memory that was there before: what is
// left over of it has to go first.
Status OwnMemory::RegisterAnew(uint64_t addr, uint64_t size, Placement placement,
                               hixl::MemHandle *handle) {
    DeregisterLeftOver();
    LLDD_RETURN_IF_ERROR(engine_->Register(addr, size, placement, handle));
    const auto same = [handle](const auto &each) { return each.second.handle == *handle; };
    if (std::none_of(left_over_.begin(), left_over_.end(), same)) return Status::Ok();
    return Failure(LLDD_FAILED,
                   "%llu bytes at %#llx are known to HIXL from an earlier registration, which a "
                   "peer that did not answer may still use",
                   Printable(size), Printable(addr));
}

// A peer whose link has ended disconnects a moment later, of which HIXL gives no notice. So what
// HIXL refuses is tried again for kPatienceMs.
Status OwnMemory::DeregisterInPatience(hixl::MemHandle handle) {
    const Deadline patience = Deadline::InMs(kPatienceMs);
    for (;;) {
        Status status = engine_->Deregister(handle);
        if (status.ok() || patience.passed()) return status;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

void OwnMemory::DeregisterLeftOver() {
    const auto goes = [this](const auto &each) {
        return engine_->Deregister(each.second.handle).ok();
    };
    left_over_.erase(std::remove_if(left_over_.begin(), left_over_.end(), goes), left_over_.end());
}

// The same range may have been registered again meanwhile.
bool OwnMemory::IsInUse(hixl::MemHandle handle) const {
    MutexLock lock(mutex_);
    return std::any_of(entries_.begin(), entries_.end(),
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
