// The control connection of one link after its handshake: requests and answers in both directions.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/deadline.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/mutex.h"
#include "base/status.h"
#include "engine/wire.h"
#include "runtime/texts.h"

namespace lldd {

// Collects the bytes of a connection into frames. Memory grows with what has arrived, not with what
// a header announces.
class FrameParser {
public:
    explicit FrameParser(uint32_t max_body) : max_body_(max_body) {}

    void set_max_body(uint32_t max_body) { max_body_ = max_body; }

    void Append(const char *data, size_t size) { bytes_.append(data, size); }
    // True and a frame, whose body lives until the next call; false if more bytes are needed, or
    // broken() is true.
    bool Next(wire::FrameHeader *header, std::string_view *body);
    bool broken() const { return broken_; }
    // The memory of a frame that has not arrived whole.
    size_t held() const { return bytes_.size() == taken_ ? 0 : bytes_.capacity(); }

private:
    uint32_t max_body_;
    std::string bytes_;
    size_t taken_ = 0;  // of bytes_, by frames handed out
    bool broken_ = false;
};

// What one connection may take of the I/O thread, which all engines of the process share, and of
// memory. Within one turn so many requests are served:
constexpr size_t kMostRequestsPerTurn = 16;
// While more bytes than this wait to be read by the peer, its requests wait:
constexpr size_t kMostUnsentBytes = 1U << 20;
// With more than this waiting, the connection is closed. No engine has so many under way.
constexpr size_t kMostWaitingRequests = 1024;
constexpr size_t kMostWaitingBytes = 16U << 20;

class ControlChannel {
public:
    // Both run on the I/O thread. After on_closed neither is called again.
    using RequestHandler =
        std::function<void(uint16_t kind, uint32_t request_id, std::string_view body)>;
    using ClosedHandler = std::function<void()>;

    ControlChannel(EventLoop *loop, Fd socket)
        : loop_(loop), socket_(std::move(socket)), parser_(wire::kMaxBody) {}
    ~ControlChannel() { Close(); }
    ControlChannel(const ControlChannel &) = delete;
    ControlChannel &operator=(const ControlChannel &) = delete;

    // Begins to listen. The owner of this channel is kept alive while a handler runs; a handler
    // does not run without it.
    void Start(std::weak_ptr<void> owner, RequestHandler on_request, ClosedHandler on_closed);
    // How large a frame the peer may send. On the I/O thread.
    void SetMaxBody(uint32_t max_body);

    // Gets what a frame that has not arrived whole takes, whenever bytes come; null: nobody does. On
    // the I/O thread, where it runs and may close this channel.
    void SetHeldHandler(std::function<void(size_t bytes)> on_held);

    // Sends a request and waits for its answer. LLDD_TIMEOUT; LLDD_FAILED with kConnectionClosed.
    // Not on the I/O thread.
    Status Call(wire::Kind kind, std::string_view body, const Deadline &deadline,
                std::string *answer);
    // Sends a request for whose answer no call waits. Any thread; never blocks.
    void Tell(wire::Kind kind, std::string_view body);
    // The same, unless something waits that the peer has not taken yet: a peer that is stopped takes
    // nothing, and must not fill this process. False: it was not sent.
    bool TellIfNothingWaits(wire::Kind kind, std::string_view body);
    // Any thread; never blocks.
    void Answer(uint16_t kind, uint32_t request_id, std::string_view body);

    // All waiting calls look at their deadlines. Any thread; never blocks.
    void WakeCalls();
    // ---- Whether the peer says anything. On the I/O thread.

    // Whether anything has come since the last call.
    bool TakeHeard();
    // Called once, when the next bytes come.
    void OnceHeard(std::function<void()> heard);
    // A peer that was stopped takes nothing when its buffers are full, and its kernel says so: that
    // must not end the connection as the silence of a host does, see WatchPeerHost. To be called
    // more often than `timeout_ms`.
    void SparePeerThatIsFull(uint32_t timeout_ms);

    // Closes as soon as everything queued has left. On the I/O thread.
    void CloseAfterFlush();
    // Ends the connection for both ends, whose I/O threads see it closed. Any thread; never blocks.
    void Break();
    // Neither reads nor sends anything until told otherwise: what is to be sent waits. Only an end
    // that the connection has come to both ways is noticed. Any thread; never blocks.
    void Mute(bool mute);
    // Closes now: waiting calls fail, no handler runs afterwards (except the one that calls this).
    // on_closed is not called. False if it was closed before.
    bool Close();

    bool closed() const;
    // Why a connection that was lost broke: an errno; 0: the peer closed it.
    int lost_error() const;
    // Whether nothing that the peer has sent lies unread, not even the end of the connection. Any
    // thread; never blocks.
    bool Quiet() const;

private:
    struct Waiting {
        std::string *answer;
        bool done = false;  // guarded by the channel's mutex_
    };

    class PendingCall;

    void OnEvents(uint32_t events) LLDD_REQUIRES(*loop_);
    void Send(uint16_t kind, uint32_t request_id, std::string_view body);
    bool FlushLocked() LLDD_REQUIRES(mutex_);  // false: the connection is broken
    void WatchLocked() LLDD_REQUIRES(mutex_);  // for what there is to do
    void Dispatch() LLDD_REQUIRES(*loop_);
    // A request: served at once, or when its turn comes. False: too many wait.
    bool Take(const wire::FrameHeader &header, std::string_view body) LLDD_REQUIRES(*loop_);
    // Serves requests that wait, as many as one turn may.
    void ServeWaiting() LLDD_REQUIRES(*loop_);
    bool MayServe() LLDD_REQUIRES(*loop_);
    bool Served() LLDD_REQUIRES(*loop_);
    void PostTurn() LLDD_REQUIRES(*loop_);
    void Guarded(const std::function<void()> &body) LLDD_REQUIRES(*loop_);
    void Lost() LLDD_REQUIRES(*loop_);
    void NoteError(int error);
    uint32_t NextIdLocked() LLDD_REQUIRES(mutex_);

    EventLoop *const loop_;
    Fd socket_;
    EventLoop::Token token_ = 0;
    RequestHandler on_request_;
    ClosedHandler on_closed_;
    FrameParser parser_ LLDD_GUARDED_BY(*loop_);
    std::function<void(size_t bytes)> on_held_ LLDD_GUARDED_BY(*loop_);
    std::weak_ptr<void> owner_;

    // A request that waits because this connection had its turn, or because the peer does not read
    // its answers.
    struct Request {
        uint16_t kind;
        uint32_t id;
        std::string body;
    };
    std::deque<Request> requests_ LLDD_GUARDED_BY(*loop_);
    size_t request_bytes_ LLDD_GUARDED_BY(*loop_) = 0;  // of the bodies in requests_
    size_t served_ LLDD_GUARDED_BY(*loop_) = 0;         // in this turn
    bool turn_posted_ LLDD_GUARDED_BY(*loop_) = false;
    bool heard_ LLDD_GUARDED_BY(*loop_) = false;  // since TakeHeard
    std::function<void()> once_heard_ LLDD_GUARDED_BY(*loop_);
    bool spared_ LLDD_GUARDED_BY(*loop_) = false;
    std::atomic<bool> requests_wait_{false};  // requests_ is not empty

    mutable Mutex mutex_;
    std::condition_variable answered_;
    std::unordered_map<uint32_t, Waiting *> waiting_ LLDD_GUARDED_BY(mutex_);
    std::string outgoing_ LLDD_GUARDED_BY(mutex_);
    size_t sent_ LLDD_GUARDED_BY(mutex_) = 0;  // of outgoing_
    uint32_t next_request_id_ LLDD_GUARDED_BY(mutex_) = 0;
    bool closed_ LLDD_GUARDED_BY(mutex_) = false;
    int lost_error_ LLDD_GUARDED_BY(mutex_) = 0;
    bool close_after_flush_ LLDD_GUARDED_BY(mutex_) = false;
    bool mute_ LLDD_GUARDED_BY(mutex_) = false;
    bool broken_ LLDD_GUARDED_BY(mutex_) =
        false;  // shut down: nothing that comes over it is served
};

}  // namespace lldd
