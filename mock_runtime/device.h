// An opened device: its memory, its channel and the links that may reach it.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/event_loop.h"
#include "mock_runtime/channel.h"
#include "mock_runtime/connection.h"
#include "mock_runtime/copy_kernels.h"
#include "mock_runtime/copy_pool.h"
#include "mock_runtime/environment.h"
#include "mock_runtime/own_memory.h"
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
    Status Copy(const Run *runs, size_t count, Placement to, Placement from,
                const Deadline &deadline) override;
    Status Endpoint(const LinkNonce &nonce, std::string *endpoint) override;
    Status Connect(const ConnectionSetup &setup, const Deadline &deadline,
                   std::unique_ptr<Connection> *connection) override;

    // For the connections.
    const Settings &settings() const { return settings_; }
    OwnMemory &memory() { return *memory_; }
    ChannelListener &channel() { return *channel_; }
    const std::shared_ptr<EventLoop> &loop() const { return loop_; }
    const std::shared_ptr<CopyPool> &helpers() const { return helpers_; }
    const CopyKernel *kernel() const { return kernel_; }
    pid_t self() const { return self_; }
    std::mutex *serve_lock() { return &serve_lock_; }
    // Links over which a peer may be inside this device's memory.
    void AddPassage(std::shared_ptr<PeerPassage> passage);
    void RemovePassage(const std::shared_ptr<PeerPassage> &passage);

    // For Runtime::Control: a line a device that is open in this process.
    static std::string DescribeAll();

private:
    MockDevice() = default;
    Status Withdraw(uint64_t addr, uint64_t size, const Deadline &deadline);
    std::string Describe() const;

    Settings settings_;
    int32_t device_id_ = 0;
    pid_t self_ = 0;
    const CopyKernel *kernel_ = nullptr;
    bool traceable_by_all_ = false;
    std::shared_ptr<EventLoop> loop_;
    std::shared_ptr<CopyPool> helpers_;
    std::unique_ptr<OwnMemory> memory_;
    std::unique_ptr<ChannelListener> channel_;
    // Read by peers with process_vm_readv; zeros once the device is closed.
    std::unique_ptr<Cookie> cookie_;
    std::mutex serve_lock_;  // held by the I/O thread while it touches registered memory
    mutable std::mutex passages_mutex_;
    std::multimap<uint64_t, std::shared_ptr<PeerPassage>> passages_;  // by their marks
};

}  // namespace lldd::mock
