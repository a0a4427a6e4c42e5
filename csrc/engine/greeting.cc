// SPDX-License-Identifier: Apache-2.0
#include "engine/greeting.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "base/codec.h"
#include "base/hmac.h"
#include "base/io_thread.h"

namespace lldd {
namespace {

Status OtherSecret() {
    return Failure(LLDD_LINK_FAILED, "the peer has another auth token, or is not the peer");
}

}  // namespace

Status CheckAuth(const wire::Hello &own, const wire::Hello &peer) {
    if (peer.auth == own.auth) return Status::Ok();
    if (peer.auth == wire::Auth::kNone) {
        return Failure(LLDD_LINK_FAILED, "this end has an auth token, the other end has none");
    }
    return Failure(LLDD_LINK_FAILED, "the other end asks for an auth token, this end has none");
}

Status Greet(int socket, const wire::Hello &own, std::string_view base, const Deadline &deadline,
             wire::Hello *peer, LinkKey *key) {
    const auto bytes = own.Encode();
    char answer[wire::Hello::kSize];
    LLDD_RETURN_IF_ERROR(SendAll(socket, bytes.data(), bytes.size(), deadline));
    LLDD_RETURN_IF_ERROR(ReceiveAll(socket, answer, sizeof answer, deadline));
    LLDD_RETURN_IF_ERROR(peer->Decode({answer, sizeof answer}));
    LLDD_RETURN_IF_ERROR(CheckAuth(own, *peer));
    *key = DeriveKey(base, own, *peer);
    if (own.auth == wire::Auth::kNone) return Status::Ok();
    char proof[kProofBytes];
    LLDD_RETURN_IF_ERROR(ReceiveAll(socket, proof, sizeof proof, deadline));
    if (!SameDigest({proof, sizeof proof}, Proof(*key, LinkEnd::kAcceptor, kGreetingLabel, {})))
        return OtherSecret();
    const std::string own_proof = Proof(*key, LinkEnd::kInitiator, kGreetingLabel, {});
    LLDD_RETURN_IF_ERROR(SendAll(socket, own_proof.data(), own_proof.size(), deadline));
    if (own.purpose != wire::Purpose::kLink) return Status::Ok();
    char id[sizeof peer->id];
    LLDD_RETURN_IF_ERROR(ReceiveAll(socket, id, sizeof id, deadline));
    peer->id = Reader({id, sizeof id}).Number<uint64_t>();
    return Status::Ok();
}

void Greeter::Start() {
    LLDD_ON_IO_THREAD(*loop_);
    const Status status = StartConnect(address_, from_, &socket_);
    if (!status.ok()) return Finish(status);
    Watch(EPOLLOUT, &Greeter::OnConnected);
}

void Greeter::Stop() {
    if (token_ != 0) loop_->Remove(std::exchange(token_, 0));
    socket_.Close();
    done_ = nullptr;
}

void Greeter::Watch(uint32_t events, void (Greeter::*handler)()) {
    if (token_ != 0) loop_->Remove(token_);
    token_ = loop_->Watch(socket_.get(), events, [weak = weak_from_this(), handler](uint32_t) {
        if (const std::shared_ptr<Greeter> self = weak.lock()) ((*self).*handler)();
    });
}

void Greeter::OnConnected() {
    LLDD_ON_IO_THREAD(*loop_);
    Status status = ConnectResult(socket_.get(), address_);
    const auto bytes = own_.Encode();
    // A new connection has room for a few bytes: this does not wait.
    if (status.ok())
        status = SendAll(socket_.get(), bytes.data(), bytes.size(), Deadline::Passed());
    if (!status.ok() || !answered_) return Finish(std::move(status));
    Watch(EPOLLIN, &Greeter::OnBytes);
}

void Greeter::OnBytes() {
    LLDD_ON_IO_THREAD(*loop_);
    // Not a byte more than the answer: what follows is for the owner of the connection.
    const size_t wanted = own_.auth == wire::Auth::kNone || received_ < wire::Hello::kSize
                              ? wire::Hello::kSize
                              : answer_.size();
    const ssize_t size =
        recv(socket_.get(), answer_.data() + received_, wanted - received_, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0)
        return Finish(Failure(LLDD_LINK_FAILED, "%s hung up instead of a greeting",
                              address_.ToString().c_str()));
    received_ += static_cast<size_t>(size);
    wire::Hello peer;
    if (received_ < wire::Hello::kSize) return;
    if (received_ == wire::Hello::kSize) {
        Status status = peer.Decode({answer_.data(), wire::Hello::kSize});
        if (status.ok()) status = CheckAuth(own_, peer);
        if (!status.ok() || own_.auth == wire::Auth::kNone) Finish(std::move(status));
        return;
    }
    if (received_ == answer_.size()) Finish(OnAnswer());
}

Status Greeter::OnAnswer() {
    wire::Hello peer;
    LLDD_RETURN_IF_ERROR(peer.Decode({answer_.data(), wire::Hello::kSize}));
    const LinkKey key = DeriveKey(base_, own_, peer);
    if (!SameDigest({answer_.data() + wire::Hello::kSize, kProofBytes},
                    Proof(key, LinkEnd::kAcceptor, kGreetingLabel, {})))
        return OtherSecret();
    const std::string proof = Proof(key, LinkEnd::kInitiator, kGreetingLabel, {});
    return SendAll(socket_.get(), proof.data(), proof.size(), Deadline::Passed());
}

void Greeter::Finish(Status status) {
    if (token_ != 0) loop_->Remove(std::exchange(token_, 0));
    Fd socket = std::move(socket_);
    const Done done = std::exchange(done_, nullptr);
    if (done) done(std::move(status), std::move(socket));
}

}  // namespace lldd
