// An opened device: its context, memory, copies, HIXL engine and links.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "ascend/cann.h"
#include "ascend/copies.h"
#include "ascend/device_parts.h"
#include "runtime/runtime.h"

namespace lldd::ascend {

class AscendDevice final : public Device {
public:
    static Status Open(const DeviceOptions &options, std::unique_ptr<Device> *device);
    ~AscendDevice() override;

    Status End() override;

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

private:
    AscendDevice() = default;

    Status CheckPeer(const EndpointData &peer) const;

    DeviceParts parts_;
    uint64_t finalize_ms_ = 0;
    std::string name_;  // which device of the host it is
    bool ended_ = false;
    std::unique_ptr<Copies> copies_;
};

}  // namespace lldd::ascend
