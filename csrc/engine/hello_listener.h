// A listener that reads from each connection what it is for, and whether it may be that.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/listener.h"
#include "base/mutex.h"
#include "base/socket.h"
#include "base/status.h"
#include "base/strangers.h"
#include "engine/greeting.h"
#include "engine/notices.h"
#include "engine/wire.h"

namespace lldd {

class HelloListener {
public:
    // What is answered to a Hello.
    struct Answer {
        // Otherwise the connection is closed once the greeting is sent.
        bool served = false;
        bool greets = false;
        wire::Hello hello;  // if it greets
        // From what the key is derived that both ends must prove; whether they must says hello.auth.
        std::string base;
    };
    // A connection with whose greeting all is well; nothing after it has been read.
    struct Greeted {
        Fd socket;
        wire::Hello hello;
        LinkKey key{};  // if both greet
        Strangers::Place place;
    };
    // Both run on the I/O thread.
    using HelloHandler = std::function<Answer(const wire::Hello &hello)>;
    using GreetedHandler = std::function<void(Greeted greeted)>;

    // `strangers` outlives it. `notices` gets a text when connections have to wait.
    // `peer_timeout_ms`: see WatchPeerHost.
    HelloListener(EventLoop *loop, Strangers *strangers, HelloHandler on_hello,
                  GreetedHandler on_greeted, Notices *notices, uint32_t peer_timeout_ms)
        : loop_(loop),
          strangers_(strangers),
          on_hello_(std::move(on_hello)),
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
    // A connection that has not said what it is for, or not proved that it may.
    struct Newcomer {
        Fd socket;
        EventLoop::Token token = 0;
        Strangers::Place place;
        std::array<char, wire::Hello::kSize> greeting{};
        std::array<char, kProofBytes> proof{};
        bool greeted = false;  // the proof is what comes
        size_t received = 0;   // of the greeting, or of the proof
        wire::Hello hello;
        LinkKey key{};
    };
    using Newcomers = std::list<Newcomer>;

    void OnConnection(Fd socket) LLDD_REQUIRES(*loop_);
    void OnBytes(Newcomers::iterator newcomer) LLDD_REQUIRES(*loop_);
    void OnHello(Newcomers::iterator newcomer) LLDD_REQUIRES(*loop_);
    void Refuse(Newcomers::iterator newcomer, const Status &status) LLDD_REQUIRES(*loop_);
    bool Send(const Newcomer &newcomer, std::string_view bytes) LLDD_REQUIRES(*loop_);
    void Finish(Newcomers::iterator newcomer) LLDD_REQUIRES(*loop_);
    void Drop(Newcomers::iterator newcomer) LLDD_REQUIRES(*loop_);

    EventLoop *const loop_;
    Strangers *const strangers_;
    const HelloHandler on_hello_;
    const GreetedHandler on_greeted_;
    const uint32_t peer_timeout_ms_;
    Listener listener_;
    SocketAddress address_;
    Newcomers newcomers_ LLDD_GUARDED_BY(*loop_);
};

}  // namespace lldd
