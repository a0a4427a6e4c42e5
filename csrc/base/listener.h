// A listening socket on the I/O thread.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/mutex.h"

namespace lldd {

class Listener {
public:
    // Gets each new connection, non-blocking, on the I/O thread.
    using Handler = std::function<void(Fd socket)>;
    // Gets the text when the first of several connections has to wait. On the I/O thread.
    using WaitHandler = std::function<void(const std::string &why)>;

    explicit Listener(EventLoop *loop, WaitHandler on_wait = nullptr)
        : loop_(loop), on_wait_(std::move(on_wait)) {}
    ~Listener() { Stop(); }
    Listener(const Listener &) = delete;
    Listener &operator=(const Listener &) = delete;

    // `socket` listens and does not block.
    void Start(Fd socket, Handler on_connection);
    // No handler runs afterwards, except the one that calls this.
    void Stop();

    bool listening() const { return static_cast<bool>(socket_); }

private:
    void OnConnections();
    void Pause(int error) LLDD_REQUIRES(*loop_);

    EventLoop *const loop_;
    const WaitHandler on_wait_;
    bool waiting_ LLDD_GUARDED_BY(*loop_) = false;
    Fd socket_;
    Handler on_connection_;
    EventLoop::Token token_ = 0;
    EventLoop::Token pause_ LLDD_GUARDED_BY(*loop_) = 0;
};

}  // namespace lldd
