// SPDX-License-Identifier: Apache-2.0
#include "engine/control_channel.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <exception>
#include <utility>

#include "base/io_thread.h"
#include "base/log.h"
#include "base/socket.h"

namespace lldd {

namespace {

constexpr size_t kReceiveBytes = 64 << 10;
// The memory of a buffer that had a large frame is freed: there are many links, and few large
// frames.
constexpr size_t kKeptBytes = 4 << 10;

void Empty(std::string *buffer) {
    buffer->clear();
    if (buffer->capacity() > kKeptBytes) buffer->shrink_to_fit();
}

// A connection is broken off when more answers than this wait for a peer that does not read them.
constexpr size_t kMaxOutgoing = size_t{4} * wire::kMaxBody;

}  // namespace

bool FrameParser::Next(wire::FrameHeader *header, std::string_view *body) {
    const std::string_view rest = std::string_view(bytes_).substr(taken_);
    if (broken_) return false;
    if (rest.size() >= wire::FrameHeader::kSize) {
        *header = wire::FrameHeader::Decode(rest);
        if (header->body_size > max_body_ || header->reserved != 0) {
            broken_ = true;
            return false;
        }
        const size_t size = wire::FrameHeader::kSize + header->body_size;
        if (rest.size() >= size) {
            *body = rest.substr(wire::FrameHeader::kSize, header->body_size);
            taken_ += size;
            return true;
        }
    }
    // The frames handed out are not needed any more.
    if (rest.empty()) {
        Empty(&bytes_);
    } else {
        bytes_.erase(0, taken_);
    }
    taken_ = 0;
    return false;
}

void ControlChannel::Start(std::weak_ptr<void> owner, RequestHandler on_request,
                           ClosedHandler on_closed) {
    on_request_ = std::move(on_request);
    on_closed_ = std::move(on_closed);
    // The handler must not run before token_ is known.
    MutexLock lock(mutex_);
    owner_ = owner;
    token_ = loop_->Watch(socket_.get(), mute_ ? 0U : EPOLLIN,
                          [this, owner = std::move(owner)](uint32_t events) {
                              const std::shared_ptr<void> alive = owner.lock();
                              LLDD_ON_IO_THREAD(*loop_);
                              if (alive != nullptr) {
                                  Guarded([&] {
                                      LLDD_ON_IO_THREAD(*loop_);
                                      OnEvents(events);
                                  });
                              }
                          });
}

void ControlChannel::SetHeldHandler(std::function<void(size_t bytes)> on_held) {
    LLDD_ON_IO_THREAD(*loop_);
    on_held_ = std::move(on_held);
}

void ControlChannel::SetMaxBody(uint32_t max_body) {
    LLDD_ON_IO_THREAD(*loop_);
    parser_.set_max_body(max_body);
}

// One call that waits for its answer.
class ControlChannel::PendingCall {
public:
    PendingCall(ControlChannel *channel, std::string *answer)
        : channel_(channel), waiting_{answer} {
        MutexLock lock(channel_->mutex_);
        if (channel_->closed_) return;
        id_ = channel_->NextIdLocked();
        channel_->waiting_.emplace(id_, &waiting_);
    }
    ~PendingCall() {
        MutexLock lock(channel_->mutex_);
        channel_->waiting_.erase(id_);
    }
    PendingCall(const PendingCall &) = delete;
    PendingCall &operator=(const PendingCall &) = delete;

    // 0: the channel is closed.
    uint32_t id() const { return id_; }
    Status Wait(const Deadline &deadline) {
        UniqueLock lock(channel_->mutex_);
        WaitUntil(
            channel_->answered_, lock.native(), deadline,
            [&]() LLDD_REQUIRES(channel_->mutex_) { return waiting_.done || channel_->closed_; });
        if (waiting_.done) return Status::Ok();
        if (channel_->closed_) return Failure(LLDD_FAILED, "%s", kConnectionClosed);
        return Failure(LLDD_TIMEOUT, "no answer in time");
    }

private:
    ControlChannel *const channel_;
    Waiting waiting_;
    uint32_t id_ = 0;
};

Status ControlChannel::Call(wire::Kind kind, std::string_view body, const Deadline &deadline,
                            std::string *answer) {
    LLDD_OFF_IO_THREAD(*loop_);
    PendingCall call(this, answer);
    if (call.id() == 0) return Failure(LLDD_FAILED, "%s", kConnectionClosed);
    Send(kind, call.id(), body);
    return call.Wait(deadline);
}

// Never 0.
uint32_t ControlChannel::NextIdLocked() {
    if (++next_request_id_ == 0) ++next_request_id_;
    return next_request_id_;
}

void ControlChannel::Tell(wire::Kind kind, std::string_view body) {
    uint32_t request_id;
    {
        MutexLock lock(mutex_);
        request_id = NextIdLocked();
    }
    Send(kind, request_id, body);
}

bool ControlChannel::TellIfNothingWaits(wire::Kind kind, std::string_view body) {
    {
        MutexLock lock(mutex_);
        if (outgoing_.size() != sent_) return false;
    }
    Tell(kind, body);
    return true;
}

void ControlChannel::Answer(uint16_t kind, uint32_t request_id, std::string_view body) {
    Send(static_cast<uint16_t>(kind | wire::kAnswer), request_id, body);
}

void ControlChannel::Send(uint16_t kind, uint32_t request_id, std::string_view body) {
    wire::FrameHeader header;
    header.body_size = static_cast<uint32_t>(body.size());
    header.kind = kind;
    header.request_id = request_id;
    const auto head = header.Encode();
    MutexLock lock(mutex_);
    if (closed_) return;
    outgoing_.append(head.data(), head.size());
    outgoing_.append(body);
    if (!mute_ && FlushLocked() && !outgoing_.empty()) WatchLocked();
}

void ControlChannel::WatchLocked() {
    const uint32_t waiting = outgoing_.empty() ? 0U : EPOLLOUT;
    loop_->Change(token_, mute_ ? 0U : EPOLLIN | waiting);
}

void ControlChannel::Mute(bool mute) {
    MutexLock lock(mutex_);
    if (closed_) return;
    mute_ = mute;
    if (token_ == 0 || (!mute && !FlushLocked())) return;
    WatchLocked();
}

bool ControlChannel::FlushLocked() {
    while (sent_ < outgoing_.size()) {
        const ssize_t sent = send(socket_.get(), outgoing_.data() + sent_, outgoing_.size() - sent_,
                                  MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0) {
            sent_ += static_cast<size_t>(sent);
        } else if (errno == EAGAIN && outgoing_.size() - sent_ <= kMaxOutgoing) {
            // What is gone is moved out of the way when it is half of all: not a large rest each
            // time.
            if (sent_ >= outgoing_.size() / 2) outgoing_.erase(0, std::exchange(sent_, 0));
            return true;
        } else if (errno != EINTR) {
            lost_error_ = errno;
            // The I/O thread sees the end of the connection, and fails the calls that wait.
            shutdown(socket_.get(), SHUT_RDWR);
            broken_ = true;
            Empty(&outgoing_);
            sent_ = 0;
            return false;
        }
    }
    Empty(&outgoing_);
    sent_ = 0;
    return true;
}

void ControlChannel::OnEvents(uint32_t events) {
    {
        MutexLock lock(mutex_);
        if (closed_ || (mute_ && (events & (EPOLLHUP | EPOLLERR)) == 0)) return;
    }
    if ((events & EPOLLOUT) != 0) {
        UniqueLock lock(mutex_);
        const bool usable = FlushLocked();
        if (usable && outgoing_.empty()) WatchLocked();
        const bool finished = close_after_flush_ && outgoing_.empty();
        lock.Unlock();
        if (!usable || finished) {
            Lost();
            return;
        }
        if (!requests_.empty()) ServeWaiting();
        if (closed()) return;
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
    char buffer[kReceiveBytes];
    const ssize_t received = recv(socket_.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (received < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (received <= 0) {
        if (received < 0) NoteError(errno);
        Lost();
        return;
    }
    heard_ = true;
    if (once_heard_) std::exchange(once_heard_, nullptr)();
    parser_.Append(buffer, static_cast<size_t>(received));
    served_ = 0;
    Dispatch();
    if (on_held_ && !closed()) {
        // It may be replaced meanwhile.
        const std::function<void(size_t)> on_held = on_held_;
        on_held(parser_.held());
    }
}

// What is thrown while this connection is served ends it, and nothing else.
void ControlChannel::Guarded(const std::function<void()> &body) {
    try {
        body();
    } catch (const std::exception &error) {
        Log(LLDD_LOG_ERROR, "a control connection is closed: %s", error.what());
        requests_.clear();
        Lost();
    }
}

// Whether requests that came over it are still to be served.
bool ControlChannel::Served() {
    MutexLock lock(mutex_);
    return !closed_ && !broken_ && !close_after_flush_;
}

bool ControlChannel::MayServe() {
    MutexLock lock(mutex_);
    return served_ < kMostRequestsPerTurn && outgoing_.size() - sent_ <= kMostUnsentBytes;
}

bool ControlChannel::Take(const wire::FrameHeader &header, std::string_view body) {
    if (requests_.empty() && MayServe()) {
        ++served_;
        on_request_(header.kind, header.request_id, body);
        return true;
    }
    if (requests_.size() == kMostWaitingRequests ||
        body.size() > kMostWaitingBytes - request_bytes_) {
        LLDD_LOG(LLDD_LOG_WARNING,
                 "a peer has more than %zu requests or %zu bytes of them under way; its "
                 "connection is closed",
                 kMostWaitingRequests, kMostWaitingBytes);
        return false;
    }
    requests_.push_back({header.kind, header.request_id, std::string(body)});
    request_bytes_ += body.size();
    requests_wait_.store(true);
    PostTurn();
    return true;
}

// After what other connections have to say by then.
void ControlChannel::PostTurn() {
    if (turn_posted_) return;
    turn_posted_ = true;
    loop_->Post([this, owner = owner_] {
        const std::shared_ptr<void> alive = owner.lock();
        if (alive == nullptr) return;
        LLDD_ON_IO_THREAD(*loop_);
        turn_posted_ = false;
        served_ = 0;
        Guarded([&] {
            LLDD_ON_IO_THREAD(*loop_);
            ServeWaiting();
        });
    });
}

void ControlChannel::ServeWaiting() {
    while (!requests_.empty() && MayServe()) {
        if (!Served()) return;
        const Request next = std::move(requests_.front());
        requests_.pop_front();
        request_bytes_ -= next.body.size();
        requests_wait_.store(!requests_.empty());
        ++served_;
        on_request_(next.kind, next.id, next.body);
        if (closed()) return;
    }
    // Otherwise the peer has to read first: see OnEvents.
    if (!requests_.empty() && served_ == kMostRequestsPerTurn) PostTurn();
}

void ControlChannel::Dispatch() {
    wire::FrameHeader header;
    std::string_view body;
    while (parser_.Next(&header, &body)) {
        if ((header.kind & wire::kAnswer) != 0) {
            MutexLock lock(mutex_);
            const auto found = waiting_.find(header.request_id);
            // No call waits for an answer that came after its deadline.
            if (found != waiting_.end()) {
                found->second->answer->assign(body);
                found->second->done = true;
                answered_.notify_all();
            }
            continue;
        }
        if (!Served()) return;
        if (!Take(header, body)) {
            Lost();
            return;
        }
        if (closed()) return;
    }
    if (parser_.broken()) {
        LLDD_LOG(LLDD_LOG_WARNING, "a peer broke the control protocol; its connection is closed");
        Lost();
    }
}

void ControlChannel::Lost() {
    if (!Close()) return;
    const ClosedHandler on_closed = on_closed_;
    on_closed();
}

void ControlChannel::CloseAfterFlush() {
    LLDD_ON_IO_THREAD(*loop_);
    {
        MutexLock lock(mutex_);
        if (closed_) return;
        close_after_flush_ = true;
        if (!outgoing_.empty()) return;
    }
    Lost();
}

void ControlChannel::Break() {
    MutexLock lock(mutex_);
    if (closed_) return;
    shutdown(socket_.get(), SHUT_RDWR);
    broken_ = true;
}

bool ControlChannel::TakeHeard() {
    LLDD_ON_IO_THREAD(*loop_);
    return std::exchange(heard_, false);
}

void ControlChannel::OnceHeard(std::function<void()> heard) {
    LLDD_ON_IO_THREAD(*loop_);
    once_heard_ = std::move(heard);
}

void ControlChannel::SparePeerThatIsFull(uint32_t timeout_ms) {
    LLDD_ON_IO_THREAD(*loop_);
    MutexLock lock(mutex_);
    if (closed_) return;
    const bool full = PeerIsFull(socket_.get());
    if (full != spared_) SetUserTimeout(socket_.get(), full ? 0 : timeout_ms);
    spared_ = full;
    if (!full || !HostFellSilent(socket_.get(), timeout_ms)) return;
    lost_error_ = ETIMEDOUT;
    shutdown(socket_.get(), SHUT_RDWR);
    broken_ = true;
}

void ControlChannel::WakeCalls() {
    MutexLock lock(mutex_);
    answered_.notify_all();
}

bool ControlChannel::Close() {
    {
        MutexLock lock(mutex_);
        if (closed_) return false;
        closed_ = true;
        answered_.notify_all();
    }
    if (token_ != 0) loop_->Remove(token_);
    socket_.Close();
    return true;
}

void ControlChannel::NoteError(int error) {
    MutexLock lock(mutex_);
    lost_error_ = error;
}

int ControlChannel::lost_error() const {
    MutexLock lock(mutex_);
    return lost_error_;
}

bool ControlChannel::closed() const {
    MutexLock lock(mutex_);
    return closed_;
}

bool ControlChannel::Quiet() const {
    if (requests_wait_.load()) return false;
    // With the lock the socket stays open.
    MutexLock lock(mutex_);
    if (closed_) return false;
    char byte;
    return recv(socket_.get(), &byte, sizeof byte, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

}  // namespace lldd
