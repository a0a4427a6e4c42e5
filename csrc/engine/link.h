// One end of a link: its control connection, the peer's memory, and whose turn it is.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "base/deadline.h"
#include "base/event_loop.h"
#include "base/mutex.h"
#include "base/socket.h"
#include "base/status.h"
#include "engine/control_channel.h"
#include "engine/greeting.h"
#include "engine/peer_table.h"
#include "engine/traffic.h"
#include "engine/turn_lock.h"
#include "runtime/runtime.h"

namespace lldd {

class Link final : public StreamProvider, public std::enable_shared_from_this<Link> {
public:
    struct Identity {
        uint64_t own_cluster_id = 0;
        uint64_t peer_cluster_id = 0;
        LinkEnd end = LinkEnd::kInitiator;
        SocketAddress peer_address;  // the initiator: where the acceptor listens
        SocketAddress from;          // the initiator: where its connections go out from, if given
        LinkNonce nonce{};
        LinkKey key{};
        bool has_secret = false;       // the key is one; streams must be proved
        uint32_t peer_features = 0;    // see wire::kOwnFeatures
        uint32_t peer_timeout_ms = 0;  // see WatchPeerHost
        std::string group;             // of a communicator: its name
        uint64_t comm_id = 0;          // and its id on this end
        // Where the link's traffic counts from when it is made; outlives the link. Null: nowhere.
        TrafficTotals *totals = nullptr;
    };

    // Holds the link for one transfer or for its end; others wait, each until its own deadline. For
    // clang the thread has the turn while it lives: whoever makes it looks whether it was given.
    class LLDD_SCOPED_CAPABILITY Turn {
    public:
        Turn(const std::shared_ptr<Link> &link, const Deadline &deadline) LLDD_ACQUIRE(link->turn_)
            : link_(link->turn_.Enter(deadline) ? link : nullptr) {}
        ~Turn() LLDD_RELEASE();
        Turn(const Turn &) = delete;
        Turn &operator=(const Turn &) = delete;
        // False: another thread has the link at the deadline.
        explicit operator bool() const { return link_ != nullptr; }

    private:
        const std::shared_ptr<Link> link_;
    };

    // `closing` is raised when the engine is closed, and outlives the link; null: it is not.
    Link(EventLoop *loop, Identity identity, Fd control, const Interruption *closing = nullptr);
    ~Link() override;

    const Identity &identity() const { return identity_; }
    ControlChannel &channel() { return channel_; }
    uint64_t peer() const { return identity_.peer_cluster_id; }
    // "cluster 7 (127.0.0.1:26000)".
    const std::string &peer_name() const { return peer_name_; }

    // Under which id this end knows the peer.
    void SetPeer(uint64_t cluster_id);
    // The acceptor learns these while the link is made.
    void SetNonce(const LinkNonce &nonce) { identity_.nonce = nonce; }
    void SetGroup(const std::string &group) { identity_.group = group; }
    void SetCommId(uint64_t comm_id) { identity_.comm_id = comm_id; }
    // By what logs and records call the link, the same at both ends; tells nothing of the nonce. 0 until
    // SetConnection.
    uint32_t number() const { return number_; }
    // Once, while the link is made.
    void SetConnection(std::unique_ptr<Connection> connection);
    // Null until then.
    Connection *connection() const { return connection_.load(); }

    // Whether the peer may ask for anything: not before this end knows who it is.
    void AllowRequests() { requests_allowed_.store(true); }
    bool requests_allowed() const { return requests_allowed_.load(); }

    // ---- For the thread that has the turn.

    // What a Turn gives, for the attributes of functions that need it.
    const TurnLock &turn() const LLDD_RETURN_CAPABILITY(turn_) { return turn_; }
    // Names the next request of this end for which the owner keeps something.
    uint64_t NextPin() LLDD_REQUIRES(turn_) { return ++last_pin_; }

    // LLDD_NOT_YET_LINK if the link was taken down while its turn was waited for, LLDD_TIMEOUT if
    // the peer is gone.
    Status CheckUsable() const LLDD_REQUIRES(turn_);
    // The peer's caches as they were at the first transfer over this link, which says whether their
    // dimensions are kept.
    Status Table(const Deadline &deadline, bool with_dims, const PeerTable **table, bool *was_read)
        LLDD_REQUIRES(turn_);

    // What the client has not been warned of yet, of these two caches. True once for each.
    enum class Warning { kTypes, kDims, kRepeatedBlocks };
    bool FirstWarning(Warning warning, int64_t own_cache, int64_t peer_cache) LLDD_REQUIRES(turn_);

    // ---- Ending it.

    // Ends transfers of this end that run or wait for their turn. Any thread; does not wait for
    // them.
    void Interrupt(InterruptCause cause);
    const Interruption &interruption() const { return interruption_; }

    // The connection broke or was closed by the peer. The link stays, its transfers fail.
    void PeerGone();
    bool peer_gone() const { return peer_gone_.load(); }
    // What the peer has said of it before, for texts: "; replaced by ...".
    void NoteReason(const std::string &reason);
    // From now on no thread gets a usable turn.
    void MarkUnlinked() { unlinked_.store(true, std::memory_order_release); }
    bool unlinked() const { return unlinked_.load(std::memory_order_acquire); }
    // ---- Whether the peer answers; see Heartbeats.

    // Without an answer for so many beats the link is silent.
    static constexpr unsigned kBeatsUntilSilent = 4;
    // Both ends have made the link: from now on the peer answers a heartbeat.
    void Established();
    bool established() const { return established_.load(); }
    // Asks a peer that has said nothing since the last call whether it is there. True: from now on
    // the link is silent, until the peer says something: then `speaks_again` is called. I/O thread.
    bool Beat(std::function<void(const Link &)> speaks_again);
    // Whether the peer is asked in vain. The link stays usable.
    bool silent() const { return silent_.load(); }

    // The peer wants to be told of each transfer of this end, see Events; how many it was not told of,
    // because it does not read.
    std::atomic<bool> events_wanted{false};
    std::atomic<uint64_t> events_lost{0};

    // An unlink that asks the peer is under way on this end; it has the turn.
    std::atomic<bool> unlink_under_way{false};

    // Takes everything down, after MarkUnlinked; not on the I/O thread if the deadline is not over.
    Status Shutdown(const Deadline &deadline) LLDD_REQUIRES(turn_);
    // The same from a thread that cannot wait for a running transfer (the I/O thread, or one whose
    // forced unlink is out of time): the thread that has the turn does it when it gives the turn
    // back. `then` runs on the I/O thread when it is done.
    void ShutdownWhenIdle(std::function<void()> then);

    // ---- Streams and messages of the runtime.

    Status OpenStream(const Deadline &deadline, Fd *stream) override;
    void Break() override { channel_.Break(); }
    void Mute(bool mute) override { channel_.Mute(mute); }
    Status Ask(std::string_view message, const Deadline &deadline) override;
    bool Quiet() override { return channel_.Quiet(); }
    // The peer's runtime asks, maybe before this end has a connection: then the message waits for
    // it. False: too long, or too many. I/O thread.
    bool OnMessage(uint32_t request_id, std::string_view message);
    // The acceptor's stream, which the initiator dialled. I/O thread.
    void DeliverStream(Fd stream);
    // The acceptor asks for a stream: dial it and hand it to the connection, then answer. I/O
    // thread.
    void DialFor(uint32_t request_id);

    // What the transfers of both ends over this link have come to.
    LinkTraffic &traffic() const { return traffic_; }

private:
    Status ConnectWhilePeerLives(const Deadline &deadline, Fd *stream);
    wire::Hello StreamHello(wire::Purpose purpose) const;
    void FinishDial(const Status &status, Fd stream, uint32_t request_id) LLDD_REQUIRES(*loop_);
    void RunPendingShutdown() LLDD_EXCLUDES(turn_);
    void ShutdownInTurn() LLDD_REQUIRES(turn_);
    void TellShutdown();
    // The peer is gone: what is known of its caches and its memory is given back.
    void ForgetPeer() LLDD_EXCLUDES(turn_);

    EventLoop *const loop_;
    Identity identity_;
    std::string peer_name_;
    uint32_t number_ = 0;
    mutable LinkTraffic traffic_;
    ControlChannel channel_;
    std::unique_ptr<Connection> owned_connection_;
    std::atomic<Connection *> connection_{nullptr};
    std::atomic<bool> requests_allowed_{false};

    Interruption interruption_;
    TurnLock turn_;
    std::optional<PeerTable> table_ LLDD_GUARDED_BY(turn_);
    uint64_t last_pin_ LLDD_GUARDED_BY(turn_) = 0;
    bool shut_down_ LLDD_GUARDED_BY(turn_) = false;
    std::set<std::tuple<Warning, int64_t, int64_t>> warned_ LLDD_GUARDED_BY(turn_);
    std::atomic<bool> peer_gone_{false};
    std::atomic<bool> established_{false};
    std::atomic<bool> silent_{false};
    unsigned beats_missed_ LLDD_GUARDED_BY(*loop_) = 0;
    std::atomic<bool> unlinked_{false};
    std::atomic<bool> shutdown_wanted_{false};

    mutable Mutex stream_mutex_;
    std::condition_variable stream_delivered_;
    std::function<void()> after_shutdown_ LLDD_GUARDED_BY(stream_mutex_);
    Fd delivered_stream_ LLDD_GUARDED_BY(stream_mutex_);
    std::string gone_reason_ LLDD_GUARDED_BY(stream_mutex_);
    bool stream_wanted_ LLDD_GUARDED_BY(stream_mutex_) = false;
    std::vector<std::pair<uint32_t, std::string>> early_messages_ LLDD_GUARDED_BY(stream_mutex_);

    std::shared_ptr<Greeter> dial_ LLDD_GUARDED_BY(*loop_);  // of a stream that the acceptor wants
};

}  // namespace lldd
