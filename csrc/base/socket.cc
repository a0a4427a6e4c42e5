// SPDX-License-Identifier: Apache-2.0
#include "base/socket.h"

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace lldd {

Status SocketAddress::Parse(const std::string &ip, uint32_t port, SocketAddress *address) {
    if (port > 65535) {
        return Failure(LLDD_PARAM_INVALID, "port %u is not in [0, 65535]", port);
    }
    // inet_pton would read no further.
    if (ip.find('\0') != std::string::npos) {
        return Failure(LLDD_PARAM_INVALID, "an IP address with a null character is none");
    }
    SocketAddress parsed;
    auto *v4 = reinterpret_cast<sockaddr_in *>(&parsed.storage_);
    auto *v6 = reinterpret_cast<sockaddr_in6 *>(&parsed.storage_);
    if (inet_pton(AF_INET, ip.c_str(), &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(static_cast<uint16_t>(port));
        parsed.size_ = sizeof *v4;
    } else if (inet_pton(AF_INET6, ip.c_str(), &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(static_cast<uint16_t>(port));
        parsed.size_ = sizeof *v6;
    } else {
        return Failure(LLDD_PARAM_INVALID, "\"%s\" is not an IPv4 or IPv6 address", ip.c_str());
    }
    *address = parsed;
    return Status::Ok();
}

bool SocketAddress::IsWildcard() const {
    const std::string text = ip();
    return text == "0.0.0.0" || text == "::" || text == "::ffff:0.0.0.0";
}

uint64_t SocketAddress::Network() const {
    if (family() != AF_INET6)
        return reinterpret_cast<const sockaddr_in *>(&storage_)->sin_addr.s_addr;
    uint64_t network = 0;
    std::memcpy(&network, &reinterpret_cast<const sockaddr_in6 *>(&storage_)->sin6_addr,
                sizeof network);
    return network;
}

bool SocketAddress::IsLoopback() const {
    if (family() == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6 *>(&storage_)->sin6_addr);
    const auto *v4 = reinterpret_cast<const sockaddr_in *>(&storage_);
    return family() == AF_INET && ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

SocketAddress SocketAddress::OfSocket(int fd) {
    SocketAddress address;
    address.size_ = sizeof address.storage_;
    if (getsockname(fd, reinterpret_cast<sockaddr *>(&address.storage_), &address.size_) != 0)
        return {};
    return address;
}

SocketAddress SocketAddress::OfPeer(int fd) {
    SocketAddress address;
    address.size_ = sizeof address.storage_;
    if (getpeername(fd, reinterpret_cast<sockaddr *>(&address.storage_), &address.size_) != 0)
        return {};
    return address;
}

std::string SocketAddress::ip() const {
    char text[INET6_ADDRSTRLEN] = "";
    const void *bytes = family() == AF_INET6
                            ? static_cast<const void *>(
                                  &reinterpret_cast<const sockaddr_in6 *>(&storage_)->sin6_addr)
                            : static_cast<const void *>(
                                  &reinterpret_cast<const sockaddr_in *>(&storage_)->sin_addr);
    if (size_ == 0 || inet_ntop(family(), bytes, text, sizeof text) == nullptr) return "";
    return text;
}

uint16_t SocketAddress::port() const {
    return ntohs(family() == AF_INET6 ? reinterpret_cast<const sockaddr_in6 *>(&storage_)->sin6_port
                                      : reinterpret_cast<const sockaddr_in *>(&storage_)->sin_port);
}

std::string SocketAddress::ToString() const {
    if (size_ == 0) return "(unknown address)";
    return Format(family() == AF_INET6 ? "[%s]:%u" : "%s:%u", ip().c_str(), port());
}

namespace {

// So that the connection goes out from there.
Status BindTo(const SocketAddress &from, const SocketAddress &address, int fd) {
    if (!from.given() || from.IsWildcard()) return Status::Ok();
    const bool stays_here = address.IsLoopback() || address.IsWildcard();
    const bool same_family = from.family() == address.family();
    if (from.IsLoopback() && !(stays_here && same_family)) return Status::Ok();
    if (!same_family) {
        return Failure(LLDD_PARAM_INVALID,
                       "the local ip %s cannot reach %s: one is IPv4, the other IPv6",
                       from.ip().c_str(), address.ToString().c_str());
    }
    SocketAddress any_port;
    LLDD_RETURN_IF_ERROR(SocketAddress::Parse(from.ip(), 0, &any_port));
    const int one = 1;
    // The port is chosen when it connects: one port serves connections to several peers.
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(fd, any_port.data(), any_port.size()) == 0) return Status::Ok();
    if (errno == EADDRNOTAVAIL) {
        return ErrnoFailure(LLDD_PARAM_INVALID, errno, "the local ip %s is no address of this host",
                            from.ip().c_str());
    }
    return ErrnoFailure(LLDD_FAILED, errno, "cannot bind a socket to the local ip %s",
                        from.ip().c_str());
}

}  // namespace

Status AddressTowards(const SocketAddress &address, const SocketAddress &from, SocketAddress *own) {
    const Fd socket(::socket(address.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (socket) LLDD_RETURN_IF_ERROR(BindTo(from, address, socket.get()));
    if (!socket || connect(socket.get(), address.data(), address.size()) != 0)
        return ErrnoFailure(LLDD_FAILED, errno, "no route to %s", address.ToString().c_str());
    *own = SocketAddress::OfSocket(socket.get());
    return Status::Ok();
}

Status CheckOfThisHost(const SocketAddress &from) {
    if (!from.given()) return Status::Ok();
    const Fd socket(::socket(from.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!socket) return ErrnoFailure(LLDD_FAILED, errno, "cannot make a socket");
    return BindTo(from, from, socket.get());
}

Status Listen(const SocketAddress &address, Fd *listener) {
    Fd fd(socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) return ErrnoFailure(LLDD_FAILED, errno, "cannot make a socket");
    const int one = 1;
    // A restarted server gets its port back at once.
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (address.family() == AF_INET6)
        setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (bind(fd.get(), address.data(), address.size()) != 0 || listen(fd.get(), SOMAXCONN) != 0) {
        return ErrnoFailure(LLDD_FAILED, errno, "cannot listen on %s", address.ToString().c_str());
    }
    *listener = std::move(fd);
    return Status::Ok();
}

Status StartConnect(const SocketAddress &address, const SocketAddress &from, Fd *out) {
    Fd fd(socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) return ErrnoFailure(LLDD_FAILED, errno, "cannot make a socket");
    SetNoDelay(fd.get());
    LLDD_RETURN_IF_ERROR(BindTo(from, address, fd.get()));
    if (connect(fd.get(), address.data(), address.size()) != 0 && errno != EINPROGRESS &&
        errno != EINTR) {
        return ErrnoFailure(LLDD_LINK_FAILED, errno, "cannot connect to %s",
                            address.ToString().c_str());
    }
    *out = std::move(fd);
    return Status::Ok();
}

Status ConnectResult(int fd, const SocketAddress &address) {
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
    if (error == 0) return Status::Ok();
    return ErrnoFailure(error == ETIMEDOUT ? LLDD_TIMEOUT : LLDD_LINK_FAILED, error,
                        "cannot connect to %s", address.ToString().c_str());
}

Status Connect(const SocketAddress &address, const SocketAddress &from, const Deadline &deadline,
               Fd *out) {
    Fd fd;
    LLDD_RETURN_IF_ERROR(StartConnect(address, from, &fd));
    if (!WaitFor(fd.get(), POLLOUT, deadline).ok()) {
        return Failure(LLDD_TIMEOUT, "cannot connect to %s: no answer in time",
                       address.ToString().c_str());
    }
    LLDD_RETURN_IF_ERROR(ConnectResult(fd.get(), address));
    *out = std::move(fd);
    return Status::Ok();
}

void SetNoDelay(int fd) {
    const int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

void WatchPeerHost(int fd, uint32_t timeout_ms) {
    if (timeout_ms == 0) return;
    // The user timeout decides, also of probes that are not answered: two of them fit into it. The
    // kernel's largest interval is 32767 s.
    constexpr uint32_t kProbes = 3;
    const int seconds = static_cast<int>(std::clamp(timeout_ms / (kProbes * 1000), 1U, 32767U));
    const int probes = kProbes - 1;
    const int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof seconds);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    SetUserTimeout(fd, timeout_ms);
}

void SetUserTimeout(int fd, uint32_t timeout_ms) {
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
}

bool PeerIsFull(int fd) {
    int unacknowledged = 0;  // those that were not sent included
    int unsent = 0;
    return ioctl(fd, SIOCOUTQ, &unacknowledged) == 0 && ioctl(fd, SIOCOUTQNSD, &unsent) == 0 &&
           unsent > 0 && unsent == unacknowledged;
}

bool HostFellSilent(int fd, uint32_t timeout_ms) {
    tcp_info info{};
    socklen_t size = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 && info.tcpi_probes > 1 &&
           info.tcpi_last_ack_recv >= timeout_ms;
}

Status WaitFor(int fd, short events, const Deadline &deadline) {
    for (;;) {
        pollfd waited{fd, events, 0};
        const int count = poll(&waited, 1, deadline.NextLookMs());
        if (count > 0) return Status::Ok();
        if (count == 0) deadline.LookAtCaller();
        if (count == 0 && deadline.passed()) return Failure(LLDD_TIMEOUT, "not done in time");
        if (count < 0 && errno != EINTR)
            return ErrnoFailure(LLDD_FAILED, errno, "cannot poll a socket");
    }
}

Status SendAll(int fd, const void *data, size_t size, const Deadline &deadline) {
    const char *next = static_cast<const char *>(data);
    CallerWatch watch;
    while (size > 0) {
        const ssize_t sent = send(fd, next, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0) {
            next += sent;
            size -= static_cast<size_t>(sent);
        } else if (errno == EAGAIN) {
            watch.Look(deadline, Deadline::Clock::now());
            LLDD_RETURN_IF_ERROR(WaitFor(fd, POLLOUT, deadline));
        } else if (errno != EINTR) {
            return ErrnoFailure(LLDD_FAILED, errno, "connection closed");
        }
    }
    return Status::Ok();
}

Status ReceiveAll(int fd, void *data, size_t size, const Deadline &deadline) {
    char *next = static_cast<char *>(data);
    CallerWatch watch;
    while (size > 0) {
        const ssize_t received = recv(fd, next, size, MSG_DONTWAIT);
        if (received > 0) {
            next += received;
            size -= static_cast<size_t>(received);
        } else if (received == 0) {
            return Failure(LLDD_FAILED, "connection closed");
        } else if (errno == EAGAIN) {
            watch.Look(deadline, Deadline::Clock::now());
            LLDD_RETURN_IF_ERROR(WaitFor(fd, POLLIN, deadline));
        } else if (errno != EINTR) {
            return ErrnoFailure(LLDD_FAILED, errno, "connection closed");
        }
    }
    return Status::Ok();
}

}  // namespace lldd
