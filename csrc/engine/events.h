// Tells the client of each transfer that is over: of this end, and of peers, which tell this end.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string_view>

#include "base/deadline.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/mutex.h"
#include "base/status.h"
#include "engine/link.h"
#include "engine/link_directory.h"
#include "engine/transfer_record.h"
#include "engine/wire_event.h"

namespace lldd {

// While the client does not listen and no peer wants to be told, transfers cost nothing for it.
class Events final : public TransferObserver {
public:
    // What waits for the client takes at most so many bytes of block lists.
    static constexpr size_t kMostBytes = 32U << 20;

    // Both outlive this object.
    Events(LinkDirectory *directory, TransferObservers *observers);
    Events(const Events &) = delete;
    Events &operator=(const Events &) = delete;

    // From now on up to `capacity` events wait for Take; of more, the oldest are dropped and counted.
    // Peers that answer by the deadline tell of all transfers that begin after the call. *fd can be
    // read while an event waits, or when this end has closed it; it is the caller's to close.
    // LLDD_FAILED: open already, or no descriptors.
    Status Open(uint32_t capacity, const Deadline &deadline, int *fd);
    // Not open: no effect.
    void Close();
    // Wakes the client: there will be no more.
    void Shut();
    // The oldest event, which Drop takes away; null: none waits. One thread at a time.
    // LLDD_PARAM_INVALID: not open.
    Status First(std::shared_ptr<const TransferEvent> *event);
    void Drop(const std::shared_ptr<const TransferEvent> &event);

    void OnTransfer(const TransferRecord &record) override;

    // ---- Links.

    // A link was made: the peer is asked to tell, if the client listens. The acceptor's end only asks;
    // the initiator's waits for the answer.
    void AskOnly(Link *link) const;
    void AskAndWait(Link *link, const Deadline &deadline) const;
    // The link has ended. On the I/O thread, or off it.
    void LinkEnded() { Refresh(); }
    // What the peer asks or tells. False: it cannot be read. On the I/O thread.
    bool TakeWanted(Link *link, uint32_t request_id, std::string_view body);
    bool TakeEvent(Link *link, std::string_view body);

private:
    static bool Understands(const Link &link);
    void Add(TransferEvent event);
    void TellPeer(Link *link, TransferEvent event) const;
    void GiveId(TransferId *id);
    // Watches transfers if there is anybody to tell.
    void Refresh();

    LinkDirectory *const directory_;
    TransferObservers *const observers_;
    uint64_t id_prefix_ = 0;
    std::atomic<uint64_t> last_id_{0};

    std::atomic<bool> open_{false};
    Mutex mutex_;
    Fd readable_ LLDD_GUARDED_BY(mutex_);  // an eventfd
    size_t capacity_ LLDD_GUARDED_BY(mutex_) = 0;
    std::deque<std::shared_ptr<TransferEvent>> waiting_ LLDD_GUARDED_BY(mutex_);
    size_t bytes_ LLDD_GUARDED_BY(mutex_) = 0;
    uint64_t lost_ LLDD_GUARDED_BY(mutex_) = 0;
};

}  // namespace lldd
