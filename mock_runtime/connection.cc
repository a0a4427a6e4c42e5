// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/connection.h"

#include <cstring>
#include <utility>

#include "base/address.h"
#include "base/io_thread.h"
#include "base/log.h"
#include "mock_runtime/own_reads.h"
#include "mock_runtime/path_cma.h"
#include "mock_runtime/path_mapped.h"
#include "mock_runtime/shaped_transfer.h"
#include "runtime/pieces.h"
#include "runtime/texts.h"

namespace lldd::mock {

// Asked before every chunk, so an owner that withdraws memory waits for one chunk only.
class MockConnection::TransferGate final : public Gate {
public:
    TransferGate(const PeerPassage &passage, const PeerMemory &peer, const Deadline &deadline)
        : passage_(passage), peer_(peer), until_(deadline) {}

    MoveFailure Check() const override {
        if (passage_.peer_gone().load(std::memory_order_relaxed) ||
            passage_.peer_side().alive.load(std::memory_order_seq_cst) == 0) {
            return {MoveFailure::kPeerGone, 0, 0};
        }
        if (until_.Passed()) return {MoveFailure::kTimeout, 0, 0};
        return peer_.FirstWithdrawn();
    }

private:
    const PeerPassage &passage_;
    const PeerMemory &peer_;
    const MovingUntil until_;
};

MockConnection::MockConnection(DeviceParts *device, const ConnectionSetup &setup, EndpointData peer)
    : device_(device),
      end_(setup.end),
      link_{setup.nonce, setup.key},
      passage_(std::make_shared<PeerPassage>(setup.end, setup.peer,
                                             device->memory->SnapshotMark(setup.nonce))),
      fault_link_{setup.peer, setup.streams, &passage_->peer_gone(),
                  [this](bool mute) { Mute(mute); }},
      peer_(device->settings, std::move(peer)),
      known_(device->memory->known()),
      tcp_(setup.streams, passage_->peer_gone()) {}

MockConnection::~MockConnection() {
    if (closed_.load()) return;
    const Status closed = Close(Deadline::Passed());
    if (!closed.ok()) LLDD_LOG(LLDD_LOG_INFO, "%s", closed.text().c_str());
}

// ---------------------------------------------------------------------------- making the link

void MockConnection::ExpectChannel() {
    peer_.IsElsewhere(
        "the peer did not come over a local socket: another host or network namespace");
    if (!peer_.WantsChannel()) return;
    device_->channel->Expect(link_, [this](ChannelGift gift, pid_t pid, ChannelGift *own) {
        return TakeChannel(std::move(gift), pid, own);
    });
}

ChannelGift MockConnection::OwnGift() const {
    ChannelGift gift;
    gift.own_region_table = device_->memory->table_fd();
    if (!device_->settings.allows(Transport::kMapped)) return gift;
    for (const OwnMemory::PoolDescriptor &pool : device_->memory->PoolDescriptors()) {
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
    LLDD_RETURN_IF_ERROR(peer_.MapTable(std::move(gift.region_table)));
    passage_->Open(std::move(page));
    passage_->SetProcess(PeerProcess(pid));
    device_->passages.Add(passage_);
    peer_.IsOnThisHost(pid, &gift.pools);
    *own = OwnGift();
    return Status::Ok();
}

Status MockConnection::DialChannel(const Deadline &deadline) {
    if (!peer_.WantsChannel()) {
        peer_.DecidePaths();
        BeginFaultLink(&fault_link_);
        return Status::Ok();
    }
    LinkPage page;
    LLDD_RETURN_IF_ERROR(LinkPage::Create(&page));
    passage_->Open(std::move(page));
    device_->passages.Add(passage_);
    ChannelGift own = OwnGift();
    own.own_link_page = passage_->page().fd();
    ChannelGift gift;
    pid_t pid = 0;
    Status exchanged = ExchangeOverChannel(peer_.channel(), link_, own, deadline, &gift, &pid);
    if (exchanged.ok()) exchanged = peer_.MapTable(std::move(gift.region_table));
    // Another path would lack descriptors as well, and the client would not learn that it is
    // slower.
    if (exchanged.code() == LLDD_TIMEOUT || exchanged.code() == LLDD_LINK_FAILED) return exchanged;
    passage_->page().CloseDescriptor();
    if (exchanged.ok()) {
        passage_->SetProcess(PeerProcess(pid));
        peer_.IsOnThisHost(pid, &gift.pools);
    } else {
        peer_.IsElsewhere(exchanged.text());
    }
    peer_.DecidePaths();
    BeginFaultLink(&fault_link_);
    return Status::Ok();
}

Status MockConnection::Confirm() {
    LLDD_RETURN_IF_ERROR(PassFaultPoint(FaultPoint::kConfirm, &fault_link_));
    // Whoever comes over the channel from now on comes too late: transfers use what was taken.
    device_->channel->Forget(link_.nonce);
    peer_.DecidePaths();
    BeginFaultLink(&fault_link_);
    return Status::Ok();
}

std::vector<PathDescription> MockConnection::Paths() const { return peer_.Paths(); }

// ---------------------------------------------------------------------------- transfers

Status MockConnection::Read(const Run *runs, size_t count, const Deadline &deadline) {
    uint64_t corrupt = 0;
    LLDD_RETURN_IF_ERROR(
        PassFaultPoint(FaultPoint::kRead, deadline, &fault_link_, runs, count, &corrupt));
    LLDD_RETURN_IF_ERROR(Transfer(Direction::kRead, runs, count, deadline));
    return corrupt == 0 ? Status::Ok() : Corrupt(corrupt, Direction::kRead, runs, count, deadline);
}

Status MockConnection::Write(const Run *runs, size_t count, const Deadline &deadline) {
    uint64_t corrupt = 0;
    LLDD_RETURN_IF_ERROR(
        PassFaultPoint(FaultPoint::kWrite, deadline, &fault_link_, runs, count, &corrupt));
    LLDD_RETURN_IF_ERROR(Transfer(Direction::kWrite, runs, count, deadline));
    return corrupt == 0 ? Status::Ok() : Corrupt(corrupt, Direction::kWrite, runs, count, deadline);
}

// For a fault rule: changes a bit of the byte with this number, counted from 1, where the runs have
// brought it.
Status MockConnection::Corrupt(uint64_t number, Direction direction, const Run *runs, size_t count,
                               const Deadline &deadline) {
    uint64_t before = number - 1;
    const Run *run = runs;
    for (; run != runs + count && before >= run->length; ++run) before -= run->length;
    if (run == runs + count) return Status::Ok();
    if (direction == Direction::kRead) {
        *static_cast<volatile uint8_t *>(Pointer(run->local + before)) ^= 1;
        return Status::Ok();
    }
    uint8_t byte = 0;
    const Run only{Address(&byte), run->remote + before, 1};
    const PathBytes moved = moved_;
    LLDD_RETURN_IF_ERROR(Transfer(Direction::kRead, &only, 1, deadline));
    byte ^= 1;
    const Status written = Transfer(Direction::kWrite, &only, 1, deadline);
    moved_ = moved;
    return written;
}

Status MockConnection::Transfer(Direction direction, const Run *runs, size_t count,
                                const Deadline &deadline) {
    moved_ = {};
    if (passage_->peer_gone().load()) return Explain({MoveFailure::kPeerGone, 0, 0}, peer_.Name());
    if (device_->settings.fabric == nullptr) return MoveAll(direction, runs, count, deadline);
    ShapedTransfer shaped(device_, &peer_, direction);
    LLDD_RETURN_IF_ERROR(shaped.Begin(runs, count));
    LLDD_RETURN_IF_ERROR(MoveAll(direction, runs, count, deadline));
    LLDD_RETURN_IF_ERROR(shaped.Await(deadline, passage_->peer_gone()));
    if (passage_->peer_gone().load()) return Explain({MoveFailure::kPeerGone, 0, 0}, peer_.Name());
    return Status::Ok();
}

Status MockConnection::MoveAll(Direction direction, const Run *runs, size_t count,
                               const Deadline &deadline) {
    const Spares<TransferPlan>::Loan plan(&device_->plans);
    for (;;) {
        LLDD_RETURN_IF_ERROR(MakePlan(runs, count, &*plan));
        const MoveFailure failure = MovePlanned(*plan, direction, deadline);
        if (!failure.failed()) return Status::Ok();
        if (failure.kind != MoveFailure::kRefused) return ExplainWithEnd(failure);
        peer_.CmaIsRefused(failure.error);
        moved_ = {};  // everything is moved again
    }
}

// Of a push that has failed half-way: whether its bytes may still land.
Status MockConnection::ExplainWithEnd(const MoveFailure &failure) const {
    Status status = Explain(failure, peer_.Name());
    switch (tcp_.end()) {
        case TcpPath::End::kKnown: return status;
        case TcpPath::End::kConfirmed: return std::move(status).WithSuffix(kEndConfirmed);
        case TcpPath::End::kUnconfirmed: break;
    }
    return std::move(status).WithSuffix(kEndNotConfirmed);
}

// Sorts the runs by the path that they take.
Status MockConnection::MakePlan(const Run *runs, size_t count, TransferPlan *plan) {
    uint64_t total = 0;
    for (size_t i = 0; i < count; ++i) total += runs[i].length;
    const uint64_t chunk = Batch::ChunkBytes(total);
    plan->direct.Clear(chunk);
    plan->checked.Clear(kLargestChunk);
    plan->cma.Clear(chunk);
    tcp_.Clear();
    peer_.BeginTransfer();
    return ForEachPiece(runs, count, [&](const Run &rest, uint64_t *taken) -> Status {
        const PeerRegion *const region = peer_.Use(rest.remote);
        if (region == nullptr) {
            return Explain({MoveFailure::kUnknown, 0, rest.remote}, peer_.Name());
        }
        *taken = region->Within(rest.remote, rest.length);
        const std::optional<Transport> transport = peer_.TransportOf(*region, rest.remote, *taken);
        if (!transport) return peer_.Unreachable(*region, rest.remote);
        switch (*transport) {
            case Transport::kMapped:
                (known_.Contains(rest.local, *taken) ? plan->direct : plan->checked)
                    .Add(rest.local, region->mapped_at + (rest.remote - region->addr), *taken);
                break;
            case Transport::kCma: plan->cma.Add(rest.local, rest.remote, *taken); break;
            case Transport::kTcp: tcp_.Add(rest.local, region->name, rest.remote, *taken); break;
        }
        return Status::Ok();
    });
}

MoveFailure MockConnection::MovePlanned(const TransferPlan &plan, Direction direction,
                                        const Deadline &deadline) {
    if (!plan.direct.empty() || !plan.checked.empty() || !plan.cma.empty()) {
        const MoveFailure failure = MoveSameHost(plan, direction, deadline);
        if (failure.failed()) return failure;
    }
    if (tcp_.empty()) return {};
    const MoveFailure failure = tcp_.Move(direction, deadline);
    moved_[static_cast<size_t>(Path::kTcp)] = tcp_.moved();
    return failure;
}

MoveFailure MockConnection::MoveSameHost(const TransferPlan &plan, Direction direction,
                                         const Deadline &deadline) {
    struct Inside {
        explicit Inside(LinkSide &side) : side_(side) { Enter(side_); }
        ~Inside() { Leave(side_); }
        LinkSide &side_;
    };
    const Inside inside(passage_->peer_side());
    const TransferGate gate(*passage_, peer_, deadline);
    MoveFailure failure;
    if (!plan.direct.empty()) {
        DirectCopy copy(plan.direct, direction, gate, device_->kernel);
        failure = MoveBatch(&copy, plan.direct, Path::kMapped);
    }
    if (!failure.failed() && !plan.checked.empty()) {
        CheckedCopy copy(plan.checked, direction, gate, device_->self, true);
        failure = MoveBatch(&copy, plan.checked, Path::kMapped);
    }
    if (!failure.failed() && !plan.cma.empty()) {
        CmaMove move(plan.cma, direction, gate, peer_.pid(), device_->self, peer_.process());
        failure = MoveBatch(&move, plan.cma, Path::kCma);
    }
    return failure;
}

MoveFailure MockConnection::MoveBatch(ChunkedWork *work, const Batch &batch, Path path) {
    const uint32_t threads = batch.Threads(device_->settings.threads);
    size_t done = 0;
    const MoveFailure failure = device_->helpers->Run(*work, batch.chunks(), threads, &done);
    moved_[static_cast<size_t>(path)] += failure.failed() ? batch.BytesOf(done) : batch.bytes();
    return failure;
}

// ---------------------------------------------------------------------------- the peer's access

void MockConnection::ServeStream(Fd stream) {
    LLDD_ON_IO_THREAD(*device_->loop);
    server_.reset();  // the peer has given up an earlier stream: nothing late may come out of it
    if (closed_.load() || !device_->settings.allows(Transport::kTcp)) return;
    const TcpServer::Owner owner{device_->memory.get(),  &device_->serve_lock, passage_->mark(),
                                 &passage_->peer_gone(), fault_link_.streams,  &order_};
    server_ = std::make_unique<TcpServer>(device_->loop, owner, std::move(stream));
    if (mute_) server_->Mute(true);
}

// EndAccess waits for what is posted here.
void MockConnection::Mute(bool mute) {
    fault_link_.streams->Mute(mute);
    device_->loop->Post([this, mute] {
        LLDD_ON_IO_THREAD(*device_->loop);
        mute_ = mute;
        if (server_ != nullptr) server_->Mute(mute);
    });
}

// A push of the peer has failed.
void MockConnection::OnMessage(std::string_view message, std::function<void()> answer) {
    LLDD_ON_IO_THREAD(*device_->loop);
    TcpFence fence;
    if (message.size() != sizeof fence) return fault_link_.streams->Break();
    std::memcpy(&fence, message.data(), sizeof fence);
    if (fence.magic != kTcpFenceMagic) return fault_link_.streams->Break();
    order_.EndBefore(fence.next_id);
    if (server_ != nullptr && server_->IsOver()) server_.reset();
    answer();
}

Status MockConnection::ReadForPeer(uint64_t addr, uint64_t length, void *to) {
    LLDD_OFF_IO_THREAD(*device_->loop);
    const auto allowed = [&] {
        return !closed_.load() && device_->memory->Reaches(passage_->mark(), addr, length);
    };
    const auto refused = [&] {
        return Failure(LLDD_FAILED, "%#llx with %llu bytes is not memory that this link reaches",
                       Printable(addr), Printable(length));
    };
    if (!allowed()) return refused();
    std::optional<bool> read = ReadByKernel(device_->self, addr, length, to);
    if (!read.has_value()) {
        // A withdrawal waits for this lock before the client may unmap the range.
        const MutexLock serving(device_->serve_lock);
        read = allowed() && ReadIfMapped(addr, length, to);
    }
    // If the range was withdrawn meanwhile, something else may have been read.
    if (!allowed()) return refused();
    if (*read) return Status::Ok();
    return Failure(LLDD_FAILED, "the owner's memory at %#llx (%llu bytes) is not mapped",
                   Printable(addr), Printable(length));
}

void MockConnection::PeerGone() {
    passage_->PeerGone();
    tcp_.Interrupt();
    WakeHeldUpCalls();
}

void MockConnection::ForgetPeer() { peer_.Forget(); }

Status MockConnection::Close(const Deadline &deadline) {
    LLDD_RETURN_IF_ERROR(EndAccess(deadline));
    // The access has ended whatever the call answers.
    return PassFaultPoint(FaultPoint::kClose, &fault_link_);
}

Status MockConnection::EndAccess(const Deadline &deadline) {
    closed_.store(true);
    EndFaultLink(&fault_link_);
    // On the I/O thread no step of the stream is under way, and the exchange over the channel can
    // no longer be completed.
    device_->loop->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*device_->loop);
        server_.reset();
        if (end_ == LinkEnd::kAcceptor) device_->channel->Forget(link_.nonce);
    });
    if (!passage_->is_open()) return Status::Ok();
    passage_->own_side().alive.store(0, std::memory_order_seq_cst);
    if (!passage_->WaitUntilLeft(deadline)) {
        // The passage stays with the device, whose withdrawals wait for it, and AwaitLeft.
        passage_->Closed();
        return Failure(LLDD_TIMEOUT, "a transfer of %s is still under way", peer_.Name().c_str());
    }
    device_->passages.Remove(passage_);
    return Status::Ok();
}

}  // namespace lldd::mock
