// An opened device: its context, memory, copies, HIXL engine and links.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ascend/cann.h"
#include "ascend/copies.h"
#include "ascend/memory.h"
#include "ascend/transport.h"
#include "runtime/runtime.h"

namespace lldd::ascend {

class AscendConnection;

class AscendDevice final : public Device {
public:
    static Status Open(const DeviceOptions &options, std::unique_ptr<Device> *device);
    ~AscendDevice() override;

    Status AllocatePool(Placement placement, uint64_t size, uint64_t *addr) override;
    void FreePool(uint64_t addr) override;
    Status Commit(uint64_t addr, uint64_t size) override;
    Status Register(uint64_t addr, uint64_t size, Placement placement) override;
    Status Unregister(uint64_t addr, uint64_t size, const Deadline &deadline) override;
    Status Copy(const Run *runs, size_t count, Placement to, Placement from,
                const Deadline &deadline) override;
    Status UseAddress(const std::string &ip, bool listens) override;
    Status Endpoint(const LinkNonce &nonce, std::string *endpoint) override;
    Status Connect(const ConnectionSetup &setup, const Deadline &deadline,
                   std::unique_ptr<Connection> *connection) override;

    // For the connections.
    const Context &context() const { return *context_; }
    Memory &memory() { return *memory_; }
    Transport &transport() { return *transport_; }
    // Whom memory that is taken back must be taken from. Remove waits while one is asked.
    void Add(AscendConnection *connection);
    void Remove(AscendConnection *connection);

private:
    class Isolation;

    AscendDevice() = default;
    Status GiveBack(const Memory::Taken &taken, const Deadline &deadline);
    std::vector<AscendConnection *> Connections();
    Status AskEverybody(const std::vector<AscendConnection *> &connections,
                        const std::function<Status(AscendConnection *)> &ask);
    // False: it is not there any more.
    bool BeginAsking(AscendConnection *connection);
    void EndAsking(AscendConnection *connection);

    std::shared_ptr<Context> context_;
    std::unique_ptr<Transport> transport_;
    std::unique_ptr<Memory> memory_;
    std::unique_ptr<Copies> copies_;

    std::mutex mutex_;
    std::condition_variable asked_;
    std::map<AscendConnection *, size_t> connections_;  // and how many are asking it
};

}  // namespace lldd::ascend
