// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/connection.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/log.h"
#include "mock_runtime/device.h"
#include "mock_runtime/path_cma.h"
#include "mock_runtime/path_mapped.h"
#include "runtime/pieces.h"
#include "runtime/texts.h"

namespace lldd::mock {
namespace {

const char *WhatItIs(Transport transport) {
    switch (transport) {
        case Transport::kMapped: return "same host, the pool is mapped here";
        case Transport::kCma: return "same host, process_vm_readv and process_vm_writev";
        case Transport::kTcp: return "a TCP stream";
    }
    return "";
}

}  // namespace

// Looked at before every piece: who withdraws memory waits for one piece only.
class MockConnection::TransferGate final : public Gate {
public:
    TransferGate(const MockConnection &connection, const Deadline &deadline)
        : connection_(connection), deadline_(deadline) {}

    MoveFailure Check() const override {
        const PeerPassage &passage = *connection_.passage_;
        if (passage.peer_gone.load(std::memory_order_relaxed) ||
            passage.peer_side().alive.load(std::memory_order_seq_cst) == 0) {
            return {MoveFailure::kPeerGone, 0, 0};
        }
        if (deadline_.passed()) return {MoveFailure::kTimeout, 0, 0};
        return connection_.FirstWithdrawn();
    }

private:
    const MockConnection &connection_;
    const Deadline &deadline_;
};

// The pieces of a transfer by the path that they take. Each thread has one, whose memory it uses
// again: there may be hundreds of connections, and each of them may once have moved a lot.
struct MockConnection::Plan {
    Batch direct;
    Batch checked;
    Batch cma;

    static Plan &OfThisThread() {
        static thread_local Plan plan;
        return plan;
    }
};

MockConnection::MockConnection(MockDevice *device, const ConnectionSetup &setup, EndpointData peer)
    : device_(device),
      end_(setup.end),
      nonce_(setup.nonce),
      peer_(std::move(peer)),
      mark_(device->memory().SnapshotMark(setup.nonce)),
      passage_(std::make_shared<PeerPassage>()),
      fault_link_{setup.peer, setup.streams, &passage_->peer_gone},
      helpers_(device->helpers()),
      known_(device->memory().known()),
      tcp_(setup.streams, passage_->peer_gone) {
    passage_->own_end = end_;
    passage_->mark = mark_;
    // There may be a hundred thousand, at each of hundreds of links: they are kept once.
    regions_.Assign(std::exchange(peer_.regions, {}));
}

MockConnection::~MockConnection() {
    if (closed_.load()) return;
    const Status closed = Close(Deadline::Passed());
    if (!closed.ok()) LLDD_LOG(LLDD_LOG_INFO, "%s", closed.text().c_str());
}

// ---------------------------------------------------------------------------- making the link

bool MockConnection::WantsChannel() const {
    const uint32_t both = device_->settings().transport_bits() & peer_.transports;
    return (both & (TransportBit(Transport::kMapped) | TransportBit(Transport::kCma))) != 0;
}

void MockConnection::ExpectChannel() {
    why_not_same_host_ =
        "the peer did not come over a local socket: another host or network namespace";
    if (!WantsChannel()) return;
    device_->channel().Expect(nonce_, [this](ChannelGift gift, pid_t pid, ChannelGift *own) {
        return TakeChannel(std::move(gift), pid, own);
    });
}

ChannelGift MockConnection::OwnGift() const {
    ChannelGift gift;
    gift.own_region_table = device_->memory().table_fd();
    if (!device_->settings().allows(Transport::kMapped)) return gift;
    for (const OwnMemory::PoolDescriptor &pool : device_->memory().PoolDescriptors()) {
        PoolOffer offer;
        offer.number = pool.number;
        offer.size = pool.size;
        offer.own_fd = pool.fd;
        gift.pools.push_back(std::move(offer));
    }
    return gift;
}

Status MockConnection::TakeChannel(ChannelGift gift, pid_t pid, ChannelGift *own) {
    LinkPage page;
    LLDD_RETURN_IF_ERROR(LinkPage::Map(std::move(gift.link_page), &page));
    LLDD_RETURN_IF_ERROR(PeerRegionTable::Map(std::move(gift.region_table), &peer_table_));
    {
        std::lock_guard<std::mutex> lock(paths_mutex_);
        passage_->page = std::move(page);
    }
    passage_->own_side().alive.store(1, std::memory_order_seq_cst);
    device_->AddPassage(passage_);
    MapPools(&gift.pools);
    peer_pid_ = pid;
    same_host_ = true;
    *own = OwnGift();
    return Status::Ok();
}

Status MockConnection::DialChannel(const Deadline &deadline) {
    if (!WantsChannel()) {
        DecideRoutes();
        return Status::Ok();
    }
    LLDD_RETURN_IF_ERROR(LinkPage::Create(&passage_->page));
    passage_->own_side().alive.store(1, std::memory_order_seq_cst);
    device_->AddPassage(passage_);
    ChannelGift own = OwnGift();
    own.own_link_page = passage_->page.fd();
    ChannelGift gift;
    Status exchanged = ExchangeOverChannel(peer_.channel, nonce_, own, deadline, &gift, &peer_pid_);
    if (exchanged.ok()) {
        exchanged = PeerRegionTable::Map(std::move(gift.region_table), &peer_table_);
    }
    // Another path would lack descriptors as well, and be a slower one without anybody's knowing.
    if (exchanged.code() == LLDD_TIMEOUT || exchanged.code() == LLDD_LINK_FAILED) return exchanged;
    passage_->page.CloseDescriptor();
    same_host_ = exchanged.ok();
    if (same_host_) {
        MapPools(&gift.pools);
    } else {
        why_not_same_host_ = exchanged.text();
    }
    DecideRoutes();
    return Status::Ok();
}

void MockConnection::MapPools(std::vector<PoolOffer> *offers) {
    for (PoolOffer &offer : *offers) {
        SharedMemory memory;
        const Status mapped = SharedMemory::Map(std::move(offer.fd), offer.size, true, &memory);
        if (mapped.ok()) {
            mapped_pools_.push_back({offer.number, std::move(memory)});
        } else {
            why_not_mapped_ = mapped.text();
        }
    }
}

Status MockConnection::Confirm() {
    LLDD_RETURN_IF_ERROR(PassFaultPoint(FaultPoint::kConfirm, &fault_link_));
    DecideRoutes();
    return Status::Ok();
}

void MockConnection::DecideRoutes() {
    if (same_host_ && device_->settings().allows(Transport::kCma)) {
        why_not_cma_ = WhyProcessVmCannot(device_->settings(), peer_pid_, peer_.process);
    }
    std::lock_guard<std::mutex> lock(paths_mutex_);
    DecideRoutesLocked();
}

void MockConnection::DecideRoutesLocked() {
    const auto describe = [this](bool pool, uint32_t memory, PathDescription *description) {
        std::string reason;
        const std::optional<Transport> transport = Choose(pool, nullptr, &reason);
        *description = {memory, transport ? TransportName(*transport) : "none", reason};
        return transport;
    };
    describe(true, LLDD_MEMORY_ALLOCATED, &path_to_pools_);
    const auto to_registered = describe(false, LLDD_MEMORY_REGISTERED, &path_to_registered_);
    regions_.ForEach([&](PeerRegion &peer) {
        // Of registered memory all is reached alike, of pools only those that are mapped.
        if (!peer.is_pool()) {
            peer.transport = to_registered;
            return;
        }
        std::string reason;
        peer.transport = Choose(true, &peer, &reason);
        for (const MappedPool &pool : mapped_pools_) {
            if (pool.number == peer.pool) peer.mapped_at = pool.memory.address();
        }
    });
}

// "": the transport may serve that kind of memory (that region, if one is named).
std::string MockConnection::WhyNot(Transport transport, bool pool, const Region *region) const {
    if (!device_->settings().allows(transport)) return "not in LLM_DATADIST_MOCK_TRANSPORT";
    if ((peer_.transports & TransportBit(transport)) == 0) {
        return "not in the peer's LLM_DATADIST_MOCK_TRANSPORT";
    }
    if (transport == Transport::kTcp) return "";
    if (transport == Transport::kMapped && !pool) return "only pools can be mapped";
    if (!same_host_) return why_not_same_host_;
    if (transport == Transport::kCma) return why_not_cma_;
    if (region == nullptr) return why_not_mapped_;
    for (const MappedPool &mapped : mapped_pools_) {
        if (mapped.number == region->pool && mapped.memory.size() == region->size) return "";
    }
    return why_not_mapped_.empty() ? "the peer did not hand over this pool" : why_not_mapped_;
}

std::optional<Transport> MockConnection::Choose(bool pool, const Region *region,
                                                std::string *reason) const {
    const std::vector<Transport> &order = device_->settings().transports;
    const auto chosen = std::find_if(order.begin(), order.end(), [&](Transport transport) {
        return WhyNot(transport, pool, region).empty();
    });
    if (chosen != order.end()) *reason = WhatItIs(*chosen);
    for (const Transport faster : kFastestFirst) {
        if (chosen != order.end() && *chosen == faster) break;
        std::string why = WhyNot(faster, pool, region);
        if (why.empty()) why = "comes later in LLM_DATADIST_MOCK_TRANSPORT";
        if (!reason->empty()) *reason += "; ";
        *reason += std::string(TransportName(faster)) + ": " + why;
    }
    if (chosen == order.end()) return std::nullopt;
    return *chosen;
}

std::vector<PathDescription> MockConnection::Paths() const {
    std::lock_guard<std::mutex> lock(paths_mutex_);
    return {path_to_pools_, path_to_registered_};
}

// ---------------------------------------------------------------------------- transfers

Status MockConnection::Read(const Run *runs, size_t count, const Deadline &deadline) {
    LLDD_RETURN_IF_ERROR(PassFaultPoint(FaultPoint::kRead, deadline, &fault_link_, runs, count));
    return Transfer(Direction::kRead, runs, count, deadline);
}

Status MockConnection::Write(const Run *runs, size_t count, const Deadline &deadline) {
    LLDD_RETURN_IF_ERROR(PassFaultPoint(FaultPoint::kWrite, deadline, &fault_link_, runs, count));
    return Transfer(Direction::kWrite, runs, count, deadline);
}

Status MockConnection::Transfer(Direction direction, const Run *runs, size_t count,
                                const Deadline &deadline) {
    if (passage_->peer_gone.load()) return Explain({MoveFailure::kPeerGone, 0, 0});
    Plan &plan = Plan::OfThisThread();
    for (;;) {
        LLDD_RETURN_IF_ERROR(MakePlan(runs, count, &plan));
        const MoveFailure failure = MovePlanned(plan, direction, deadline);
        if (!failure.failed()) return Status::Ok();
        if (failure.kind != MoveFailure::kRefused) return Explain(failure);
        // The peer has forbidden it since (PR_SET_DUMPABLE): the next path takes over.
        std::lock_guard<std::mutex> lock(paths_mutex_);
        why_not_cma_ = "the kernel refuses process_vm calls to the peer since the link was made";
        DecideRoutesLocked();
    }
}

bool MockConnection::IsLive(const PeerRegion &region) const {
    return !peer_table_ || peer_table_.IsLive(region.name);
}

MoveFailure MockConnection::FirstWithdrawn() const {
    for (const PeerRegion *region : used_) {
        if (!IsLive(*region)) return {MoveFailure::kWithdrawn, 0, region->addr};
    }
    return {};
}

// Sorts the runs by the path that they take.
Status MockConnection::MakePlan(const Run *runs, size_t count, Plan *plan) {
    uint64_t total = 0;
    for (size_t i = 0; i < count; ++i) total += runs[i].length;
    const uint64_t chunk = Batch::ChunkBytes(total);
    plan->direct.Clear(chunk);
    plan->checked.Clear(kLargestChunk);
    plan->cma.Clear(chunk);
    tcp_.Clear();
    used_.clear();
    ++transfers_;
    const auto is_live = [this](const PeerRegion &region) { return IsLive(region); };
    return ForEachPiece(runs, count, [&](const Run &rest, uint64_t *taken) -> Status {
        PeerRegion *peer = regions_.Find(rest.remote, is_live);
        if (peer == nullptr) return Explain({MoveFailure::kUnknown, 0, rest.remote});
        *taken = peer->Within(rest.remote, rest.length);
        if (peer->used_in != transfers_) {
            peer->used_in = transfers_;
            used_.push_back(peer);
        }
        if (!peer->transport) return Unreachable(*peer, rest.remote);
        switch (*peer->transport) {
            case Transport::kMapped:
                (known_.Contains(rest.local, *taken) ? plan->direct : plan->checked)
                    .Add(rest.local, peer->mapped_at + (rest.remote - peer->addr), *taken);
                break;
            case Transport::kCma: plan->cma.Add(rest.local, rest.remote, *taken); break;
            case Transport::kTcp: tcp_.Add(rest.local, peer->name, rest.remote, *taken); break;
        }
        return Status::Ok();
    });
}

Status MockConnection::Unreachable(const PeerRegion &peer, uint64_t addr) const {
    std::string reason;
    Choose(peer.is_pool(), &peer, &reason);
    return Failure(LLDD_FEATURE_NOT_ENABLED,
                   "no transport that may be used reaches %s memory of %s at %#llx: %s",
                   peer.is_pool() ? "pool" : "registered", PeerName().c_str(), Printable(addr),
                   reason.c_str());
}

MoveFailure MockConnection::MovePlanned(const Plan &plan, Direction direction,
                                        const Deadline &deadline) {
    if (!plan.direct.empty() || !plan.checked.empty() || !plan.cma.empty()) {
        const MoveFailure failure = MoveSameHost(plan, direction, deadline);
        if (failure.failed()) return failure;
    }
    return tcp_.empty() ? MoveFailure{} : tcp_.Move(direction, deadline);
}

MoveFailure MockConnection::MoveSameHost(const Plan &plan, Direction direction,
                                         const Deadline &deadline) {
    struct Inside {
        explicit Inside(LinkSide &side) : side_(side) { Enter(side_); }
        ~Inside() { Leave(side_); }
        LinkSide &side_;
    };
    const Inside inside(passage_->peer_side());
    const TransferGate gate(*this, deadline);
    const uint32_t threads = device_->settings().threads;
    MoveFailure failure;
    if (!plan.direct.empty()) {
        DirectCopy copy(plan.direct, direction, gate, device_->kernel());
        failure = helpers_->Run(copy, plan.direct.chunks(), plan.direct.Threads(threads));
    }
    if (!failure.failed() && !plan.checked.empty()) {
        CheckedCopy copy(plan.checked, direction, gate, device_->self(), true);
        failure = helpers_->Run(copy, plan.checked.chunks(), plan.checked.Threads(threads));
    }
    if (!failure.failed() && !plan.cma.empty()) {
        CmaMove move(plan.cma, direction, gate, peer_pid_, device_->self(), peer_.process);
        failure = helpers_->Run(move, plan.cma.chunks(), plan.cma.Threads(threads));
    }
    return failure;
}

std::string MockConnection::PeerName() const {
    return same_host_ ? Format("the peer (pid %d)", static_cast<int>(peer_pid_)) : "the peer";
}

Status MockConnection::Explain(const MoveFailure &failure) const {
    const std::string peer = PeerName();
    const unsigned long long addr = Printable(failure.address);
    switch (failure.kind) {
        case MoveFailure::kNone: return Status::Ok();
        case MoveFailure::kTimeout: return NotDoneInTime();
        case MoveFailure::kPeerGone:
        case MoveFailure::kClosed: return PeerIsGone();
        case MoveFailure::kWithdrawn: return WithdrawnByOwner(peer, failure.address);
        case MoveFailure::kUnknown: return UnknownToLink(peer, failure.address);
        case MoveFailure::kLocalFault:
            return ErrnoFailure(
                LLDD_FAILED, failure.error,
                "the memory of this process at %#llx is not mapped for this transfer", addr);
        case MoveFailure::kRemoteFault:
            return ErrnoFailure(LLDD_FAILED, failure.error,
                                "the memory of %s at %#llx is not mapped for this transfer",
                                peer.c_str(), addr);
        case MoveFailure::kProtocol:
            return Failure(LLDD_FAILED, "the data stream of %s does not follow the protocol",
                           peer.c_str());
        case MoveFailure::kRefused:
        case MoveFailure::kSystem: break;
    }
    return ErrnoFailure(LLDD_FAILED, failure.error, "cannot move bytes to or from %s",
                        peer.c_str());
}

// ---------------------------------------------------------------------------- the peer's access

void MockConnection::ServeStream(Fd stream) {
    server_.reset();  // the peer has given up an earlier stream: nothing late may come out of it
    if (closed_.load() || !device_->settings().allows(Transport::kTcp)) return;
    server_ = std::make_unique<TcpServer>(device_->loop(), &device_->memory(),
                                          device_->serve_lock(), mark_, std::move(stream));
}

void MockConnection::PeerGone() {
    passage_->peer_gone.store(true);
    {
        std::lock_guard<std::mutex> lock(paths_mutex_);
        if (passage_->page) StopWaiting(passage_->own_side());
    }
    tcp_.Interrupt();
    WakeHeldUpCalls();
}

Status MockConnection::Close(const Deadline &deadline) {
    LLDD_RETURN_IF_ERROR(EndAccess(deadline));
    // The access has ended whatever the call answers.
    return PassFaultPoint(FaultPoint::kClose, &fault_link_);
}

Status MockConnection::EndAccess(const Deadline &deadline) {
    closed_.store(true);
    // On the I/O thread no step of the stream is under way, and nobody completes the channel any
    // more.
    device_->loop()->RunAndWait([this] {
        server_.reset();
        if (end_ == LinkEnd::kAcceptor) device_->channel().Forget(nonce_);
    });
    if (!passage_->page) return Status::Ok();
    passage_->own_side().alive.store(0, std::memory_order_seq_cst);
    if (!passage_->peer_gone.load() &&
        !WaitForPassage(passage_->own_side(), passage_->peer_gone, deadline)) {
        // The device goes on to wait for it where memory is withdrawn.
        return Failure(LLDD_TIMEOUT, "a transfer of %s is still under way", PeerName().c_str());
    }
    device_->RemovePassage(passage_);
    return Status::Ok();
}

}  // namespace lldd::mock
