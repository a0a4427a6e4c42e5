// An opened device: its context, memory, copies, HIXL engine and links.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "ascend/cann.h"
#include "ascend/copies.h"
#include "ascend/device_parts.h"
#include "base/mutex.h"
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
    Status AwaitUnregistered(uint64_t addr, uint64_t size, const Deadline &deadline) override;
    Status Copy(const Run *runs, size_t count, Placement to, Placement from,
                const Deadline &deadline) override;
    Status UseAddress(const std::string &ip, bool listens) override;
    Status Endpoint(const LinkNonce &nonce, std::string *endpoint) override;
    Status Connect(const ConnectionSetup &setup, const Deadline &deadline,
                   std::unique_ptr<Connection> *connection) override;

private:
    AscendDevice() = default;
    Status FinishWithdrawal(uint64_t addr, uint64_t size, const OwnMemory::Withdrawn &withdrawn,
                            const Deadline &deadline);

    Status CheckPeer(const EndpointData &peer) const;

    DeviceParts parts_;
    uint64_t finalize_ms_ = 0;
    std::string name_;  // which device of the host it is
    bool ended_ = false;
    std::unique_ptr<Copies> copies_;

    Mutex unfinished_mutex_;
    // By address and size: what an Unregister could not finish.
    std::map<std::pair<uint64_t, uint64_t>, OwnMemory::Withdrawn> unfinished_
        LLDD_GUARDED_BY(unfinished_mutex_);
};

}  // namespace lldd::ascend
