// One end of a link: which path reaches which memory of the peer, and the transfers over them.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "mock_runtime/batch.h"
#include "mock_runtime/channel.h"
#include "mock_runtime/copy_pool.h"
#include "mock_runtime/endpoint.h"
#include "mock_runtime/faults.h"
#include "mock_runtime/link_page.h"
#include "mock_runtime/path_tcp.h"
#include "mock_runtime/peer_regions.h"
#include "mock_runtime/tcp_server.h"
#include "runtime/runtime.h"

namespace lldd::mock {

// What the owner of memory waits on when it takes memory back: the peer's passage over one link.
// Outlives its connection while somebody waits.
struct PeerPassage {
    LinkPage page;
    LinkEnd own_end = LinkEnd::kInitiator;
    // Of the snapshot that the peer has got: it knows no region that came later.
    uint64_t mark = 0;
    std::atomic<bool> peer_gone{false};

    LinkSide &own_side() const { return page.OfMemoryOf(own_end); }
    LinkSide &peer_side() const {
        return page.OfMemoryOf(own_end == LinkEnd::kInitiator ? LinkEnd::kAcceptor
                                                              : LinkEnd::kInitiator);
    }
};

class MockDevice;

// The device outlives its connections.
class MockConnection final : public Connection {
public:
    MockConnection(MockDevice *device, const ConnectionSetup &setup, EndpointData peer);
    ~MockConnection() override;

    // The acceptor's and the initiator's part of Device::Connect.
    void ExpectChannel();
    Status DialChannel(const Deadline &deadline);

    Status Confirm() override;
    Status Read(const Run *runs, size_t count, const Deadline &deadline) override;
    Status Write(const Run *runs, size_t count, const Deadline &deadline) override;
    void ServeStream(Fd stream) override;
    void PeerGone() override;
    Status Close(const Deadline &deadline) override;
    std::vector<PathDescription> Paths() const override;

private:
    class TransferGate;
    struct Plan;

    Status EndAccess(const Deadline &deadline);
    Status TakeChannel(ChannelGift gift, pid_t pid, ChannelGift *own);
    ChannelGift OwnGift() const;
    void MapPools(std::vector<PoolOffer> *offers);
    bool WantsChannel() const;

    void DecideRoutes();
    void DecideRoutesLocked();
    std::string WhyNot(Transport transport, bool pool, const Region *region) const;
    std::optional<Transport> Choose(bool pool, const Region *region, std::string *reason) const;

    Status Transfer(Direction direction, const Run *runs, size_t count, const Deadline &deadline);
    Status MakePlan(const Run *runs, size_t count, Plan *plan);
    MoveFailure MovePlanned(const Plan &plan, Direction direction, const Deadline &deadline);
    MoveFailure MoveSameHost(const Plan &plan, Direction direction, const Deadline &deadline);
    Status Unreachable(const PeerRegion &peer, uint64_t addr) const;
    bool IsLive(const PeerRegion &region) const;
    MoveFailure FirstWithdrawn() const;
    Status Explain(const MoveFailure &failure) const;
    std::string PeerName() const;

    MockDevice *const device_;
    const LinkEnd end_;
    const LinkNonce nonce_;
    EndpointData peer_;
    const uint64_t mark_;  // of the snapshot that the peer has got
    std::shared_ptr<PeerPassage> passage_;
    const FaultLink fault_link_;
    std::shared_ptr<CopyPool> helpers_;

    // Set while the link is made, then only read, but for what a refusal changes.
    PeerRegionTable peer_table_;
    struct MappedPool {
        uint32_t number;
        SharedMemory memory;
    };
    std::vector<MappedPool> mapped_pools_;
    bool same_host_ = false;
    pid_t peer_pid_ = 0;
    std::string why_not_same_host_ = "the link is not complete";
    std::string why_not_mapped_;  // of the last pool that could not be mapped
    std::string why_not_cma_;
    mutable std::mutex paths_mutex_;
    PathDescription path_to_pools_;
    PathDescription path_to_registered_;

    PeerRegions regions_;
    // Of the transfer that is under way.
    std::vector<const PeerRegion *> used_;
    uint64_t transfers_ = 0;
    KnownMemory::View known_;
    TcpPath tcp_;

    std::unique_ptr<TcpServer> server_;  // of the I/O thread alone
    std::atomic<bool> closed_{false};
};

}  // namespace lldd::mock
