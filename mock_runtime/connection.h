// One end of a link: the transfers to and from the peer's memory, and the peer's access to this
// device's.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "mock_runtime/channel.h"
#include "mock_runtime/device_parts.h"
#include "mock_runtime/endpoint.h"
#include "mock_runtime/faults.h"
#include "mock_runtime/known_memory.h"
#include "mock_runtime/move.h"
#include "mock_runtime/passages.h"
#include "mock_runtime/path_tcp.h"
#include "mock_runtime/peer_memory.h"
#include "mock_runtime/tcp_server.h"
#include "runtime/runtime.h"

namespace lldd::mock {

class MockConnection final : public Connection {
public:
    MockConnection(DeviceParts *device, const ConnectionSetup &setup, EndpointData peer);
    ~MockConnection() override;

    // The acceptor's and the initiator's part of Device::Connect.
    void ExpectChannel();
    Status DialChannel(const Deadline &deadline);

    Status Confirm() override;
    Status Read(const Run *runs, size_t count, const Deadline &deadline) override;
    Status Write(const Run *runs, size_t count, const Deadline &deadline) override;
    const PathBytes &Moved() const override { return moved_; }
    void ServeStream(Fd stream) override;
    void OnMessage(std::string_view message, std::function<void()> answer) override;
    void PeerGone() override;
    void ForgetPeer() override;
    Status Close(const Deadline &deadline) override;
    Status ReadForPeer(uint64_t addr, uint64_t length, void *to) override;
    std::vector<PathDescription> Paths() const override;

private:
    class TransferGate;

    Status TakeChannel(ChannelGift gift, pid_t pid, ChannelGift *own);
    ChannelGift OwnGift() const;
    void Mute(bool mute);
    Status EndAccess(const Deadline &deadline);

    Status Transfer(Direction direction, const Run *runs, size_t count, const Deadline &deadline);
    // As fast as it goes.
    Status MoveAll(Direction direction, const Run *runs, size_t count, const Deadline &deadline);
    Status Corrupt(uint64_t number, Direction direction, const Run *runs, size_t count,
                   const Deadline &deadline);
    Status ExplainWithEnd(const MoveFailure &failure) const;
    Status MakePlan(const Run *runs, size_t count, TransferPlan *plan);
    MoveFailure MovePlanned(const TransferPlan &plan, Direction direction,
                            const Deadline &deadline);
    MoveFailure MoveSameHost(const TransferPlan &plan, Direction direction,
                             const Deadline &deadline);
    MoveFailure MoveBatch(ChunkedWork *work, const Batch &batch, Path path);

    DeviceParts *const device_;
    const LinkEnd end_;
    const ChannelLink link_;
    const std::shared_ptr<PeerPassage> passage_;
    const FaultLink fault_link_;

    PeerMemory peer_;
    // Used by the transfer that is under way.
    KnownMemory::View known_;
    TcpPath tcp_;
    PathBytes moved_{};

    bool mute_ LLDD_GUARDED_BY(*device_->loop) = false;
    std::unique_ptr<TcpServer> server_ LLDD_GUARDED_BY(*device_->loop);
    RequestOrder order_ LLDD_GUARDED_BY(*device_->loop);
    std::atomic<bool> closed_{false};
};

}  // namespace lldd::mock
