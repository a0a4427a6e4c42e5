// SPDX-License-Identifier: Apache-2.0
#include "owner.h"

#include <sys/mman.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/address.h"

namespace lldd::fuzz {
namespace {

// An in-process peer reads the loop's turns off: a listener, a connection, its bytes.
constexpr int kTurns = 4;

const std::string &SecretPart() {
    static const std::string part(kPart, kSecretByte);
    return part;
}

bool Holds(uint64_t addr, const std::string &bytes) {
    return std::memcmp(Pointer(addr), bytes.data(), bytes.size()) == 0;
}

}  // namespace

Owner &Owner::Of(const char *transports) {
    // Kept to the end: its event loop has a thread, which static destructors must not meet.
    static Owner *const owner = new Owner(transports);
    return *owner;
}

Owner::Owner(const char *transports) {
    DEMAND(setenv("LLM_DATADIST_MOCK_TRANSPORT", transports, 1) == 0);
    DEMAND(setenv("LLM_DATADIST_MOCK_THREADS", "1", 1) == 0);
    loop_ = EventLoop::Acquire();
    void *const memory = mmap(Pointer(kMemory), kEnd - kMemory, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    DEMAND(memory == Pointer(kMemory));
    DEMAND(munmap(Pointer(kHoles + kPart / 2), kPart / 2) == 0);
    DEMAND(ThisRuntime().OpenDevice({}, &device_).ok());
    DEMAND(device_->Register(kOpen, kPart, Placement::kHost).ok());
    DEMAND(device_->Register(kWithdrawn, kPart, Placement::kHost).ok());
    DEMAND(device_->Register(kHoles, kPart, Placement::kHost).ok());
    DEMAND(device_->Unregister(kWithdrawn, kPart, Deadline::InMs(5000)).ok());
    const std::string &secret = SecretPart();
    std::memcpy(Pointer(kSecret), secret.data(), kPart);
    std::memcpy(Pointer(kOtherSecret), secret.data(), kPart);
    std::memcpy(Pointer(kWithdrawn), secret.data(), kPart);
    Restore();
}

void Owner::Restore() {
    std::memset(Pointer(kOpen), 'o', kPart);
    std::memset(Pointer(kHoles), 'h', kPart / 2);
    incoming.clear();
    ends_.clear();
    fences_answered = false;
    broken = false;
}

void Owner::DemandUntouched() {
    const std::string &secret = SecretPart();
    DEMAND(Holds(kSecret, secret));
    DEMAND(Holds(kWithdrawn, secret));
    DEMAND(Holds(kOtherSecret, secret));
}

std::unique_ptr<Connection> Owner::Connect(LinkEnd end, const LinkNonce &nonce,
                                           const std::string &endpoint) {
    ConnectionSetup setup;
    setup.end = end;
    setup.nonce = nonce;
    setup.peer = 7;
    setup.peer_endpoint = endpoint;
    setup.streams = this;
    std::unique_ptr<Connection> connection;
    const Deadline deadline = Deadline::InMs(5000);
    if (end == LinkEnd::kInitiator) {
        static_cast<void>(device_->Connect(setup, deadline, &connection));
    } else {
        loop_->RunAndWait(
            [&] { static_cast<void>(device_->Connect(setup, deadline, &connection)); });
    }
    return connection;
}

std::string Owner::Endpoint(const LinkNonce &nonce) {
    std::string endpoint;
    DEMAND(device_->Endpoint(nonce, &endpoint).ok());
    return endpoint;
}

void Owner::LetLoopRun() {
    for (int i = 0; i < kTurns; ++i) loop_->RunAndWait([] {});
}

// Each stream has the next piece of what comes in, and then ends.
Status Owner::OpenStream(const Deadline &, Fd *stream) {
    if (incoming.empty()) return Failure(LLDD_FAILED, "no more streams");
    Fd own;
    SocketPair(SOCK_STREAM, stream, &own);
    const std::string bytes = std::move(incoming.front());
    incoming.erase(incoming.begin());
    SendSome(own.get(), bytes);
    DEMAND(shutdown(own.get(), SHUT_WR) == 0);
    ends_.push_back(std::move(own));
    return Status::Ok();
}

Status Owner::Ask(std::string_view, const Deadline &) {
    return fences_answered ? Status::Ok() : Failure(LLDD_FAILED, "closed");
}

void SocketPair(int type, Fd *one, Fd *other) {
    int fds[2];
    DEMAND(socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    *one = Fd(fds[0]);
    *other = Fd(fds[1]);
}

size_t SendSome(int socket, std::string_view bytes) {
    const ssize_t sent = send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent < 0 ? 0 : static_cast<size_t>(sent);
}

std::string ReceiveSome(int socket) {
    std::string all;
    char bytes[16384];
    for (;;) {
        const ssize_t size = recv(socket, bytes, sizeof bytes, MSG_DONTWAIT);
        if (size < 0 && errno == EINTR) continue;
        if (size <= 0) return all;
        all.append(bytes, static_cast<size_t>(size));
    }
}

}  // namespace lldd::fuzz
