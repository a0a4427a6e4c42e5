// SPDX-License-Identifier: Apache-2.0
#include "ascend/device.h"

#include <cstdlib>
#include <sstream>
#include <utility>

#include "ascend/connection.h"
#include "ascend/taken_devices.h"
#include "base/log.h"

namespace lldd::ascend {
namespace {

// Which device of the host this is: processes may see some of them, numbered from 0.
std::string DeviceName(int32_t device_id) {
    const char *visible = std::getenv("ASCEND_RT_VISIBLE_DEVICES");
    std::istringstream names(visible == nullptr ? "" : visible);
    std::string name;
    for (int32_t i = 0; std::getline(names, name, ','); ++i) {
        if (i == device_id) return name;
    }
    return std::to_string(device_id);
}

}  // namespace

Status AscendDevice::Open(const DeviceOptions &options, std::unique_ptr<Device> *device) {
    LLDD_RETURN_IF_ERROR(TakeBack(options.device_id, Deadline::InMs(kGraceMs)));
    std::unique_ptr<AscendDevice> opened(new AscendDevice);
    DeviceParts &parts = opened->parts_;
    parts.device_id = options.device_id;
    opened->finalize_ms_ = options.finalize_timeout_ms;
    opened->name_ = DeviceName(options.device_id);
    LLDD_RETURN_IF_ERROR(Context::Acquire(options.device_id, &parts.context));
    parts.engine = std::make_unique<HixlEngine>(parts.context, options);
    parts.memory =
        std::make_unique<OwnMemory>(parts.context, options.device_id, parts.engine.get());
    parts.withdrawals = std::make_unique<Withdrawals>(parts.engine.get(), parts.memory.get());
    parts.memory->AskOfGonePeers(
        [gone = &parts.withdrawals->gone()] { return !gone->Look().unsure.empty(); });
    opened->copies_ = std::make_unique<Copies>(parts.context);
    *device = std::move(opened);
    return Status::Ok();
}

AscendDevice::~AscendDevice() {
    const Status ended = End();
    if (!ended.ok()) LLDD_LOG(LLDD_LOG_ERROR, "%s", ended.text().c_str());
}

// Whatever a peer that never answered still knows of this memory ends here, before it is freed. What a
// call that has not returned may use is kept.
Status AscendDevice::End() {
    if (std::exchange(ended_, true)) return Status::Ok();
    copies_.reset();
    const Status ended = parts_.engine->End(Deadline::InMs(finalize_ms_));
    if (ended.ok()) {
        parts_.engine.reset();
        parts_.memory.reset();
        return ended;
    }
    const std::shared_ptr<HixlSession> session = parts_.engine->session();
    const std::shared_ptr<HixlEngine> engine = std::move(parts_.engine);
    const auto memory = std::make_shared<std::shared_ptr<OwnMemory>>(std::move(parts_.memory));
    // HIXL has ended when it is called: then the pools may go.
    KeepTaken(parts_.device_id, session, [engine, memory] { memory->reset(); });
    return Failure(ended.code(),
                   "device %d and the memory of its pools stay taken, since HIXL has not returned "
                   "within %llu ms (lldd.FinalizeTimeout): %s",
                   parts_.device_id, Printable(finalize_ms_), ended.text().c_str());
}

Status AscendDevice::AllocatePool(Placement placement, uint64_t size, uint64_t *addr) {
    return parts_.memory->AllocatePool(placement, size, addr);
}

// Freed with the device, once HIXL has ended: see the destructor.
void AscendDevice::FreePool(uint64_t) {}

Status AscendDevice::Commit(uint64_t, uint64_t) { return Status::Ok(); }

Status AscendDevice::Register(uint64_t addr, uint64_t size, Placement placement) {
    return parts_.memory->Register(addr, size, placement);
}

Status AscendDevice::Unregister(uint64_t addr, uint64_t size, const Deadline &deadline) {
    OwnMemory::Withdrawn withdrawn;
    LLDD_RETURN_IF_ERROR(parts_.memory->Unregister(addr, size, &withdrawn));
    if (withdrawn.id == 0 || withdrawn.handle == nullptr) return Status::Ok();
    return FinishWithdrawal(addr, size, withdrawn, deadline);
}

Status AscendDevice::AwaitUnregistered(uint64_t addr, uint64_t size, const Deadline &deadline) {
    OwnMemory::Withdrawn withdrawn;
    {
        MutexLock lock(unfinished_mutex_);
        const auto found = unfinished_.find({addr, size});
        if (found == unfinished_.end()) return Status::Ok();
        withdrawn = found->second;
        unfinished_.erase(found);
    }
    // HIXL may have let go of it meanwhile, which it does when no peer is in it.
    if (!parts_.memory->Resume(withdrawn)) return Status::Ok();
    return FinishWithdrawal(addr, size, withdrawn, deadline);
}

Status AscendDevice::FinishWithdrawal(uint64_t addr, uint64_t size,
                                      const OwnMemory::Withdrawn &withdrawn,
                                      const Deadline &deadline) {
    Status status = parts_.withdrawals->Finish(withdrawn, deadline);
    if (status.ok()) return status;
    parts_.memory->DeregisterLater(withdrawn, false);
    {
        MutexLock lock(unfinished_mutex_);
        unfinished_[{addr, size}] = withdrawn;
    }
    return std::move(status).WithPrefix(Format(
        "a peer may still be in the memory at %#llx (%llu bytes), which must not be used yet: ",
        Printable(addr), Printable(size)));
}

Status AscendDevice::Copy(const Run *runs, size_t count, Placement to, Placement from,
                          const Deadline &deadline) {
    // The device does not take back what it was told to copy: nothing interrupts the wait for it.
    return copies_->Move(runs, count, to, from, Deadline::At(deadline.when()));
}

Status AscendDevice::UseAddress(const std::string &ip, bool listens) {
    return parts_.engine->UseAddress(ip, listens, [this] { return parts_.memory->RegisterAll(); });
}

Status AscendDevice::Endpoint(const LinkNonce &, std::string *endpoint) {
    EndpointData data;
    data.engine = parts_.engine->name();
    if (data.engine.empty())
        return Failure(LLDD_FAILED, "no address is known yet under which peers reach this device");
    data.process = ProcessId::Own();
    data.device = name_;
    data.buffer_pool = parts_.engine->buffer_pool();
    data.regions = parts_.memory->Known()->all();
    *endpoint = data.Encode();
    return Status::Ok();
}

Status AscendDevice::Connect(const ConnectionSetup &setup, const Deadline &deadline,
                             std::unique_ptr<Connection> *connection) {
    EndpointData peer;
    LLDD_RETURN_IF_ERROR(peer.Decode(setup.peer_endpoint));
    LLDD_RETURN_IF_ERROR(CheckPeer(peer));
    auto made = std::make_unique<AscendConnection>(&parts_, setup, std::move(peer));
    if (setup.end == LinkEnd::kInitiator) LLDD_RETURN_IF_ERROR(made->Dial(deadline));
    *connection = std::move(made);
    return Status::Ok();
}

Status AscendDevice::CheckPeer(const EndpointData &peer) const {
    if (peer.process.IsHere() && peer.device == name_) {
        return Failure(LLDD_PARAM_INVALID,
                       "both ends are on device %s of this host, and HIXL does not connect two "
                       "engines of one device: give one of them another device_id",
                       name_.c_str());
    }
    const std::string &own_pool = parts_.engine->buffer_pool();
    if (peer.buffer_pool == own_pool) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID,
                   "HIXL's buffer pool (lldd.BufferPool) is \"%s\" here and \"%s\" at the peer: "
                   "both ends of a link must have the same",
                   own_pool.c_str(), peer.buffer_pool.c_str());
}

}  // namespace lldd::ascend
