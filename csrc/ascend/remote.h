// The connection to the HIXL engine of a peer.
//
// A HIXL connection serves the engine that made it, knows the memory that either side had
// registered by then, and is lost with the first transfer that fails. So both ends of a link
// connect, a new link connects anew, and so does a transfer that finds the connection lost, or
// needs memory of its own that was registered since.
//
// HIXL is asked to connect or to disconnect only when the peer has just answered over the control
// connection of a link (voice.h). A connection whose peer is silent or gone is lost and stays: the
// next link to the same engine makes it anew, else it ends with HIXL.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ascend/session.h"
#include "ascend/voice.h"
#include "base/deadline.h"
#include "base/mutex.h"
#include "base/status.h"
#include "hixl/hixl.h"

namespace lldd::ascend {

// How long a connect may take that no call waits for any more.
constexpr uint64_t kConnectMs = 10'000;
// The same for a disconnect.
constexpr uint64_t kDisconnectMs = 1000;

using TransferOps = std::vector<hixl::TransferOpDesc>;

// The connection to one engine, shared by the links to it. Thread-safe; one thing at a time.
class Remote : public std::enable_shared_from_this<Remote> {
public:
    // `next_region` is the id that the next own region gets: those below are registered.
    Remote(std::shared_ptr<HixlSession> session,
           std::shared_ptr<const std::atomic<uint64_t>> next_region, int32_t longest_ms,
           std::string engine)
        : session_(std::move(session)),
          next_region_(std::move(next_region)),
          longest_ms_(longest_ms),
          engine_(std::move(engine)) {}

    // A new link uses it, whose peer answers by this voice. The peer may have registered memory
    // since: the next use connects anew. Does not block.
    void AddUser(std::shared_ptr<Voice> voice);
    // False: that was the last one, so the caller must end the connection by End or EndSoon.
    bool RemoveUser(const std::shared_ptr<Voice> &voice);
    bool in_use() const;
    // Disconnects if no link uses it and the peer answers; `ended` is called then, before another
    // thread gets a turn. LLDD_TIMEOUT: a transfer is under way.
    Status End(const Deadline &deadline, const std::function<void()> &ended);
    // The same on a thread of its own, as soon as no transfer is under way. Does not block.
    void EndSoon(std::function<void()> ended);

    // Connects if it is not connected.
    Status Connect(const Deadline &deadline);
    // The same on a thread of its own; no thread waits for it.
    void ConnectSoon();
    // `newest` is the highest id of an own region among the descriptors. Connects if it has to.
    // `may_begin` is asked when nothing else is left to wait for; what it forbids is not begun.
    Status Transfer(hixl::TransferOp operation, const std::shared_ptr<const TransferOps> &descs,
                    uint64_t newest, const std::function<Status()> &may_begin,
                    const Deadline &deadline);
    // Disconnects; the next use connects again. LLDD_TIMEOUT: a transfer is under way, or the peer
    // is silent. A connection that no link uses is left alone: its peer has gone.
    Status Drop(const Deadline &deadline);
    // The same on a thread of its own, as soon as no transfer is under way. `dropped` is called once
    // it is disconnected, which HIXL may refuse. Does not block.
    void DropSoon(std::function<void()> dropped);

    // `then` is called on another thread when no transfer is under way that had begun. Does not
    // block.
    void AfterTransfer(std::function<void()> then);

    // From a call of Hold to its call of GoOn no thread connects or begins a transfer: they wait.
    void Hold();
    void GoOn();

    const std::string &engine() const { return engine_; }

private:
    class Turn;
    enum class Doing { kConnect, kDisconnect, kTransfer };

    // Runs the task on another thread, with the turn, when no call of HIXL is under way.
    void WhenFree(std::function<void()> task);
    void TryToDrop(std::function<void()> dropped, int tries);
    void EndInTurn(const Deadline &deadline, const std::function<void()> &ended)
        LLDD_REQUIRES(turn_);
    Status ConnectInTurn(uint64_t newest, const Deadline &deadline) LLDD_REQUIRES(turn_);
    Status DisconnectInTurn(const Deadline &deadline) LLDD_REQUIRES(turn_);
    Status PeerAnswers(const Deadline &deadline);
    // Begins a call of HIXL and waits for it. LLDD_TIMEOUT with *returned false: what comes of it is
    // taken over by the next turn.
    Status CallInTurn(Doing doing, const std::string &what, const Deadline &deadline,
                      HixlSession::Body body, bool *returned) LLDD_REQUIRES(turn_);
    // What has become of the call that is under way. LLDD_TIMEOUT: it has not returned.
    Status SettleInTurn(const Deadline &deadline) LLDD_REQUIRES(turn_);
    int32_t ForHixl(uint64_t ms) const;

    const std::shared_ptr<HixlSession> session_;
    const std::shared_ptr<const std::atomic<uint64_t>> next_region_;
    const int32_t longest_ms_;
    const std::string engine_;

    mutable Mutex mutex_;
    std::condition_variable free_;
    std::vector<std::shared_ptr<Voice>> users_ LLDD_GUARDED_BY(mutex_);
    std::shared_ptr<Voice> last_user_ LLDD_GUARDED_BY(mutex_);
    bool busy_ LLDD_GUARDED_BY(mutex_) = false;
    uint64_t ends_waiting_ LLDD_GUARDED_BY(mutex_) = 0;
    uint64_t holds_ LLDD_GUARDED_BY(mutex_) = 0;
    std::vector<std::function<void()>> after_turn_ LLDD_GUARDED_BY(mutex_);
    bool stale_ LLDD_GUARDED_BY(mutex_) = false;
    Right turn_;  // what a Turn gives
    std::shared_ptr<HixlCall> under_way_ LLDD_GUARDED_BY(turn_);
    Doing doing_ LLDD_GUARDED_BY(turn_) = Doing::kConnect;
    bool connected_ LLDD_GUARDED_BY(turn_) = false;
    // Connected, but not to be used any more.
    bool lost_ LLDD_GUARDED_BY(turn_) = false;
    // Own regions with lower ids were registered before the connection was made.
    uint64_t knows_ LLDD_GUARDED_BY(turn_) = 0;
    uint64_t will_know_ LLDD_GUARDED_BY(turn_) = 0;  // the one that is being made
};

}  // namespace lldd::ascend
