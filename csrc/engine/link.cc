// SPDX-License-Identifier: Apache-2.0
#include "engine/link.h"

#include <poll.h>

#include <chrono>
#include <cstring>
#include <utility>

#include "base/hmac.h"
#include "base/io_thread.h"
#include "base/log.h"

namespace lldd {
namespace {

// Bounds of the messages between the runtimes, see StreamProvider::Ask.
constexpr size_t kMaxMessage = 4096;
constexpr size_t kMaxEarlyMessages = 1024;
// How often a thread that dials looks whether the peer is gone.
constexpr std::chrono::milliseconds kLookAtPeer{50};

uint32_t NumberOf(const LinkNonce &nonce) {
    const std::string_view bytes(reinterpret_cast<const char *>(nonce.data()), nonce.size());
    const Digest digest = HmacSha256(bytes, "lldd log");
    return uint32_t{digest[0]} << 24 | uint32_t{digest[1]} << 16 | uint32_t{digest[2]} << 8 |
           uint32_t{digest[3]};
}

}  // namespace

Link::Turn::~Turn() {
    if (link_ == nullptr) return;
    link_->turn_.Leave();
    link_->RunPendingShutdown();
    if (link_->peer_gone()) link_->ForgetPeer();
}

Link::Link(EventLoop *loop, Identity identity, Fd control, const Interruption *closing)
    : loop_(loop),
      identity_(std::move(identity)),
      channel_(loop, std::move(control)),
      interruption_(closing) {
    SetPeer(identity_.peer_cluster_id);
}

void Link::SetPeer(uint64_t cluster_id) {
    identity_.peer_cluster_id = cluster_id;
    peer_name_ = Format("cluster %llu (%s)", Printable(identity_.peer_cluster_id),
                        identity_.peer_address.ToString().c_str());
}

Link::~Link() {
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        if (dial_ != nullptr) dial_->Stop();
        dial_.reset();
    });
    channel_.Close();
    if (identity_.totals != nullptr) identity_.totals->Remove(&traffic_);
}

void Link::Established() {
    if (identity_.totals != nullptr) identity_.totals->Add(&traffic_);
    established_.store(true);
}

bool Link::FirstWarning(Warning warning, int64_t own_cache, int64_t peer_cache) {
    // The peer chooses its ids: what is remembered is bounded, and nothing is said past it.
    constexpr size_t kMaxWarned = 1024;
    return warned_.size() < kMaxWarned && warned_.emplace(warning, own_cache, peer_cache).second;
}

Status Link::CheckUsable() const {
    if (unlinked()) {
        return Failure(LLDD_NOT_YET_LINK, "the link to %s was taken down meanwhile",
                       peer_name_.c_str());
    }
    if (!peer_gone()) return Status::Ok();
    MutexLock lock(stream_mutex_);
    return Failure(LLDD_TIMEOUT, "%s%s", kConnectionClosed, gone_reason_.c_str());
}

void Link::NoteReason(const std::string &reason) {
    MutexLock lock(stream_mutex_);
    gone_reason_ = reason;
}

Status Link::Table(const Deadline &deadline, bool with_dims, const PeerTable **table,
                   bool *was_read) {
    *was_read = false;
    // As long as the peer never had a cache there is nothing to keep.
    if (!table_.has_value()) {
        std::string answer;
        const Status status = channel_.Call(wire::kTable, {}, deadline, &answer);
        if (!status.ok())
            return Failure(LLDD_TIMEOUT, "cache table of the peer: %s", status.text().c_str());
        if (answer.empty()) {
            return Failure(
                LLDD_FAILED,
                "the peer has more caches and keys than a cache table can have: it would "
                "be larger than %u MiB",
                wire::kMaxBody >> 20);
        }
        PeerTable read;
        bool written = false;
        if (!PeerTable::Decode(answer, with_dims, &read, &written)) {
            return Failure(LLDD_FAILED, "the peer sent a cache table that cannot be read");
        }
        *was_read = true;
        if (!written) {
            static const PeerTable kEmpty;
            *table = &kEmpty;
            return Status::Ok();
        }
        table_ = std::move(read);
    }
    *table = &*table_;
    return Status::Ok();
}

void Link::SetConnection(std::unique_ptr<Connection> connection) {
    owned_connection_ = std::move(connection);
    number_ = NumberOf(identity_.nonce);
    std::vector<std::pair<uint32_t, std::string>> early;
    {
        MutexLock lock(stream_mutex_);
        connection_.store(owned_connection_.get());
        early.swap(early_messages_);
    }
    for (auto &message : early) {
        loop_->Post([weak = weak_from_this(), message = std::move(message)] {
            if (const std::shared_ptr<Link> link = weak.lock())
                link->OnMessage(message.first, message.second);
        });
    }
    // Either this end sees that the peer has gone meanwhile, or PeerGone sees the connection.
    if (peer_gone()) owned_connection_->PeerGone();
}

void Link::PeerGone() {
    peer_gone_.store(true);
    if (Connection *const connected = connection()) connected->PeerGone();
    {
        MutexLock lock(stream_mutex_);
        stream_delivered_.notify_all();
    }
    ForgetPeer();
}

// A thread that has the turn comes here after giving it back.
void Link::ForgetPeer() {
    // A link that is being made is still used by the thread that makes it, and goes as a whole.
    if (!requests_allowed()) return;
    if (!turn_.TryEnter()) return;
    table_.reset();
    if (Connection *const connected = connection()) connected->ForgetPeer();
    turn_.Leave();
    RunPendingShutdown();
}

bool Link::Beat(std::function<void(const Link &)> speaks_again) {
    LLDD_ON_IO_THREAD(*loop_);
    if (!established_.load() || peer_gone() || unlinked()) return false;
    channel_.SparePeerThatIsFull(identity_.peer_timeout_ms);
    if (channel_.TakeHeard()) {
        beats_missed_ = 0;
        return false;
    }
    // Asked once: what was sent is not lost while the connection lives.
    if (beats_missed_++ == 0) channel_.Tell(wire::kHeartbeat, {});
    if (beats_missed_ != kBeatsUntilSilent + 1) return false;
    silent_.store(true);
    channel_.OnceHeard([weak = weak_from_this(), told = std::move(speaks_again)] {
        const std::shared_ptr<Link> link = weak.lock();
        if (link == nullptr) return;
        LLDD_ON_IO_THREAD(*link->loop_);
        link->silent_.store(false);
        told(*link);
    });
    return true;
}

void Link::Interrupt(InterruptCause cause) {
    interruption_.Raise(cause);
    turn_.WakeAll();
    channel_.WakeCalls();
    MutexLock lock(stream_mutex_);
    stream_delivered_.notify_all();
}

Status Link::Shutdown(const Deadline &deadline) {
    if (kChecksThreads && !deadline.passed()) LLDD_OFF_IO_THREAD(*loop_);
    if (shut_down_) return Status::Ok();
    shut_down_ = true;
    Connection *const connected = connection();
    return connected == nullptr ? Status::Ok() : connected->Close(deadline);
}

void Link::ShutdownWhenIdle(std::function<void()> then) {
    {
        MutexLock lock(stream_mutex_);
        after_shutdown_ = std::move(then);
    }
    shutdown_wanted_.store(true);
    RunPendingShutdown();
}

void Link::RunPendingShutdown() {
    // The thread that has the turn comes here after giving it back.
    while (shutdown_wanted_.load() && turn_.TryEnter()) {
        const bool wanted = shutdown_wanted_.exchange(false);
        if (wanted) ShutdownInTurn();
        turn_.Leave();
        if (wanted) TellShutdown();
    }
}

void Link::ShutdownInTurn() {
    const Status status = Shutdown(Deadline::Passed());
    if (!status.ok()) {
        LLDD_LOG(LLDD_LOG_WARNING, "link to %s dropped: %s", peer_name_.c_str(),
                 status.text().c_str());
    }
}

void Link::TellShutdown() {
    std::function<void()> then;
    {
        MutexLock lock(stream_mutex_);
        then = std::move(after_shutdown_);
        after_shutdown_ = nullptr;
    }
    if (then) loop_->Post([self = shared_from_this(), then = std::move(then)] { then(); });
}

wire::Hello Link::StreamHello(wire::Purpose purpose) const {
    wire::Hello hello;
    hello.purpose = purpose;
    hello.nonce = identity_.nonce;
    if (identity_.has_secret) {
        hello.auth = wire::Auth::kHmacSha256;
        const LinkNonce fresh = RandomNonce();
        std::memcpy(&hello.id, fresh.data(), sizeof hello.id);
    }
    return hello;
}

// A host that is gone answers nothing until the deadline; that it is gone is known before.
Status Link::ConnectWhilePeerLives(const Deadline &deadline, Fd *stream) {
    Fd socket;
    LLDD_RETURN_IF_ERROR(StartConnect(identity_.peer_address, identity_.from, &socket));
    for (;;) {
        const Deadline look = deadline.OrAt(Deadline::Clock::now() + kLookAtPeer);
        if (WaitFor(socket.get(), POLLOUT, look).ok()) break;
        if (peer_gone()) return Failure(LLDD_FAILED, "%s", kConnectionClosed);
        if (deadline.passed()) return Failure(LLDD_TIMEOUT, "no data stream in time");
    }
    LLDD_RETURN_IF_ERROR(ConnectResult(socket.get(), identity_.peer_address));
    WatchPeerHost(socket.get(), identity_.peer_timeout_ms);
    *stream = std::move(socket);
    return Status::Ok();
}

Status Link::OpenStream(const Deadline &deadline, Fd *stream) {
    LLDD_OFF_IO_THREAD(*loop_);
    if (identity_.end == LinkEnd::kInitiator) {
        LLDD_RETURN_IF_ERROR(ConnectWhilePeerLives(deadline, stream));
        const wire::Hello hello = StreamHello(wire::Purpose::kStreamInitiatorAsks);
        if (identity_.has_secret) {
            wire::Hello peer;
            LinkKey key;
            return Greet(stream->get(), hello, AsBase(identity_.key), deadline, &peer, &key);
        }
        const auto bytes = hello.Encode();
        return SendAll(stream->get(), bytes.data(), bytes.size(), deadline);
    }
    UniqueLock lock(stream_mutex_);
    delivered_stream_.Close();
    stream_wanted_ = true;
    lock.Unlock();
    std::string answer;
    Status status = channel_.Call(wire::kDialStream, {}, deadline, &answer);
    if (status.ok()) {
        wire::StatusBody body;
        status = body.Decode(answer) ? body.ToStatus()
                                     : Failure(LLDD_FAILED, "the peer's answer cannot be read");
    }
    lock.Lock();
    if (status.ok()) {
        WaitUntil(stream_delivered_, lock.native(), deadline,
                  [&]() LLDD_REQUIRES(stream_mutex_) { return delivered_stream_ || peer_gone(); });
        if (!delivered_stream_) {
            status = peer_gone() ? Failure(LLDD_TIMEOUT, "%s", kConnectionClosed)
                                 : Failure(LLDD_TIMEOUT, "the peer opened no data stream in time");
        }
    }
    stream_wanted_ = false;
    if (status.ok()) *stream = std::move(delivered_stream_);
    return status;
}

Status Link::Ask(std::string_view message, const Deadline &deadline) {
    LLDD_OFF_IO_THREAD(*loop_);
    std::string answer;
    return channel_.Call(wire::kMessage, message, deadline, &answer);
}

bool Link::OnMessage(uint32_t request_id, std::string_view message) {
    LLDD_ON_IO_THREAD(*loop_);
    if (message.size() > kMaxMessage) return false;
    {
        MutexLock lock(stream_mutex_);
        if (connection() == nullptr) {
            early_messages_.emplace_back(request_id, message);
            return early_messages_.size() <= kMaxEarlyMessages;
        }
    }
    connection()->OnMessage(message, [weak = weak_from_this(), request_id] {
        if (const std::shared_ptr<Link> link = weak.lock())
            link->channel_.Answer(wire::kMessage, request_id, {});
    });
    return true;
}

void Link::DeliverStream(Fd stream) {
    LLDD_ON_IO_THREAD(*loop_);
    MutexLock lock(stream_mutex_);
    // A stream that comes after the deadline of the call that wanted it is closed here.
    if (!stream_wanted_) return;
    delivered_stream_ = std::move(stream);
    stream_delivered_.notify_all();
}

void Link::DialFor(uint32_t request_id) {
    LLDD_ON_IO_THREAD(*loop_);
    if (dial_ != nullptr) dial_->Stop();
    dial_ = std::make_shared<Greeter>(
        loop_, identity_.peer_address, identity_.from,
        StreamHello(wire::Purpose::kStreamAcceptorAsks), AsBase(identity_.key),
        identity_.has_secret,
        [weak = weak_from_this(), request_id](const Status &status, Fd stream) {
            const std::shared_ptr<Link> self = weak.lock();
            if (self == nullptr) return;
            LLDD_ON_IO_THREAD(*self->loop_);
            self->FinishDial(status, std::move(stream), request_id);
        });
    dial_->Start();
}

void Link::FinishDial(const Status &status, Fd stream, uint32_t request_id) {
    if (status.ok()) {
        WatchPeerHost(stream.get(), identity_.peer_timeout_ms);
        connection()->ServeStream(std::move(stream));
    }
    channel_.Answer(wire::kDialStream, request_id, wire::StatusBody::Of(status).Encode());
}

}  // namespace lldd
