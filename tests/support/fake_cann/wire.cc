// SPDX-License-Identifier: Apache-2.0
#include "wire.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <utility>

namespace fake_cann {
namespace {

struct OpenSockets {
    std::mutex mutex;
    std::set<int> fds;

    static OpenSockets &Get() {
        static OpenSockets *const all = [] {
            auto *made = new OpenSockets;
            pthread_atfork([] { Get().mutex.lock(); }, [] { Get().mutex.unlock(); },
                           [] {
                               for (const int fd : Get().fds) close(fd);
                               Get().fds.clear();
                               Get().mutex.unlock();
                           });
            return made;
        }();
        return *all;
    }
};

Sent WaitFor(int fd, short events, Clock::time_point until) {
    for (;;) {
        int ms = -1;
        if (until != kForEver) {
            const auto left = until - Clock::now();
            if (left <= Clock::duration::zero()) return Sent::kLate;
            ms = static_cast<int>(
                     std::chrono::duration_cast<std::chrono::milliseconds>(left).count()) +
                 1;
        }
        pollfd wanted{fd, events, 0};
        const int ready = poll(&wanted, 1, ms);
        if (ready > 0) return Sent::kDone;
        if (ready < 0 && errno != EINTR) return Sent::kBroken;
    }
}

addrinfo *Resolve(const Name &name) {
    addrinfo hints{};
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo *found = nullptr;
    const int failed =
        getaddrinfo(name.ip.c_str(), std::to_string(name.port).c_str(), &hints, &found);
    return failed != 0 ? nullptr : found;
}

}  // namespace

Socket::Socket(int fd) : fd_(fd) {
    if (fd < 0) return;
    OpenSockets &all = OpenSockets::Get();
    std::lock_guard<std::mutex> lock(all.mutex);
    all.fds.insert(fd);
}

Socket::Socket(Socket &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

Socket &Socket::operator=(Socket &&other) noexcept {
    if (this == &other) return *this;
    Close();
    fd_ = std::exchange(other.fd_, -1);
    return *this;
}

void Socket::Close() {
    if (fd_ < 0) return;
    OpenSockets &all = OpenSockets::Get();
    std::lock_guard<std::mutex> lock(all.mutex);
    if (all.fds.erase(fd_) != 0) close(fd_);
    fd_ = -1;
}

void Socket::Interrupt() const {
    if (fd_ >= 0) shutdown(fd_, SHUT_RDWR);
}

void Socket::SetNoDelay() const {
    const int on = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

Sent Send(const Socket &socket, const void *data, size_t size, Clock::time_point until) {
    const char *next = static_cast<const char *>(data);
    while (size > 0) {
        const ssize_t sent = send(socket.get(), next, size, MSG_NOSIGNAL);
        if (sent > 0) {
            next += sent;
            size -= static_cast<size_t>(sent);
        } else if (errno == EAGAIN) {
            const Sent ready = WaitFor(socket.get(), POLLOUT, until);
            if (ready != Sent::kDone) return ready;
        } else if (errno != EINTR) {
            return Sent::kBroken;
        }
    }
    return Sent::kDone;
}

Sent Receive(const Socket &socket, void *data, size_t size, Clock::time_point until) {
    char *next = static_cast<char *>(data);
    while (size > 0) {
        const ssize_t got = recv(socket.get(), next, size, 0);
        if (got > 0) {
            next += got;
            size -= static_cast<size_t>(got);
        } else if (got == 0) {
            return Sent::kBroken;
        } else if (errno == EAGAIN) {
            const Sent ready = WaitFor(socket.get(), POLLIN, until);
            if (ready != Sent::kDone) return ready;
        } else if (errno != EINTR) {
            return Sent::kBroken;
        }
    }
    return Sent::kDone;
}

bool Name::Parse(const std::string &text, Name *name) {
    std::string port;
    if (!text.empty() && text[0] == '[') {
        const size_t end = text.find(']');
        if (end == std::string::npos) return false;
        name->ip = text.substr(1, end - 1);
        if (end + 1 < text.size() && text[end + 1] != ':') return false;
        if (end + 1 < text.size()) port = text.substr(end + 2);
    } else {
        const size_t colon = text.find(':');
        name->ip = text.substr(0, colon);
        if (colon != std::string::npos) port = text.substr(colon + 1);
    }
    name->port = 0;
    for (const char digit : port) {
        if (digit < '0' || digit > '9') return false;
        name->port = std::min(name->port * 10 + (digit - '0'), 65536);
    }
    if (name->port > 65535) return false;
    addrinfo *found = Resolve(*name);
    if (found == nullptr) return false;
    freeaddrinfo(found);
    return true;
}

Socket Name::Listen() const {
    addrinfo *found = Resolve(*this);
    if (found == nullptr) return Socket();
    Socket made(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int on = 1;
    setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    const bool bound =
        bind(made.get(), found->ai_addr, found->ai_addrlen) == 0 && listen(made.get(), 512) == 0;
    freeaddrinfo(found);
    if (!bound) made.Close();
    return made;
}

Sent Name::Dial(Clock::time_point until, Socket *dialled) const {
    addrinfo *found = Resolve(*this);
    if (found == nullptr) return Sent::kBroken;
    Socket made(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int failed = connect(made.get(), found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    if (failed != 0 && errno != EINPROGRESS) return Sent::kBroken;
    const Sent ready = WaitFor(made.get(), POLLOUT, until);
    if (ready != Sent::kDone) return ready;
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(made.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return Sent::kBroken;
    made.SetNoDelay();
    *dialled = std::move(made);
    return Sent::kDone;
}

}  // namespace fake_cann
