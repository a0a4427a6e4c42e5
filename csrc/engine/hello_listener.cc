// SPDX-License-Identifier: Apache-2.0
#include "engine/hello_listener.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>

#include "base/hmac.h"
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

// Reads not a byte more than the greeting or the proof: what follows is for the next owner of the
// connection.
void HelloListener::OnBytes(Newcomers::iterator newcomer) {
    char *const place = newcomer->greeted ? newcomer->proof.data() : newcomer->greeting.data();
    const size_t size = newcomer->greeted ? newcomer->proof.size() : newcomer->greeting.size();
    const ssize_t received = recv(newcomer->socket.get(), place + newcomer->received,
                                  size - newcomer->received, MSG_DONTWAIT);
    if (received < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (received <= 0) {
        Drop(newcomer);
        return;
    }
    newcomer->received += static_cast<size_t>(received);
    if (newcomer->received < size) return;
    if (!newcomer->greeted) return OnHello(newcomer);
    if (!SameDigest({place, size}, Proof(newcomer->key, LinkEnd::kInitiator, kGreetingLabel, {}))) {
        Refuse(newcomer, Failure(LLDD_LINK_FAILED, "it has another auth token"));
        return;
    }
    Finish(newcomer);
}

void HelloListener::OnHello(Newcomers::iterator newcomer) {
    wire::Hello &hello = newcomer->hello;
    const Status status = hello.Decode({newcomer->greeting.data(), newcomer->greeting.size()});
    if (!status.ok()) {
        // A peer of another version learns which version this end has.
        const auto answer = wire::Hello().Encode();
        Send(*newcomer, {answer.data(), answer.size()});
        Refuse(newcomer, status);
        return;
    }
    const Answer answer = on_hello_(hello);
    const bool proves = answer.greets && answer.served && answer.hello.auth != wire::Auth::kNone;
    if (answer.greets) {
        const auto own = answer.hello.Encode();
        std::string bytes(own.begin(), own.end());
        newcomer->key = DeriveKey(answer.base, hello, answer.hello);
        if (proves) bytes += Proof(newcomer->key, LinkEnd::kAcceptor, kGreetingLabel, {});
        if (!Send(*newcomer, bytes)) return Drop(newcomer);
    }
    if (!answer.served) return Drop(newcomer);
    newcomer->greeted = true;
    newcomer->received = 0;
    if (!proves) Finish(newcomer);
}

void HelloListener::Refuse(Newcomers::iterator newcomer, const Status &status) {
    LLDD_LOG(LLDD_LOG_WARNING, "connection from %s refused: %s",
             SocketAddress::OfPeer(newcomer->socket.get()).ToString().c_str(),
             status.text().c_str());
    Drop(newcomer);
}

// A connection that has taken nothing yet has room for it.
bool HelloListener::Send(const Newcomer &newcomer, std::string_view bytes) {
    const Status sent =
        SendAll(newcomer.socket.get(), bytes.data(), bytes.size(), Deadline::Passed());
    if (!sent.ok()) LLDD_LOG(LLDD_LOG_DEBUG, "a connection is gone before it was greeted");
    return sent.ok();
}

void HelloListener::Finish(Newcomers::iterator newcomer) {
    loop_->Remove(newcomer->token);
    Greeted greeted;
    greeted.socket = std::move(newcomer->socket);
    greeted.hello = newcomer->hello;
    greeted.key = newcomer->key;
    greeted.place = std::move(newcomer->place);
    newcomers_.erase(newcomer);
    on_greeted_(std::move(greeted));
}

void HelloListener::Drop(Newcomers::iterator newcomer) {
    loop_->Remove(newcomer->token);
    newcomers_.erase(newcomer);
}

}  // namespace lldd
