// SPDX-License-Identifier: Apache-2.0
#include "ascend/copies.h"

#include <algorithm>

#include "base/address.h"
#include "base/log.h"

namespace lldd::ascend {
namespace {

// What ACL moves in one call.
constexpr uint64_t kMostBytesACall = 4ull << 30;

aclrtMemcpyKind KindOf(Placement to, Placement from) {
    if (to == Placement::kDevice)
        return from == Placement::kDevice ? ACL_MEMCPY_DEVICE_TO_DEVICE : ACL_MEMCPY_HOST_TO_DEVICE;
    return from == Placement::kDevice ? ACL_MEMCPY_DEVICE_TO_HOST : ACL_MEMCPY_HOST_TO_HOST;
}

}  // namespace

// A stream of one call. What a call leaves unfinished must not be waited for by the next: then the
// stream goes with it.
class Copies::Stream {
public:
    explicit Stream(Copies *copies) : copies_(copies) {
        MutexLock lock(copies_->mutex_);
        if (copies_->idle_.empty()) return;
        stream_ = copies_->idle_.back();
        copies_->idle_.pop_back();
    }
    ~Stream() {
        if (stream_ == nullptr) return;
        if (reusable_) {
            MutexLock lock(copies_->mutex_);
            copies_->idle_.push_back(stream_);
            return;
        }
        const Status gone = FromAcl(aclrtDestroyStream(stream_), "destroy a stream");
        if (!gone.ok()) LLDD_LOG(LLDD_LOG_WARNING, "%s", gone.text().c_str());
    }
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;

    Status Open() {
        if (stream_ != nullptr) return Status::Ok();
        return FromAcl(aclrtCreateStream(&stream_), "create a stream");
    }

    Status Add(uint64_t dst, uint64_t src, uint64_t length, aclrtMemcpyKind kind,
               const Deadline &deadline) {
        if (deadline.passed()) return Failure(LLDD_TIMEOUT, "a copy was not done in time");
        const auto size = static_cast<size_t>(length);
        void *const to = Pointer(dst);
        const void *const from = Pointer(src);
        aclError error = ACL_SUCCESS;
        if (kind == ACL_MEMCPY_HOST_TO_HOST) {
            // The device takes no part: ACL copies at once, on this thread.
            error = aclrtMemcpy(to, size, from, size, kind);
        } else {
            reusable_ = false;
            error = aclrtMemcpyAsync(to, size, from, size, kind, stream_);
        }
        return FromAcl(error, Format("copy %zu bytes from %#llx to %#llx", size, Printable(src),
                                     Printable(dst)));
    }

    Status Wait(const Deadline &deadline) {
        if (reusable_) return Status::Ok();
        const int32_t ms = Milliseconds(deadline);
        if (ms == 0) return Failure(LLDD_TIMEOUT, "a copy was not done in time");
        LLDD_RETURN_IF_ERROR(
            FromAcl(aclrtSynchronizeStreamWithTimeout(stream_, ms), "wait for a copy"));
        reusable_ = true;
        return Status::Ok();
    }

private:
    Copies *const copies_;
    aclrtStream stream_ = nullptr;
    bool reusable_ = true;
};

Copies::~Copies() {
    const Context::Scope in_context(*context_);
    for (const aclrtStream stream : idle_) {
        const Status gone = FromAcl(aclrtDestroyStream(stream), "destroy a stream");
        if (!gone.ok()) LLDD_LOG(LLDD_LOG_WARNING, "%s", gone.text().c_str());
    }
}

Status Copies::Move(const Run *runs, size_t count, Placement to, Placement from,
                    const Deadline &deadline) {
    const Context::Scope in_context(*context_);
    const aclrtMemcpyKind kind = KindOf(to, from);
    Stream stream(this);
    LLDD_RETURN_IF_ERROR(stream.Open());
    for (size_t i = 0; i < count; ++i) {
        const auto [dst, src, length] = runs[i];
        if (dst == src) continue;
        // Sides that overlap are copied as if over a buffer: in pieces that do not overlap, from
        // the end that the other side does not overwrite. The stream keeps the order.
        const bool forward = dst < src;
        const uint64_t distance = forward ? src - dst : dst - src;
        for (uint64_t done = 0; done < length;) {
            const uint64_t part = std::min({length - done, distance, kMostBytesACall});
            const uint64_t offset = forward ? done : length - done - part;
            LLDD_RETURN_IF_ERROR(stream.Add(dst + offset, src + offset, part, kind, deadline));
            done += part;
        }
    }
    return stream.Wait(deadline);
}

}  // namespace lldd::ascend
