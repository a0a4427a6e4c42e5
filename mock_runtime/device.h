// An opened device: its memory, its channel and the links that may reach it.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "mock_runtime/device_parts.h"
#include "mock_runtime/environment.h"
#include "mock_runtime/process_vm.h"
#include "runtime/runtime.h"

namespace lldd::mock {

class MockDevice final : public Device {
public:
    static Status Open(const Settings &settings, int32_t device_id,
                       std::unique_ptr<Device> *device);
    ~MockDevice() override;

    Status AllocatePool(Placement placement, uint64_t size, uint64_t *addr) override;
    void FreePool(uint64_t addr) override;
    Status Commit(uint64_t addr, uint64_t size) override;
    Status Register(uint64_t addr, uint64_t size, Placement placement) override;
    Status Unregister(uint64_t addr, uint64_t size, const Deadline &deadline) override;
    Status AwaitUnregistered(uint64_t addr, uint64_t size, const Deadline &deadline) override;
    Status AwaitLeft(uint64_t peer, const Deadline &deadline) override;
    Status Copy(const Run *runs, size_t count, Placement to, Placement from,
                const Deadline &deadline) override;
    bool ReadsOwnMemory() const override { return true; }
    Status ReadOwn(uint64_t addr, uint64_t length, void *to) override;
    Status Endpoint(const LinkNonce &nonce, std::string *endpoint) override;
    Status Connect(const ConnectionSetup &setup, const Deadline &deadline,
                   std::unique_ptr<Connection> *connection) override;

    // For Runtime::Control: one line per device that is open in this process.
    static std::string DescribeAll();

private:
    MockDevice() = default;
    Status Withdraw(uint64_t addr, uint64_t size, const Deadline &deadline);
    // Waits until no peer is in a range that was withdrawn; `order` as OwnMemory::Unregister has it.
    Status AwaitOutside(uint64_t addr, uint64_t size, uint64_t order, const Deadline &deadline);
    std::string Describe() const;

    int32_t device_id_ = 0;
    bool traceable_by_all_ = false;
    DeviceParts parts_;
    // Read by peers with process_vm_readv; zeros once the device is closed.
    std::unique_ptr<Cookie> cookie_;
};

}  // namespace lldd::mock
