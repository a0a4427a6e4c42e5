// How the two ends of a connection greet each other, and prove that they know the same secret.
//
//   initiator                                   acceptor
//   Hello                                  ->
//                                          <-   Hello
//   with a secret:                         <-   Proof of the acceptor
//   Proof of the initiator                 ->
//   of a link:                             <-   8 bytes: the acceptor's cluster id
//
// The acceptor proves itself first: before that it is told nothing but that somebody wants something,
// and a stranger learns nothing of either end but whether there is a secret. What a proof is made
// from is the key of this connection, which is derived from both Hellos and what both ends know: the
// secret, or, of a data stream, the key of its link. Both Hellos have fresh random bytes in them, so
// a recorded proof is worthless. A data stream without a secret has no answer: its Hello has the
// nonce of its link.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/deadline.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/mutex.h"
#include "base/socket.h"
#include "base/status.h"
#include "engine/keys.h"
#include "engine/wire.h"
#include "runtime/runtime.h"

namespace lldd {

// Whether the ends agree on the way to authenticate. LLDD_LINK_FAILED.
Status CheckAuth(const wire::Hello &own, const wire::Hello &peer);

// The initiator's part, over a connection that stands. What is to be proved is decided by own.auth.
// LLDD_LINK_FAILED, LLDD_TIMEOUT. Blocks.
Status Greet(int socket, const wire::Hello &own, std::string_view base, const Deadline &deadline,
             wire::Hello *peer, LinkKey *key);

// The same on the I/O thread: connects and greets. Ends when it is destroyed.
class Greeter : public std::enable_shared_from_this<Greeter> {
public:
    // Gets the connection, once. On the I/O thread; may release the greeter.
    using Done = std::function<void(Status status, Fd socket)>;

    // `from`: see StartConnect. `answered`: whether the other end greets, too; it does if there is
    // anything to prove.
    Greeter(EventLoop *loop, const SocketAddress &address, const SocketAddress &from,
            const wire::Hello &own, std::string_view base, bool answered, Done done)
        : loop_(loop),
          address_(address),
          from_(from),
          own_(own),
          base_(base),
          answered_(answered),
          done_(std::move(done)) {}
    ~Greeter() { Stop(); }
    Greeter(const Greeter &) = delete;
    Greeter &operator=(const Greeter &) = delete;

    void Start();
    // `done` is not called afterwards. On the I/O thread, or when no event of it can come.
    void Stop();

private:
    void OnConnected() LLDD_REQUIRES(*loop_);
    void OnBytes() LLDD_REQUIRES(*loop_);
    Status OnAnswer() LLDD_REQUIRES(*loop_);
    void Finish(Status status) LLDD_REQUIRES(*loop_);
    void Watch(uint32_t events, void (Greeter::*handler)()) LLDD_REQUIRES(*loop_);

    EventLoop *const loop_;
    const SocketAddress address_;
    const SocketAddress from_;
    const wire::Hello own_;
    const std::string base_;
    const bool answered_;
    Done done_;
    Fd socket_;
    EventLoop::Token token_ = 0;
    std::array<char, wire::Hello::kSize + kProofBytes> answer_{};
    size_t received_ = 0;
};

}  // namespace lldd
