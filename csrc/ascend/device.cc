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

// While it lives, no peer that has answered is connected to this device, nor this device to any.
class AscendDevice::Isolation {
public:
    explicit Isolation(AscendDevice *device)
        : device_(device), standstill_(device->transport_.get()) {}
    ~Isolation() {
        for (AscendConnection *connection : asked_) {
            if (!device_->BeginAsking(connection)) continue;
            connection->LetPeerComeBack();
            device_->EndAsking(connection);
        }
    }
    Isolation(const Isolation &) = delete;
    Isolation &operator=(const Isolation &) = delete;

    // LLDD_TIMEOUT: not everybody has disconnected.
    Status Begin(const Deadline &deadline) {
        asked_ = device_->Connections();
        LLDD_RETURN_IF_ERROR(device_->AskEverybody(asked_, [&](AscendConnection *connection) {
            return connection->KeepPeerAway(deadline);
        }));
        return standstill_.Begin(deadline);
    }

private:
    AscendDevice *const device_;
    Transport::Standstill standstill_;
    std::vector<AscendConnection *> asked_;
};

Status AscendDevice::Unregister(uint64_t addr, uint64_t size, const Deadline &deadline) {
    Memory::Taken taken;
    LLDD_RETURN_IF_ERROR(memory_->Take(addr, size, &taken));
    if (taken.id == 0 || taken.handle == nullptr) return Status::Ok();
    Status status = GiveBack(taken, deadline);
    if (status.ok()) return status;
    memory_->LeaveOver(taken);
    return std::move(status).WithPrefix(Format(
        "a peer may still be in the memory at %#llx (%llu bytes), which must not be used yet: ",
        Printable(addr), Printable(size)));
}

Status AscendDevice::GiveBack(const Memory::Taken &taken, const Deadline &deadline) {
    Status status;
    do {
        // Before anybody is held up: one who does not answer shall not cost the others their time.
        status = AskEverybody(Connections(), [&](AscendConnection *connection) {
            return connection->Withdraw(taken.id, deadline);
        });
        if (!status.ok()) return Status(LLDD_TIMEOUT, status.text(), status.raw());
        Isolation isolation(this);
        status = isolation.Begin(deadline);
        if (!status.ok()) return Status(LLDD_TIMEOUT, status.text(), status.raw());
        status = memory_->GiveBack(taken);
        // If HIXL refuses, a peer has linked, and so connected, meanwhile: it is asked, too.
    } while (!status.ok() && !deadline.passed());
    return status;
}

std::vector<AscendConnection *> AscendDevice::Connections() {
    std::vector<AscendConnection *> connections;
    std::lock_guard<std::mutex> lock(mutex_);
    for (const auto &[connection, asking] : connections_) connections.push_back(connection);
    return connections;
}

// All of them, even when one has used up the time. The first failure.
Status AscendDevice::AskEverybody(const std::vector<AscendConnection *> &connections,
                                  const std::function<Status(AscendConnection *)> &ask) {
    Status status;
    for (AscendConnection *connection : connections) {
        if (!BeginAsking(connection)) continue;
        Status asked = ask(connection);
        EndAsking(connection);
        if (status.ok()) status = std::move(asked);
    }
    return status;
}

bool AscendDevice::BeginAsking(AscendConnection *connection) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = connections_.find(connection);
    if (found == connections_.end()) return false;
    ++found->second;
    return true;
}

void AscendDevice::EndAsking(AscendConnection *connection) {
    std::lock_guard<std::mutex> lock(mutex_);
    --connections_.at(connection);
    asked_.notify_all();
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

Status AscendDevice::Copy(const Run *runs, size_t count, Placement to, Placement from,
                          const Deadline &deadline) {
    return copies_->Move(runs, count, to, from, deadline);
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
