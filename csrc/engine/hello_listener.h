// A listener that reads from each connection what it is for.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <utility>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/listener.h"
#include "base/mutex.h"
#include "base/socket.h"
#include "base/status.h"
#include "base/strangers.h"
#include "engine/notices.h"
#include "engine/wire.h"

namespace lldd {

class HelloListener {
public:
    // A connection whose Hello is complete and valid; nothing after it has been read. Runs on the
    // I/O thread.
    using GreetedHandler =
        std::function<void(Fd socket, const wire::Hello &hello, Strangers::Place place)>;

    // `strangers` outlives it. `notices` gets a text when connections have to wait.
    // `peer_timeout_ms`: see WatchPeerHost.
    HelloListener(EventLoop *loop, Strangers *strangers, GreetedHandler on_greeted,
                  Notices *notices, uint32_t peer_timeout_ms)
        : loop_(loop),
          strangers_(strangers),
          on_greeted_(std::move(on_greeted)),
          peer_timeout_ms_(peer_timeout_ms),
          listener_(loop, [notices](const std::string &why) { notices->Add(why); }) {}
    ~HelloListener() { Stop(); }
    HelloListener(const HelloListener &) = delete;
    HelloListener &operator=(const HelloListener &) = delete;

    // LLDD_FAILED if the address cannot be bound.
    Status Start(const SocketAddress &address);
    // No handler runs afterwards; connections that have not greeted are dropped.
    void Stop();

    bool listening() const { return listener_.listening(); }
    // With the real port; "" and 0 when not listening.
    const SocketAddress &address() const { return address_; }

private:
    // A connection that has not said what it is for.
    struct Newcomer {
        Fd socket;
        EventLoop::Token token = 0;
        Strangers::Place place;
        char greeting[wire::Hello::kSize] = {};
        size_t received = 0;
    };
    using Newcomers = std::list<Newcomer>;

    void OnConnection(Fd socket) LLDD_REQUIRES(*loop_);
    void OnBytes(Newcomers::iterator newcomer) LLDD_REQUIRES(*loop_);
    void Drop(Newcomers::iterator newcomer) LLDD_REQUIRES(*loop_);

    EventLoop *const loop_;
    Strangers *const strangers_;
    const GreetedHandler on_greeted_;
    const uint32_t peer_timeout_ms_;
    Listener listener_;
    SocketAddress address_;
    Newcomers newcomers_ LLDD_GUARDED_BY(*loop_);
};

}  // namespace lldd
