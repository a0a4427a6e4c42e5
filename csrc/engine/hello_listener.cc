// SPDX-License-Identifier: Apache-2.0
#include "engine/hello_listener.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>

#include "base/io_thread.h"
#include "base/log.h"

namespace lldd {

Status HelloListener::Start(const SocketAddress &address) {
    Fd socket;
    LLDD_RETURN_IF_ERROR(Listen(address, &socket));
    address_ = SocketAddress::OfSocket(socket.get());
    listener_.Start(std::move(socket), [this](Fd connection) {
        LLDD_ON_IO_THREAD(*loop_);
        OnConnection(std::move(connection));
    });
    return Status::Ok();
}

void HelloListener::Stop() {
    if (!listening()) return;
    listener_.Stop();
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        while (!newcomers_.empty()) Drop(newcomers_.begin());
    });
    address_ = SocketAddress();
}

void HelloListener::OnConnection(Fd socket) {
    SetNoDelay(socket.get());
    WatchPeerHost(socket.get(), peer_timeout_ms_);
    const uint64_t origin = SocketAddress::OfPeer(socket.get()).Network();
    const auto newcomer = newcomers_.emplace(newcomers_.end());
    newcomer->socket = std::move(socket);
    newcomer->place = strangers_->Admit(origin, [this, newcomer](const char *) {
        LLDD_ON_IO_THREAD(*loop_);
        Drop(newcomer);
    });
    newcomer->token = loop_->Watch(newcomer->socket.get(), EPOLLIN, [this, newcomer](uint32_t) {
        LLDD_ON_IO_THREAD(*loop_);
        OnBytes(newcomer);
    });
}

void HelloListener::OnBytes(Newcomers::iterator newcomer) {
    // Reads not a byte more than the greeting: what follows is for the next owner of the
    // connection.
    const ssize_t received = recv(newcomer->socket.get(), newcomer->greeting + newcomer->received,
                                  sizeof newcomer->greeting - newcomer->received, MSG_DONTWAIT);
    if (received < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (received <= 0) {
        Drop(newcomer);
        return;
    }
    newcomer->received += static_cast<size_t>(received);
    if (newcomer->received < sizeof newcomer->greeting) return;
    wire::Hello hello;
    const Status status = hello.Decode({newcomer->greeting, sizeof newcomer->greeting});
    if (!status.ok()) {
        LLDD_LOG(LLDD_LOG_WARNING, "connection from %s refused: %s",
                 SocketAddress::OfPeer(newcomer->socket.get()).ToString().c_str(),
                 status.text().c_str());
        // A peer of another version learns which version this end has.
        const auto answer = wire::Hello().Encode();
        if (send(newcomer->socket.get(), answer.data(), answer.size(),
                 MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
            LLDD_LOG(LLDD_LOG_DEBUG, "the refused connection is gone already");
        }
        Drop(newcomer);
        return;
    }
    loop_->Remove(newcomer->token);
    Fd socket = std::move(newcomer->socket);
    Strangers::Place place = std::move(newcomer->place);
    newcomers_.erase(newcomer);
    on_greeted_(std::move(socket), hello, std::move(place));
}

void HelloListener::Drop(Newcomers::iterator newcomer) {
    loop_->Remove(newcomer->token);
    newcomers_.erase(newcomer);
}

}  // namespace lldd
