// The links over which a peer may be inside this device's memory, and the owner's wait for it.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "base/deadline.h"
#include "base/mutex.h"
#include "mock_runtime/link_page.h"
#include "mock_runtime/peer_process.h"
#include "runtime/runtime.h"

namespace lldd::mock {

// One link, as the owner sees it when it withdraws memory. Outlives its connection while a thread
// waits.
class PeerPassage {
public:
    // mark: that of the snapshot which the peer received; it knows no region that was registered
    // later. peer: how the engine calls it.
    PeerPassage(LinkEnd own_end, uint64_t peer, uint64_t mark)
        : own_end_(own_end), peer_(peer), mark_(mark) {}

    // From now on the peer may enter. Once.
    void Open(LinkPage page);
    bool is_open() const;
    // Whose threads they are that enter. Before the first one does.
    void SetProcess(const PeerProcess &process);
    PeerProcess process() const;
    // Once it is open: the page, and what concerns the memory of either end.
    LinkPage &page() { return page_; }
    LinkSide &own_side() const { return page_.OfMemoryOf(own_end_); }
    LinkSide &peer_side() const {
        return page_.OfMemoryOf(own_end_ == LinkEnd::kInitiator ? LinkEnd::kAcceptor
                                                                : LinkEnd::kInitiator);
    }

    uint64_t mark() const { return mark_; }
    uint64_t peer() const { return peer_; }
    // Its connection was closed by this end while the peer was inside.
    void Closed();
    bool closed() const { return closed_.load(); }
    const std::atomic<bool> &peer_gone() const { return peer_gone_; }

    // The connection is closed: waits go on only while the peer's process, if it can be seen, is still
    // inside. Any thread, any time.
    void PeerGone();

    // Once it is open: waits until an access of the peer that was under way when it was called is
    // over, or the peer is gone. False: it is under way at the deadline.
    bool WaitUntilLeft(const Deadline &deadline);

private:
    const LinkEnd own_end_;
    const uint64_t peer_;
    const uint64_t mark_;
    std::atomic<bool> closed_{false};
    std::atomic<bool> peer_gone_{false};
    mutable Mutex mutex_;  // between Open, SetProcess and PeerGone
    LinkPage page_;
    PeerProcess process_;
};

// The passages of a device. Thread-safe.
class Passages {
public:
    void Add(std::shared_ptr<PeerPassage> passage);
    void Remove(const std::shared_ptr<PeerPassage> &passage);
    size_t size() const;

    // Waits for every peer that is inside and may know of a region: one whose mark is above
    // `order`. What is not null is one that is still inside at the deadline.
    std::shared_ptr<PeerPassage> WaitUntilLeft(uint64_t order, const Deadline &deadline);
    // The same for closed connections to that peer; those that it has left are forgotten.
    std::shared_ptr<PeerPassage> WaitForClosed(uint64_t peer, const Deadline &deadline);
    // How many peers are inside right now.
    size_t CountInside() const;

private:
    mutable Mutex mutex_;
    // By their marks.
    std::multimap<uint64_t, std::shared_ptr<PeerPassage>> passages_ LLDD_GUARDED_BY(mutex_);
};

}  // namespace lldd::mock
