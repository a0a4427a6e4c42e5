// SPDX-License-Identifier: Apache-2.0
#include "ascend/memory.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/address.h"
#include "base/log.h"

namespace lldd::ascend {
namespace {

constexpr uint64_t kPatienceMs = 100;

}  // namespace

Memory::~Memory() {
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

Status Memory::RegisterAll() {
    std::lock_guard<std::mutex> one_at_a_time(change_mutex_);
    for (auto &[range, entry] : entries_) {
        if (entry.handle != nullptr) continue;
        LLDD_RETURN_IF_ERROR(
            transport_->Register(range.first, range.second, entry.placement, &entry.handle));
    }
    return Status::Ok();
}

Status Memory::AllocatePool(Placement placement, uint64_t size, uint64_t *addr) {
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

Status Memory::Register(uint64_t addr, uint64_t size, Placement placement) {
    if (size == 0 || size - 1 > UINT64_MAX - addr) {
        return Failure(LLDD_PARAM_INVALID, "%llu bytes at %#llx end past the address space",
                       Printable(size), Printable(addr));
    }
    return Add(addr, size, placement, false);
}

Status Memory::Add(uint64_t addr, uint64_t size, Placement placement, bool pool) {
    std::lock_guard<std::mutex> one_at_a_time(change_mutex_);
    {
        std::lock_guard<std::mutex> lock(mutex_);
        const auto found = entries_.find({addr, size});
        if (found != entries_.end()) {
            ++found->second.count;
            return Status::Ok();
        }
    }
    Entry entry;
    entry.placement = placement;
    entry.count = 1;
    if (transport_->started())
        LLDD_RETURN_IF_ERROR(RegisterAnew(addr, size, placement, &entry.handle));
    std::lock_guard<std::mutex> lock(mutex_);
    entry.region = {{addr, size}, next_id_++, pool};
    entries_.emplace(Range(addr, size), entry);
    transport_->SetNextRegion(next_id_);
    Publish();
    return Status::Ok();
}

Status Memory::Take(uint64_t addr, uint64_t size, Taken *taken) {
    std::lock_guard<std::mutex> one_at_a_time(change_mutex_);
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = entries_.find({addr, size});
    if (found == entries_.end()) {
        return Failure(LLDD_FAILED, "%llu bytes at %#llx are not registered", Printable(size),
                       Printable(addr));
    }
    if (--found->second.count > 0) return Status::Ok();
    *taken = {found->second.region.id, found->second.handle};
    entries_.erase(found);
    Publish();
    return Status::Ok();
}

Status Memory::GiveBack(const Taken &taken) {
    std::lock_guard<std::mutex> one_at_a_time(change_mutex_);
    GiveBackLeftOver();
    return IsInUse(taken.handle) ? Status::Ok() : Deregister(taken.handle);
}

void Memory::LeaveOver(const Taken &taken) {
    std::lock_guard<std::mutex> one_at_a_time(change_mutex_);
    if (!IsInUse(taken.handle)) left_over_.push_back(taken.handle);
}

// HIXL has the same handle for the same range, and maybe the memory that was there before: what is
// left over of it has to go first.
Status Memory::RegisterAnew(uint64_t addr, uint64_t size, Placement placement,
                            hixl::MemHandle *handle) {
    GiveBackLeftOver();
    LLDD_RETURN_IF_ERROR(transport_->Register(addr, size, placement, handle));
    if (std::count(left_over_.begin(), left_over_.end(), *handle) == 0) return Status::Ok();
    return Failure(LLDD_FAILED,
                   "%llu bytes at %#llx are known to HIXL from an earlier registration, which a "
                   "peer that did not answer may still use",
                   Printable(size), Printable(addr));
}

// A peer whose link has ended disconnects a moment later, which HIXL tells nobody: so a refusal is
// not believed at once.
Status Memory::Deregister(hixl::MemHandle handle) {
    const Deadline patience = Deadline::InMs(kPatienceMs);
    for (;;) {
        Status status = transport_->Deregister(handle);
        if (status.ok() || patience.passed()) return status;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

void Memory::GiveBackLeftOver() {
    const auto goes = [this](hixl::MemHandle handle) {
        return transport_->Deregister(handle).ok();
    };
    left_over_.erase(std::remove_if(left_over_.begin(), left_over_.end(), goes), left_over_.end());
}

// Somebody has registered the same range meanwhile.
bool Memory::IsInUse(hixl::MemHandle handle) const {
    std::lock_guard<std::mutex> lock(mutex_);
    return std::any_of(entries_.begin(), entries_.end(),
                       [handle](const auto &each) { return each.second.handle == handle; });
}

void Memory::Publish() {
    std::vector<Region> regions;
    regions.reserve(entries_.size());
    for (const auto &[range, entry] : entries_) regions.push_back(entry.region);
    auto known = std::make_shared<Regions>();
    known->Assign(std::move(regions));
    known_ = std::move(known);
}

std::shared_ptr<const Regions> Memory::Known() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return known_;
}

}  // namespace lldd::ascend
