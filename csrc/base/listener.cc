// SPDX-License-Identifier: Apache-2.0
#include "base/listener.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "base/io_thread.h"
#include "base/log.h"
#include "base/status.h"

namespace lldd {
namespace {

// How long a listener waits when the process has no descriptor, or the kernel no memory, for
// another connection.
constexpr uint64_t kPauseMs = 100;

}  // namespace

void Listener::Start(Fd socket, Handler on_connection) {
    on_connection_ = std::move(on_connection);
    // On the I/O thread, so that no handler runs before both are there.
    loop_->RunAndWait([&] {
        token_ = loop_->Watch(socket.get(), EPOLLIN, [this](uint32_t) { OnConnections(); });
        socket_ = std::move(socket);
    });
}

void Listener::Stop() {
    if (!socket_) return;
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        loop_->Remove(token_);
        loop_->Cancel(pause_);
    });
    socket_.Close();
}

void Listener::OnConnections() {
    LLDD_ON_IO_THREAD(*loop_);
    Fd socket(accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    const int error = errno;
    if (socket) {
        waiting_ = false;
        on_connection_(std::move(socket));
    } else if (OutOfDescriptors(error) || error == ENOBUFS || error == ENOMEM) {
        Pause(error);
    }
}

// The connection stays where it is, so the listener would be called again at once.
void Listener::Pause(int error) {
    if (!std::exchange(waiting_, true)) {
        const std::string why = "a new connection has to wait: " + ErrorText(error);
        if (on_wait_) {
            on_wait_(why);
        } else {
            LLDD_LOG(LLDD_LOG_WARNING, "%s", why.c_str());
        }
    }
    loop_->Change(token_, 0);
    pause_ = loop_->PostAt(Deadline::InMs(kPauseMs), [this] { loop_->Change(token_, EPOLLIN); });
}

}  // namespace lldd
