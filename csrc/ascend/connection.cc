// SPDX-License-Identifier: Apache-2.0
#include "ascend/connection.h"

#include <algorithm>
#include <utility>

#include "base/codec.h"
#include "base/log.h"
#include "runtime/pieces.h"
#include "runtime/texts.h"

namespace lldd::ascend {
namespace {

// A peer that withdraws memory is answered between two calls of HIXL. One call moves what HCCS
// moves in a few milliseconds.
constexpr uint64_t kMostBytesACall = 256ull << 20;
constexpr size_t kMostDescsACall = 65536;
// How long the end of a link waits for the peer to confirm that it transfers nothing any more. A
// peer that is silent for longer is stopped or hung: neither finalize nor an unlink waits for it.
constexpr uint64_t kGoodbyeMs = 1000;

// What one end asks of the other.
enum class Message : uint8_t {
    kForget = 1,      // begin no transfer in this region any more: number
    kDisconnect = 2,  // and do not connect again before kGoOn
    kGoOn = 3,
    kLeave = 4,  // transfer nothing any more
    kAreYouThere = 5,
};

std::string Encode(Message message, uint64_t number = 0) {
    Writer writer;
    writer.Number(static_cast<uint8_t>(message));
    writer.Number(number);
    return writer.Take();
}

}  // namespace

AscendConnection::AscendConnection(DeviceParts *device, const ConnectionSetup &setup,
                                   EndpointData peer)
    : device_(device),
      streams_(setup.streams),
      passive_(setup.passive),
      peer_passive_(setup.peer_passive),
      peer_name_(Format("cluster %llu", Printable(setup.peer))),
      peer_process_(peer.process),
      voice_(std::make_shared<Voice>(setup.streams, Encode(Message::kAreYouThere))),
      remote_(device->engine->Use(peer.engine, voice_)) {
    reachable_.Assign(std::move(peer.regions));
    device_->withdrawals->gone().Remove(peer.engine);
    device_->withdrawals->Add(this);
}

AscendConnection::~AscendConnection() {
    device_->withdrawals->Remove(this);
    (void)Close(Deadline::Passed());
    voice_->End();
}

// ---- making the link ----

Status AscendConnection::Dial(const Deadline &deadline) {
    Status status = remote_->Connect(deadline);
    if (status.code() != LLDD_FAILED && status.code() != LLDD_NOT_YET_LINK) return status;
    return Status(LLDD_LINK_FAILED, status.text(), status.raw());
}

// The acceptor's end has a HIXL connection of its own, made in the background; a transfer that
// comes sooner makes it.
Status AscendConnection::Confirm() {
    if (passive_) return Status::Ok();
    remote_->ConnectSoon();
    return Status::Ok();
}

void AscendConnection::ServeStream(Fd) {
    LLDD_LOG(LLDD_LOG_WARNING, "the peer opened a data stream, which this runtime does not use");
}

std::vector<PathDescription> AscendConnection::Paths() const {
    const std::string reason = "one-sided transfers of HIXL engine " + remote_->engine();
    return {{LLDD_MEMORY_ALLOCATED, "hixl", reason}, {LLDD_MEMORY_REGISTERED, "hixl", reason}};
}

// ---- transfers ----

Status AscendConnection::Read(const Run *runs, size_t count, const Deadline &deadline) {
    return Transfer(hixl::READ, runs, count, deadline);
}

Status AscendConnection::Write(const Run *runs, size_t count, const Deadline &deadline) {
    return Transfer(hixl::WRITE, runs, count, deadline);
}

Status AscendConnection::Transfer(hixl::TransferOp operation, const Run *runs, size_t count,
                                  const Deadline &deadline) {
    moved_ = {};
    LLDD_RETURN_IF_ERROR(Plan(runs, count));
    for (size_t i = 0; i < num_pieces_; ++i) {
        const Piece &piece = pieces_[i];
        Status may_move;
        Status status = remote_->Transfer(
            operation, piece.descs, piece.newest, [&] { return may_move = MayMove(piece); },
            deadline);
        LLDD_RETURN_IF_ERROR(may_move);
        if (!status.ok()) return Explain(std::move(status), deadline);
        moved_[static_cast<size_t>(Path::kHixl)] += piece.bytes;
    }
    return Status::Ok();
}

// Everything is looked up before anything is moved: HIXL must not see an address that it does not
// know, which it would take for host memory (on this side) or which would cost the connection.
Status AscendConnection::Plan(const Run *runs, size_t count) {
    const std::shared_ptr<const Regions> known = device_->memory->Known();
    num_pieces_ = 0;
    MutexLock lock(mutex_);
    LLDD_RETURN_IF_ERROR(CheckLinkLocked());
    return ForEachPiece(runs, count, [&](const Run &rest, uint64_t *taken) -> Status {
        const Region *own = Find(*known, rest.local);
        if (own == nullptr) {
            return Failure(LLDD_FAILED, "the memory of this process at %#llx is not registered",
                           Printable(rest.local));
        }
        mutex_.AssertHeld();
        const Region *peers = Find(reachable_, rest.remote);
        if (peers == nullptr) return UnreachableLocked(rest.remote);
        *taken = peers->Within(rest.remote, own->Within(rest.local, rest.length));
        AddToPlan(rest.local, rest.remote, *taken, own->id, peers->id);
        return Status::Ok();
    });
}

void AscendConnection::AddToPlan(uint64_t local, uint64_t remote, uint64_t length, uint64_t newest,
                                 uint64_t region) {
    while (length > 0) {
        const bool full = num_pieces_ == 0 || pieces_[num_pieces_ - 1].bytes >= kMostBytesACall ||
                          pieces_[num_pieces_ - 1].descs->size() >= kMostDescsACall;
        if (full) {
            if (num_pieces_ == pieces_.size()) pieces_.emplace_back();
            std::shared_ptr<TransferOps> &descs = pieces_[num_pieces_].descs;
            if (descs == nullptr || descs.use_count() > 1) descs = std::make_shared<TransferOps>();
            descs->clear();
            pieces_[num_pieces_].bytes = 0;
            pieces_[num_pieces_].newest = 0;
            pieces_[num_pieces_].regions.clear();
            ++num_pieces_;
        }
        Piece &piece = pieces_[num_pieces_ - 1];
        const uint64_t part = std::min(length, kMostBytesACall - piece.bytes);
        hixl::TransferOpDesc desc{};
        desc.local_addr = static_cast<uintptr_t>(local);
        desc.remote_addr = static_cast<uintptr_t>(remote);
        desc.len = static_cast<size_t>(part);
        piece.descs->push_back(desc);
        piece.bytes += part;
        piece.newest = std::max(piece.newest, newest);
        if (piece.regions.empty() || piece.regions.back() != region)
            piece.regions.push_back(region);
        local += part;
        remote += part;
        length -= part;
    }
}

Status AscendConnection::CheckLinkLocked() const {
    if (peer_gone_.load() || left_by_peer_) return PeerIsGone();
    return Status::Ok();
}

Status AscendConnection::UnreachableLocked(uint64_t remote) const {
    const bool withdrawn =
        std::any_of(withdrawn_.begin(), withdrawn_.end(),
                    [remote](const Region &region) { return region.Contains(remote, 1); });
    return withdrawn ? WithdrawnByOwner("the peer", remote) : UnknownToLink("the peer", remote);
}

// Asked when nothing but HIXL's call is left to do. The peer waits for the connection to be
// dropped, so whatever it has withdrawn or said by now holds.
Status AscendConnection::MayMove(const Piece &piece) {
    MutexLock lock(mutex_);
    LLDD_RETURN_IF_ERROR(CheckLinkLocked());
    for (const Region &region : withdrawn_) {
        const auto &used = piece.regions;
        if (std::find(used.begin(), used.end(), region.id) != used.end())
            return UnreachableLocked(region.addr);
    }
    return Status::Ok();
}

// HIXL cannot tell a peer that is gone from a transfer that failed.
Status AscendConnection::Explain(Status failed, const Deadline &deadline) const {
    bool gone = peer_gone_.load();
    if (!gone && failed.code() != LLDD_PARAM_INVALID && !deadline.passed()) {
        const Status there = streams_->Ask(Encode(Message::kAreYouThere), deadline);
        gone = !there.ok() && there.code() != LLDD_TIMEOUT;
    }
    if (!gone) return failed;
    return Status(LLDD_TIMEOUT, PeerIsGone().text() + "; " + failed.text(), failed.raw());
}

// ---- memory that is withdrawn ----

// What is answered when a transfer that is under way is over also holds for all later ones.
void AscendConnection::OnMessage(std::string_view message, std::function<void()> answer) {
    voice_->Heard();
    Reader reader(message);
    const auto kind = static_cast<Message>(reader.Number<uint8_t>());
    const auto number = reader.Number<uint64_t>();
    switch (kind) {
        case Message::kForget: {
            MutexLock lock(mutex_);
            Region region;
            if (Remove(number, &reachable_, &region)) withdrawn_.push_back(region);
            remote_->AfterTransfer(std::move(answer));
            return;
        }
        case Message::kDisconnect: {
            MutexLock lock(mutex_);
            if (!left_remote_) {
                ++holds_;
                remote_->Hold();
            }
            remote_->DropSoon(std::move(answer));
            return;
        }
        case Message::kLeave: {
            MutexLock lock(mutex_);
            left_by_peer_ = true;
            remote_->DropSoon(std::move(answer));
            return;
        }
        case Message::kGoOn: GoOn(); break;
        case Message::kAreYouThere: break;
    }
    answer();
}

void AscendConnection::GoOn() {
    MutexLock lock(mutex_);
    if (holds_ == 0) return;
    --holds_;
    remote_->GoOn();
}

Status AscendConnection::AskPeer(const std::string &message, const Deadline &deadline) const {
    if (peer_gone_.load() || peer_passive_) return Status::Ok();
    Status asked = streams_->Ask(message, deadline);
    if (asked.ok()) voice_->Heard();
    // Any other failure is that of a closed connection, which the peer also sees, so it begins
    // nothing.
    if (asked.code() != LLDD_TIMEOUT) return Status::Ok();
    return std::move(asked).WithPrefix(peer_name_ + ": ");
}

Status AscendConnection::Forget(uint64_t region, const Deadline &deadline) {
    return AskPeer(Encode(Message::kForget, region), deadline);
}

Status AscendConnection::StayAway(const Deadline &deadline) {
    return AskPeer(Encode(Message::kDisconnect), deadline);
}

void AscendConnection::ComeBack() {
    // Whether the peer receives it does not matter: a peer that is gone has no connection.
    (void)AskPeer(Encode(Message::kGoOn), Deadline::Passed());
}

// Its HIXL connection goes as that of this end does, for which HIXL may be called a moment longer.
void AscendConnection::Unlinked() {
    voice_->Part();
    {
        MutexLock lock(mutex_);
        confirmed_ = true;
        if (!left_remote_) return;
    }
    // The control connection was seen closed before the peer's answer was: what was left alone then
    // ends now.
    device_->withdrawals->gone().Remove(remote_->engine());
    device_->engine->Release(remote_, voice_, Deadline::Passed());
}

// The link stays until the client unlinks, but it uses the HIXL connection no more, which is left as
// it is: nothing tells whether the peer's process is there, and HIXL, up to 9.1 at least, closes a
// descriptor that is not its own when it disconnects from one that has ended.
void AscendConnection::PeerGone() {
    peer_gone_.store(true);
    voice_->Gone();
    LeaveRemote(Deadline::Passed());
}

void AscendConnection::ForgetPeer() {
    MutexLock lock(mutex_);
    reachable_ = Regions();
    std::vector<Region>().swap(withdrawn_);
}

// Does nothing when it is called again.
void AscendConnection::LeaveRemote(const Deadline &deadline) {
    {
        MutexLock lock(mutex_);
        if (std::exchange(left_remote_, true)) return;
        while (holds_ > 0) {
            --holds_;
            remote_->GoOn();
        }
        // Its HIXL connection to this end may be there for a while yet.
        if (!confirmed_ && !left_by_peer_ && !peer_passive_)
            device_->withdrawals->gone().Add(remote_->engine(), peer_name_, peer_process_);
    }
    device_->engine->Release(remote_, voice_, deadline);
}

Status AscendConnection::Close(const Deadline &deadline) {
    bool ask = false;
    {
        MutexLock lock(mutex_);
        if (std::exchange(closed_, true)) return Status::Ok();
        ask = !left_by_peer_;
    }
    // Without time no thread waits: the link ends because the peer's end has. A peer that does not
    // answer may be anywhere, which HIXL does not report; HIXL refuses to deregister memory that it
    // still knows (OwnMemory::Deregister), and pools are freed when HIXL has ended.
    if (ask && !deadline.passed()) {
        const Deadline goodbye = deadline.OrAt(Deadline::InMs(kGoodbyeMs).when());
        const Status left = AskPeer(Encode(Message::kLeave), goodbye);
        if (left.ok()) {
            MutexLock lock(mutex_);
            confirmed_ = confirmed_ || !peer_gone_.load();
        } else {
            LLDD_LOG(LLDD_LOG_WARNING, "the peer was told that the link ends: %s",
                     left.text().c_str());
            // HIXL is not asked to disconnect from it.
            voice_->Gone();
        }
    }
    LeaveRemote(deadline);
    return Status::Ok();
}

}  // namespace lldd::ascend
