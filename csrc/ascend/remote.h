// The connection to the HIXL engine of a peer.
//
// A HIXL connection serves the engine that made it, knows the memory that either side had
// registered by then, and is lost with the first transfer that fails. So both ends of a link
// connect, a new link connects anew, and so does a transfer that finds the connection lost, or
// needs memory of its own that was registered since.
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

#include "ascend/cann.h"
#include "ascend/worker.h"
#include "base/deadline.h"
#include "base/mutex.h"
#include "base/status.h"
#include "hixl/hixl.h"

namespace lldd::ascend {

// For a disconnect from a peer that may be gone, for which the caller waits.
constexpr uint64_t kDisconnectMs = 200;

// The connection to one engine, shared by the links to it. Thread-safe; one thing at a time.
class Remote : public std::enable_shared_from_this<Remote> {
public:
    // All three outlive it; tasks run on the worker. `next_region` is the id that the next own region
    // gets: those below are registered.
    Remote(hixl::Hixl *hixl, Worker *worker, const std::atomic<uint64_t> *next_region,
           std::string engine)
        : hixl_(hixl), worker_(worker), next_region_(next_region), engine_(std::move(engine)) {}

    // A new link uses it. The peer may have registered memory since: the next use connects anew.
    // Does not block.
    void AddUser();
    // False: that was the last one, so the caller must end the connection by End or EndSoon.
    bool RemoveUser();
    bool in_use() const;
    // Disconnects if no link uses it; `ended` is called then, before another thread gets a turn.
    // LLDD_TIMEOUT: a transfer is under way.
    Status End(const Deadline &deadline, const std::function<void()> &ended);
    // The same on the worker, as soon as no transfer is under way. Does not block.
    void EndSoon(std::function<void()> ended);

    // Connects if it is not connected.
    Status Connect(const Deadline &deadline);
    // `newest` is the highest id of an own region among the descriptors. Connects if it has to.
    // `may_begin` is asked when nothing else is left to wait for; what it forbids is not begun.
    Status Transfer(hixl::TransferOp operation, const std::vector<hixl::TransferOpDesc> &descs,
                    uint64_t newest, const std::function<Status()> &may_begin,
                    const Deadline &deadline);
    // Disconnects; the next use connects again. LLDD_TIMEOUT: a transfer is under way.
    Status Drop(const Deadline &deadline);
    // The same on the worker, as soon as no transfer is under way. `dropped` is called once it is
    // disconnected, which HIXL may refuse. Does not block.
    void DropSoon(std::function<void()> dropped);

    // `then` is called on the worker when no transfer is under way that had begun. Does not block.
    void AfterTransfer(std::function<void()> then) { WhenFree(std::move(then)); }

    // From a call of Hold to its call of GoOn no thread connects or begins a transfer: they wait.
    void Hold();
    void GoOn();

    const std::string &engine() const { return engine_; }

private:
    class Turn;

    // Runs the task on the worker, with the turn.
    void WhenFree(std::function<void()> task);
    void TryToDrop(std::function<void()> dropped, int tries);
    void EndInTurn(const Deadline &deadline, const std::function<void()> &ended)
        LLDD_REQUIRES(turn_);
    Status ConnectInTurn(uint64_t newest, const Deadline &deadline) LLDD_REQUIRES(turn_);
    Status DisconnectInTurn(const Deadline &deadline) LLDD_REQUIRES(turn_);

    hixl::Hixl *const hixl_;
    Worker *const worker_;
    const std::atomic<uint64_t> *const next_region_;
    const std::string engine_;

    mutable Mutex mutex_;
    std::condition_variable free_;
    uint64_t users_ LLDD_GUARDED_BY(mutex_) = 0;
    bool busy_ LLDD_GUARDED_BY(mutex_) = false;
    uint64_t ends_waiting_ LLDD_GUARDED_BY(mutex_) = 0;
    uint64_t holds_ LLDD_GUARDED_BY(mutex_) = 0;
    std::vector<std::function<void()>> after_turn_ LLDD_GUARDED_BY(mutex_);
    bool stale_ LLDD_GUARDED_BY(mutex_) = false;
    Right turn_;  // what a Turn gives
    bool connected_ LLDD_GUARDED_BY(turn_) = false;
    // Connected, but not to be used any more.
    bool lost_ LLDD_GUARDED_BY(turn_) = false;
    // Own regions with lower ids were registered before the connection was made.
    uint64_t knows_ LLDD_GUARDED_BY(turn_) = 0;
};

}  // namespace lldd::ascend
