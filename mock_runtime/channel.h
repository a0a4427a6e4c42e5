// The channel between two devices on one host: an abstract AF_UNIX socket, over which the two ends
// of a link exchange their memfds once.
//
// Such a socket exists within one network namespace: a process that can dial it is on the same
// host. Descriptors that it carries work where process_vm_readv and /proc/<pid>/fd are refused. A
// message is one packet, so a message never arrives in part; anything but a well-formed message
// closes the connection.
//
//   initiator                                      acceptor
//   Opening: the link's nonce, a challenge    ->
//                                             <-   Answer: a challenge, the acceptor's proof
//   Gift: the initiator's proof, descriptors  ->
//                                             <-   Gift: descriptors
//
// Either proof is made with the key of the link, of both challenges; no descriptor goes to a process
// that has not proved that it is the peer. Without a secret the key follows from what was sent over
// the control connection.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/listener.h"
#include "base/strangers.h"
#include "runtime/runtime.h"

namespace lldd::mock {

constexpr size_t kMostPoolsOnChannel = 64;

using ChannelName = std::array<uint8_t, 16>;

// A pool on its way to the peer.
struct PoolOffer {
    uint32_t number = 0;
    uint64_t size = 0;
    Fd fd;            // received
    int own_fd = -1;  // to be sent; belongs to the pool
};

// What both ends know of the link.
struct ChannelLink {
    LinkNonce nonce{};
    LinkKey key{};
};

// What one end gives the other.
struct ChannelGift {
    Fd link_page;            // received by the acceptor
    int own_link_page = -1;  // sent by the initiator
    Fd region_table;
    int own_region_table = -1;
    std::vector<PoolOffer> pools;
};

using ChannelChallenge = std::array<uint8_t, 16>;

// What both ends make their proofs of: fresh random bytes of either.
struct ChannelOpening {
    LinkNonce nonce{};
    ChannelChallenge initiator{};
    ChannelChallenge acceptor{};
};

// Listens for initiators. Lives on the I/O thread; destroy it on another one.
class ChannelListener {
public:
    // The acceptor's end of a link takes the initiator's gift and gives its own. pid: the
    // initiator's as this process sees it, 0: not visible.
    using Taker = std::function<Status(ChannelGift gift, pid_t pid, ChannelGift *own)>;

    static Status Create(std::shared_ptr<EventLoop> loop,
                         std::unique_ptr<ChannelListener> *listener);
    ~ChannelListener();

    const ChannelName &name() const { return name_; }

    // From now on the gift of a visitor that proves that it has the key of the link goes to the taker,
    // once. On the I/O thread.
    void Expect(const ChannelLink &link, Taker taker);
    // Afterwards the taker is not called. Any thread.
    void Forget(const LinkNonce &nonce);

private:
    struct Visitor {
        Fd socket;
        Strangers::Place place;
        bool opened = false;
        ChannelOpening opening;
    };

    explicit ChannelListener(std::shared_ptr<EventLoop> loop);
    void Welcome(Fd socket) LLDD_REQUIRES(*loop_);
    void Hear(EventLoop::Token visitor) LLDD_REQUIRES(*loop_);
    Status Open(Visitor *visitor) LLDD_REQUIRES(*loop_);
    Status Exchange(const Visitor &visitor) LLDD_REQUIRES(*loop_);
    void Dismiss(EventLoop::Token visitor) LLDD_REQUIRES(*loop_);

    std::shared_ptr<EventLoop> loop_;
    ChannelName name_{};
    Strangers strangers_;
    Listener listener_;
    std::map<EventLoop::Token, Visitor> visitors_ LLDD_GUARDED_BY(*loop_);
    struct Expected {
        LinkKey key;
        Taker taker;
    };
    std::map<LinkNonce, Expected> expected_ LLDD_GUARDED_BY(*loop_);
};

// The initiator's part: dials, gives, and takes the answer. LLDD_FAILED: no process listens there
// (the peer is not on this host, or in another network namespace), or one that is not the peer, or
// that does not say within half of the time that is left that it is; LLDD_LINK_FAILED: one of the two
// has no descriptors left; LLDD_TIMEOUT.
Status ExchangeOverChannel(const ChannelName &name, const ChannelLink &link, const ChannelGift &own,
                           const Deadline &deadline, ChannelGift *gift, pid_t *pid);

}  // namespace lldd::mock
