// SPDX-License-Identifier: Apache-2.0
#include "engine/unregistrations.h"

namespace lldd {

Status Unregistrations::Unregister(int64_t cache_id, const Deadline &deadline) {
    CacheRef cache = store_->Unregister(cache_id);
    const bool again = cache == nullptr;
    if (again) cache = Left(cache_id);
    if (cache == nullptr || !cache->registered) return Status::Ok();
    const Status status = Withdraw(*cache, again, deadline);
    Leave(cache, !status.ok());
    return status;
}

Status Unregistrations::Withdraw(const Cache &cache, bool again, const Deadline &deadline) {
    Status status;
    if (!in_use_->WaitUntilUnused(cache.id, deadline)) {
        status = Failure(
            LLDD_TIMEOUT,
            "cache %lld is unregistered, but a transfer of this engine still uses its memory",
            Printable(cache.id));
    }
    if (!cache.remote_accessible && !request_mode_) return status;
    const uint64_t size = cache.shape.tensor_bytes;
    for (const uint64_t addr : cache.addrs) {
        if (addr == 0) continue;
        const Status withdrawn = again ? device_->AwaitUnregistered(addr, size, deadline)
                                       : device_->Unregister(addr, size, deadline);
        if (!withdrawn.ok() && status.ok()) {
            status = Status(withdrawn.code(),
                            Format("cache %lld is unregistered, but: %s", Printable(cache.id),
                                   withdrawn.text().c_str()),
                            withdrawn.raw());
        }
    }
    return status;
}

CacheRef Unregistrations::Left(int64_t cache_id) const {
    MutexLock lock(mutex_);
    const auto found = left_.find(cache_id);
    return found == left_.end() ? nullptr : found->second;
}

void Unregistrations::Leave(const CacheRef &cache, bool in_use) {
    MutexLock lock(mutex_);
    if (in_use) {
        left_[cache->id] = cache;
    } else {
        left_.erase(cache->id);
    }
}

}  // namespace lldd
