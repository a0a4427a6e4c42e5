// What one transfer was, and who is told of it when it is over: the log, statistics, whatever else
// keeps or passes on what happens.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/deadline.h"
#include "base/status.h"
#include "engine/link.h"
#include "engine/plan_pairs.h"
#include "engine/transfer_log.h"
#include "runtime/runtime.h"

namespace lldd {

enum class TransferKind : uint32_t { kPull = 1, kPush = 2, kToAddresses = 3 };

// All zero: the client gave none, and there is no box.
using TransferId = std::array<uint8_t, 16>;
// Of the transfer that this thread is in, whose observers ask for it.
TransferId ThisTransfersId();

// When a transfer had come how far; the epoch of the clock: it did not come so far, or nobody wanted
// to know.
struct TransferTimes {
    using Point = Deadline::Clock::time_point;
    Point entry;       // of a push: of this layer
    Point turn;        // from here on it had the link
    Point first_byte;  // the runtime was told which bytes to move
    Point end;
};

// A transfer of this end that is over: a pull, or one layer of a push. One that failed before its link
// was found has no record. Everything lives until the observer returns.
struct TransferRecord {
    TransferKind kind = TransferKind::kPull;
    Link *link = nullptr;                 // never null
    const lldd_cache_key *key = nullptr;  // of the peer's cache; null: to addresses
    int64_t cache_id = 0;                 // of the own cache
    // As they were read, merged, in the order of the caller's lists, which may change meanwhile. None
    // of contiguous caches, or if the transfer failed before they were read.
    const BlockPairs *pairs = nullptr;
    uint32_t layer = 0;              // of the source; of a pull the first one
    uint32_t layers = 0;             // 0: all there are
    uint64_t runs = 0;               // 0: it failed before it was planned
    uint64_t bytes = 0;              // that were asked for
    PathBytes moved{};               // see Connection::Moved
    const Status *status = nullptr;  // without what TransferText says; never null
    TransferTimes times;

    bool ok() const { return status->ok(); }
    bool to_local() const { return kind == TransferKind::kPull; }
    uint64_t blocks() const;
    uint64_t bytes_moved() const;
};

// "pull of cache id 3, batch index 0 from cluster 7 (127.0.0.1:26000)", how texts name a transfer.
std::string TransferText(const TransferRecord &record);
// "mapped", or "mapped and tcp"; "no path" if nothing was moved.
std::string PathsText(const PathBytes &moved);

class TransferObserver {
public:
    virtual ~TransferObserver() = default;
    // On the thread of the transfer, which holds no lock and has given the turn back. Transfers of one
    // link may be told of at the same time, and in another order than that of their turns.
    virtual void OnTransfer(const TransferRecord &record) = 0;
};

// Those who watch the transfers of an engine: the log, and those that are added. While nobody does, a
// transfer costs three comparisons more, and no clock is read for it.
class TransferObservers {
public:
    // kEnd: times.turn and times.first_byte are not needed.
    enum class Wants { kEnd, kSteps };

    TransferObservers() = default;
    TransferObservers(const TransferObservers &) = delete;
    TransferObservers &operator=(const TransferObservers &) = delete;

    // Before the first transfer; it must outlive the last one.
    void Add(TransferObserver *observer, Wants wants, bool on);
    // Any thread. One that was switched off may be told of a transfer that is ending.
    void Switch(const TransferObserver *observer, bool on);

    bool any() const { return on_.load(std::memory_order_relaxed) != 0 || log_.tells(); }
    bool any_wants_steps() const {
        return (on_.load(std::memory_order_relaxed) & wants_steps_) != 0 || log_.tells();
    }
    void Tell(const TransferRecord &record) const;

private:
    static constexpr size_t kMost = 8;

    const TransferLog log_;
    std::array<TransferObserver *, kMost> observers_{};
    size_t count_ = 0;
    uint32_t wants_steps_ = 0;     // a bit for each observer
    std::atomic<uint32_t> on_{0};  // the same
};

}  // namespace lldd
