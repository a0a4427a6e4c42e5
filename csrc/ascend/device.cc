// SPDX-License-Identifier: Apache-2.0
#include "ascend/device.h"

#include <utility>
#include <vector>

#include "ascend/connection.h"

namespace lldd::ascend {

Status AscendDevice::Open(const DeviceOptions &options, std::unique_ptr<Device> *device) {
    std::unique_ptr<AscendDevice> opened(new AscendDevice);
    LLDD_RETURN_IF_ERROR(Context::Acquire(options.device_id, &opened->context_));
    opened->transport_ = std::make_unique<Transport>(opened->context_, options);
    opened->memory_ = std::make_unique<Memory>(opened->context_, opened->transport_.get());
    opened->copies_ = std::make_unique<Copies>(opened->context_);
    *device = std::move(opened);
    return Status::Ok();
}

AscendDevice::~AscendDevice() {
    copies_.reset();
    // Whatever a peer that never answered still knows of this memory ends here, before it is freed.
    transport_.reset();
    memory_.reset();
}

Status AscendDevice::AllocatePool(Placement placement, uint64_t size, uint64_t *addr) {
    return memory_->AllocatePool(placement, size, addr);
}

// Freed with the device, once HIXL has ended: see the destructor.
void AscendDevice::FreePool(uint64_t) {}

Status AscendDevice::Commit(uint64_t, uint64_t) { return Status::Ok(); }

Status AscendDevice::Register(uint64_t addr, uint64_t size, Placement placement) {
    return memory_->Register(addr, size, placement);
}

Status AscendDevice::Unregister(uint64_t addr, uint64_t size, const Deadline &deadline) {
    Memory::Taken taken;
    LLDD_RETURN_IF_ERROR(memory_->Take(addr, size, &taken));
    if (taken.id == 0 || taken.handle == nullptr) return Status::Ok();
    Status withdrawn = WithdrawEverywhere(taken.id, deadline);
    // This end's own connections know it, too.
    if (withdrawn.ok()) withdrawn = transport_->DropAll(deadline);
    Status given_back = memory_->GiveBack(taken, withdrawn.ok());
    if (withdrawn.ok()) return given_back;
    return Failure(
        LLDD_TIMEOUT,
        "a peer may still be in the memory at %#llx (%llu bytes), which must not be used "
        "yet: %s",
        Printable(addr), Printable(size), withdrawn.text().c_str());
}

Status AscendDevice::WithdrawEverywhere(uint64_t region, const Deadline &deadline) {
    std::vector<AscendConnection *> connections;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        for (auto &[connection, asking] : connections_) {
            ++asking;
            connections.push_back(connection);
        }
    }
    Status status;
    for (AscendConnection *connection : connections) {
        // Every peer is told, even when another one has used up the time.
        Status asked = connection->Withdraw(region, deadline);
        if (status.ok()) status = std::move(asked);
        std::lock_guard<std::mutex> lock(mutex_);
        --connections_.at(connection);
        asked_.notify_all();
    }
    return status;
}

void AscendDevice::Add(AscendConnection *connection) {
    std::lock_guard<std::mutex> lock(mutex_);
    connections_.emplace(connection, 0);
}

void AscendDevice::Remove(AscendConnection *connection) {
    std::unique_lock<std::mutex> lock(mutex_);
    // Its control connection is closed by now, so whoever asks is answered at once.
    asked_.wait(lock, [&] { return connections_.at(connection) == 0; });
    connections_.erase(connection);
}

Status AscendDevice::Copy(const LocalRun *runs, size_t count, Placement to, Placement from,
                          const Deadline &deadline) {
    return copies_->Run(runs, count, to, from, deadline);
}

Status AscendDevice::UseAddress(const std::string &ip, bool listens) {
    return transport_->UseAddress(ip, listens, [this] { return memory_->RegisterAll(); });
}

Status AscendDevice::Endpoint(const LinkNonce &, std::string *endpoint) {
    EndpointData data;
    data.engine = transport_->engine();
    if (data.engine.empty())
        return Failure(LLDD_FAILED, "no address is known yet under which peers reach this device");
    data.regions = memory_->Known()->all();
    *endpoint = data.Encode();
    return Status::Ok();
}

Status AscendDevice::Connect(const ConnectionSetup &setup, const Deadline &deadline,
                             std::unique_ptr<Connection> *connection) {
    EndpointData peer;
    LLDD_RETURN_IF_ERROR(peer.Decode(setup.peer_endpoint));
    auto made = std::make_unique<AscendConnection>(this, setup, std::move(peer));
    if (setup.end == LinkEnd::kInitiator) LLDD_RETURN_IF_ERROR(made->Dial(deadline));
    *connection = std::move(made);
    return Status::Ok();
}

}  // namespace lldd::ascend
