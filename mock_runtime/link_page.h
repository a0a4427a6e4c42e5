// The page that the two ends of a same-host link share: how an owner ends the access to its memory.
//
// The accessing end enters (seq_cst), then checks `alive` and the generations of the regions it
// uses, moves bytes, and leaves. The owner changes `alive` or a generation (seq_cst), then waits
// until the peer is not inside, or has left since. So either the peer sees the change, or the owner
// sees the peer.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

#include "base/deadline.h"
#include "mock_runtime/peer_process.h"
#include "mock_runtime/shared_memory.h"
#include "runtime/runtime.h"

namespace lldd::mock {

// What concerns the memory of one end.
struct alignas(128) LinkSide {
    std::atomic<uint32_t> alive;    // 1: the owner allows access over this link
    std::atomic<uint32_t> passage;  // odd: the peer is inside; each enter and leave adds one
    std::atomic<uint32_t> waiters;  // owners that sleep until `passage` changes
};

class LinkPage {
public:
    static Status Create(LinkPage *page);
    static Status Map(Fd fd, LinkPage *page);

    int fd() const { return memory_.fd(); }
    // When the peer has got it: a link must not cost a descriptor more than its connection.
    void CloseDescriptor() { memory_.CloseDescriptor(); }
    explicit operator bool() const { return static_cast<bool>(memory_); }
    // The side of the memory of that end.
    LinkSide &OfMemoryOf(LinkEnd end) const {
        return reinterpret_cast<LinkSide *>(memory_.data())[end == LinkEnd::kInitiator ? 0 : 1];
    }
    static uint64_t Size();

private:
    SharedMemory memory_;
};

// The accessing end.
inline void Enter(LinkSide &side) { side.passage.fetch_add(1, std::memory_order_seq_cst); }
void Leave(LinkSide &side);

// The owner: whether the peer is inside. One that enters after what the owner changed sees that.
bool IsInside(const LinkSide &side);
// The owner: waits until an access that was under way when it was called is over. False: it is not
// over at the deadline. The end of the peer's process also ends the wait; it is looked for once
// `peer_gone` is set, and the thread that sets it calls StopWaiting.
bool WaitForPassage(LinkSide &side, const std::atomic<bool> &peer_gone, const PeerProcess &process,
                    const Deadline &deadline);
void StopWaiting(LinkSide &side);

}  // namespace lldd::mock
