// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/device.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "base/address.h"
#include "base/fork.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/older_libc.h"
#include "mock_runtime/connection.h"
#include "mock_runtime/faults.h"
#include "mock_runtime/own_reads.h"
#include "mock_runtime/path_mapped.h"

namespace lldd::mock {
namespace {

// A local copy ends early for its deadline and for Ctrl-C alone.
class DeadlineGate final : public Gate {
public:
    explicit DeadlineGate(const Deadline &deadline) : until_(deadline) {}
    MoveFailure Check() const override {
        if (until_.Passed()) return {MoveFailure::kTimeout, 0, 0};
        return {};
    }

private:
    const MovingUntil until_;
};

// Devices that are open in this process; the parent's are not a child's.
struct OpenDevices {
    Mutex mutex;
    std::vector<const MockDevice *> devices LLDD_GUARDED_BY(mutex);
};

// Whether all of it is mapped. The kernel looks at ranges; no page is touched, and none is written
// back: that is done since Linux 2.6.19 without being asked to.
bool IsMapped(uint64_t addr, uint64_t length) {
    const uint64_t into_page = addr % static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    if (length > UINT64_MAX - into_page) return false;
    return msync(Pointer(addr - into_page), length + into_page, MS_ASYNC) == 0;
}

// A length that no memory has must not become pieces, each of which takes memory.
Status CheckLength(const Run &run) {
    if (run.length <= kLargestChunk) return Status::Ok();
    for (const uint64_t addr : {run.local, run.remote}) {
        if (IsMapped(addr, run.length)) continue;
        return Failure(LLDD_FAILED,
                       "the memory of this process at %#llx is not mapped for the copy of %llu "
                       "bytes",
                       Printable(addr), Printable(run.length));
    }
    return Status::Ok();
}

void Forget(Cookie *cookie) {
    volatile uint8_t *bytes = cookie->data();
    for (size_t i = 0; i < cookie->size(); ++i) bytes[i] = 0;
}

}  // namespace

Status MockDevice::Open(const Settings &settings, int32_t device_id,
                        std::unique_ptr<Device> *device) {
    std::unique_ptr<MockDevice> made(new MockDevice);
    DeviceParts &parts = made->parts_;
    parts.settings = settings;
    made->device_id_ = device_id;
    parts.self = getpid();
    parts.kernel = FindCopyKernel(settings.kernel);
    made->cookie_ = std::make_unique<Cookie>();
    if (getrandom(made->cookie_->data(), made->cookie_->size(), 0) !=
        static_cast<ssize_t>(made->cookie_->size())) {
        return ErrnoFailure(LLDD_FAILED, errno, "no random numbers");
    }
    // Only where peers may use process_vm: it concerns the whole process.
    if (settings.allows(Transport::kCma) && settings.let_others_trace) {
        made->traceable_by_all_ = LetAllTrace();
    }
    parts.loop = EventLoop::Acquire();
    parts.helpers = CopyPool::Acquire();
    LLDD_RETURN_IF_ERROR(
        OwnMemory::Create(settings.exclude_from_fork, settings.host_root, &parts.memory));
    LLDD_RETURN_IF_ERROR(ChannelListener::Create(parts.loop, &parts.channel));
    OpenDevices &open = OfThisProcess<OpenDevices>();
    {
        MutexLock lock(open.mutex);
        open.devices.push_back(made.get());
    }
    if (settings.fabric != nullptr) {
        LLDD_LOG(LLDD_LOG_INFO, "transfers take as long as over the fabric %s",
                 settings.fabric->Words().c_str());
    }
    *device = std::move(made);
    return Status::Ok();
}

MockDevice::~MockDevice() {
    OpenDevices &open = OfThisProcess<OpenDevices>();
    {
        MutexLock lock(open.mutex);
        open.devices.erase(std::remove(open.devices.begin(), open.devices.end(), this),
                           open.devices.end());
    }
    if (cookie_ != nullptr) Forget(cookie_.get());
}

Status MockDevice::AllocatePool(Placement placement, uint64_t size, uint64_t *addr) {
    LLDD_RETURN_IF_ERROR(PassFaultPoint(FaultPoint::kPool));
    return parts_.memory->AllocatePool(placement, size, addr);
}

void MockDevice::FreePool(uint64_t addr) { parts_.memory->FreePool(addr); }

Status MockDevice::Commit(uint64_t addr, uint64_t size) {
    LLDD_RETURN_IF_ERROR(PassFaultPoint(FaultPoint::kCommit));
    return parts_.memory->Commit(addr, size);
}

Status MockDevice::Register(uint64_t addr, uint64_t size, Placement placement) {
    LLDD_RETURN_IF_ERROR(PassFaultPoint(FaultPoint::kRegister));
    return parts_.memory->Register(addr, size, placement);
}

Status MockDevice::Unregister(uint64_t addr, uint64_t size, const Deadline &deadline) {
    LLDD_RETURN_IF_ERROR(Withdraw(addr, size, deadline));
    // The registration is gone whatever the call answers.
    return PassFaultPoint(FaultPoint::kUnregister, deadline);
}

Status MockDevice::Withdraw(uint64_t addr, uint64_t size, const Deadline &deadline) {
    bool withdrawn = false;
    uint64_t order = 0;
    LLDD_RETURN_IF_ERROR(parts_.memory->Unregister(addr, size, &withdrawn, &order));
    if (!withdrawn) return Status::Ok();
    // The I/O thread is outside the memory, and from now on finds it withdrawn.
    {
        const MutexLock serving(parts_.serve_lock);
    }
    return AwaitOutside(addr, size, order, deadline);
}

Status MockDevice::AwaitUnregistered(uint64_t addr, uint64_t size, const Deadline &deadline) {
    uint64_t order = 0;
    if (!parts_.memory->WasLeftInUse(addr, size, &order)) return Status::Ok();
    return AwaitOutside(addr, size, order, deadline);
}

Status MockDevice::AwaitLeft(uint64_t peer, const Deadline &deadline) {
    const std::shared_ptr<PeerPassage> inside = parts_.passages.WaitForClosed(peer, deadline);
    if (inside == nullptr) return Status::Ok();
    return Failure(
        LLDD_TIMEOUT,
        "the peer (pid %d) is still in the memory of this process, which must not be used "
        "yet",
        static_cast<int>(inside->process().pid()));
}

Status MockDevice::AwaitOutside(uint64_t addr, uint64_t size, uint64_t order,
                                const Deadline &deadline) {
    const std::shared_ptr<PeerPassage> inside = parts_.passages.WaitUntilLeft(order, deadline);
    parts_.memory->LeaveInUse(addr, size, order, inside != nullptr);
    if (inside == nullptr) return Status::Ok();
    return Failure(LLDD_TIMEOUT,
                   "a peer (pid %d) is still in the memory at %#llx (%llu bytes); it must not be "
                   "used yet",
                   static_cast<int>(inside->process().pid()), Printable(addr), Printable(size));
}

Status MockDevice::Copy(const Run *runs, size_t count, Placement, Placement,
                        const Deadline &deadline) {
    LLDD_RETURN_IF_ERROR(PassFaultPoint(FaultPoint::kCopy, deadline, nullptr, runs, count));
    KnownMemory::View known_dst(parts_.memory->known());
    KnownMemory::View known_src(parts_.memory->known());
    uint64_t total = 0;
    for (size_t i = 0; i < count; ++i) total += runs[i].length;
    Batch direct;
    Batch checked;
    direct.Clear(Batch::ChunkBytes(total));
    checked.Clear(kLargestChunk);
    for (size_t i = 0; i < count; ++i) {
        const auto [dst, src, length] = runs[i];
        if (length == 0 || dst == src) continue;
        const bool safe = known_dst.Contains(dst, length) && known_src.Contains(src, length);
        if (!safe) LLDD_RETURN_IF_ERROR(CheckLength(runs[i]));
        const uint64_t distance = dst > src ? dst - src : src - dst;
        if (!safe || distance >= length) {
            (safe ? direct : checked).Add(dst, src, length);
        } else {
            // The sides overlap: as one piece, since pieces may be moved in any order.
            direct.AddWhole(dst, src, length);
        }
    }
    const DeadlineGate gate(deadline);
    MoveFailure failure;
    size_t done = 0;
    if (!direct.empty()) {
        DirectCopy copy(direct, Direction::kRead, gate, parts_.kernel);
        const uint32_t threads = direct.Threads(parts_.settings.threads);
        failure = parts_.helpers->Run(copy, direct.chunks(), threads, &done);
    }
    if (!failure.failed() && !checked.empty()) {
        CheckedCopy copy(checked, Direction::kRead, gate, parts_.self, false);
        failure = parts_.helpers->Run(copy, checked.chunks(), 1, &done);
    }
    if (!failure.failed()) return Status::Ok();
    if (failure.kind == MoveFailure::kTimeout) {
        return Failure(LLDD_TIMEOUT, "a copy of %llu bytes was not done in time", Printable(total));
    }
    return Failure(LLDD_FAILED, "the memory of this process at %#llx is not mapped for the copy",
                   Printable(failure.address));
}

Status MockDevice::ReadOwn(uint64_t addr, uint64_t length, void *to) {
    const std::optional<bool> read = ReadByKernel(parts_.self, addr, length, to);
    // The caller's own call is using the range.
    if (read.has_value() ? *read : ReadIfMapped(addr, length, to)) return Status::Ok();
    return Failure(LLDD_FAILED, "the memory of this process at %#llx (%llu bytes) is not mapped",
                   Printable(addr), Printable(length));
}

Status MockDevice::Endpoint(const LinkNonce &nonce, std::string *endpoint) {
    LLDD_RETURN_IF_ERROR(PassFaultPoint(FaultPoint::kEndpoint));
    EndpointData data;
    data.transports = parts_.settings.transport_bits();
    data.channel = parts_.channel->name();
    data.process.pid = static_cast<uint32_t>(parts_.self);
    data.process.uid = getuid();
    data.process.cookie_addr = Address(cookie_->data());
    data.process.cookie = *cookie_;
    data.process.traceable_by_all = traceable_by_all_;
    data.regions = parts_.memory->Snapshot(nonce);
    *endpoint = EncodeEndpoint(data);
    return Status::Ok();
}

Status MockDevice::Connect(const ConnectionSetup &setup, const Deadline &deadline,
                           std::unique_ptr<Connection> *connection) {
    const bool accepts = setup.end == LinkEnd::kAcceptor;
    const FaultLink link{setup.peer, setup.streams, nullptr};
    LLDD_RETURN_IF_ERROR(
        PassFaultPoint(accepts ? FaultPoint::kAccept : FaultPoint::kConnect, deadline, &link));
    EndpointData peer;
    LLDD_RETURN_IF_ERROR(DecodeEndpoint(setup.peer_endpoint, &peer));
    auto made = std::make_unique<MockConnection>(&parts_, setup, std::move(peer));
    if (accepts) {
        made->ExpectChannel();
    } else {
        LLDD_RETURN_IF_ERROR(made->DialChannel(deadline));
    }
    *connection = std::move(made);
    return Status::Ok();
}

std::string MockDevice::DescribeAll() {
    OpenDevices &open = OfThisProcess<OpenDevices>();
    MutexLock lock(open.mutex);
    std::string text;
    for (const MockDevice *device : open.devices) text += device->Describe();
    return text;
}

std::string MockDevice::Describe() const {
    const OwnMemory::Census census = parts_.memory->Count();
    std::string shaped;
    if (parts_.settings.fabric != nullptr) {
        shaped = ", fabric " + parts_.settings.fabric->Words();
        if (parts_.behind_fabric.load()) shaped += ", with which this machine does not keep up";
    }
    return Format(
        "device %d: pools %zu (%llu bytes), registrations %zu (%zu known to be mapped), "
        "same-host links %zu (%zu inside), kernel %s, threads %u%s\n",
        device_id_, census.pools, Printable(census.pool_bytes), census.registrations,
        census.known_mapped, parts_.passages.size(), parts_.passages.CountInside(),
        parts_.kernel->name, parts_.settings.threads, shaped.c_str());
}

}  // namespace lldd::mock
