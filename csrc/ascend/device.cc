// SPDX-License-Identifier: Apache-2.0
#include "ascend/device.h"

#include <utility>

#include "ascend/connection.h"

namespace lldd::ascend {

Status AscendDevice::Open(const DeviceOptions &options, std::unique_ptr<Device> *device) {
    std::unique_ptr<AscendDevice> opened(new AscendDevice);
    DeviceParts &parts = opened->parts_;
    LLDD_RETURN_IF_ERROR(Context::Acquire(options.device_id, &parts.context));
    parts.engine = std::make_unique<HixlEngine>(parts.context, options);
    parts.memory = std::make_unique<OwnMemory>(parts.context, parts.engine.get());
    parts.withdrawals = std::make_unique<Withdrawals>(parts.engine.get(), parts.memory.get());
    opened->copies_ = std::make_unique<Copies>(parts.context);
    *device = std::move(opened);
    return Status::Ok();
}

AscendDevice::~AscendDevice() {
    copies_.reset();
    // Whatever a peer that never answered still knows of this memory ends here, before it is freed.
    parts_.engine.reset();
    parts_.memory.reset();
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
    Status status = parts_.withdrawals->Finish(withdrawn, deadline);
    if (status.ok()) return status;
    parts_.memory->DeregisterLater(withdrawn);
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
    data.regions = parts_.memory->Known()->all();
    *endpoint = data.Encode();
    return Status::Ok();
}

Status AscendDevice::Connect(const ConnectionSetup &setup, const Deadline &deadline,
                             std::unique_ptr<Connection> *connection) {
    EndpointData peer;
    LLDD_RETURN_IF_ERROR(peer.Decode(setup.peer_endpoint));
    auto made = std::make_unique<AscendConnection>(&parts_, setup, std::move(peer));
    if (setup.end == LinkEnd::kInitiator) LLDD_RETURN_IF_ERROR(made->Dial(deadline));
    *connection = std::move(made);
    return Status::Ok();
}

}  // namespace lldd::ascend
