// TCP sockets, IPv4 and IPv6, with deadlines.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstdint>
#include <string>

#include "base/deadline.h"
#include "base/fd.h"
#include "base/status.h"

namespace lldd {

// An IP address and a port.
class SocketAddress {
public:
    SocketAddress() = default;

    // `ip` is IPv4 or IPv6 text without brackets and zone. LLDD_PARAM_INVALID if it is neither.
    static Status Parse(const std::string &ip, uint32_t port, SocketAddress *address);
    // The own or the other end of a socket.
    static SocketAddress OfSocket(int fd);
    static SocketAddress OfPeer(int fd);

    std::string ip() const;
    uint16_t port() const;
    // "127.0.0.1:26000", "[::1]:26000".
    std::string ToString() const;

    const sockaddr *data() const { return reinterpret_cast<const sockaddr *>(&storage_); }
    socklen_t size() const { return size_; }
    int family() const { return storage_.ss_family; }
    // Equal for addresses that one host can have at will: the IPv4 address, or the first half of the
    // IPv6 one.
    uint64_t Network() const;
    // 0.0.0.0 or ::, which stands for all addresses of a host that listens and names no host.
    bool IsWildcard() const;
    bool IsLoopback() const;
    bool given() const { return size_ != 0; }

private:
    sockaddr_storage storage_{};
    socklen_t size_ = 0;
};

// The address of this host from which it reaches that one, when it dials as StartConnect does;
// nothing is sent. LLDD_FAILED: no route.
Status AddressTowards(const SocketAddress &address, const SocketAddress &from, SocketAddress *own);
// LLDD_PARAM_INVALID: `from`, if it is given, is no address of this host.
Status CheckOfThisHost(const SocketAddress &from);

// A listening, non-blocking socket. LLDD_FAILED if the address cannot be bound.
Status Listen(const SocketAddress &address, Fd *listener);

// Has the kernel end a connection whose other host has not answered for that time: an idle one is
// probed (keepalive, in whole seconds), and what was sent must be acknowledged (TCP_USER_TIMEOUT).
// 0: it does not.
void WatchPeerHost(int fd, uint32_t timeout_ms);
// TCP_USER_TIMEOUT alone; 0: none.
void SetUserTimeout(int fd, uint32_t timeout_ms);
// Whether bytes wait because the peer's host has no room for them; it says so as long as it lives.
bool PeerIsFull(int fd);
// Whether such a host has not said anything for that time, though it was asked more than once.
bool HostFellSilent(int fd, uint32_t timeout_ms);

// Begins to connect; the non-blocking socket becomes writable when it is decided, see
// ConnectResult.
//
// `from`, if it is given, is the address of this host that the connection shall have; its port does
// not count. LLDD_PARAM_INVALID: it is not one, or of the other family. A wildcard chooses nothing,
// nor does a loopback address on the way to another host, which it cannot lead to.
Status StartConnect(const SocketAddress &address, const SocketAddress &from, Fd *socket);
// LLDD_LINK_FAILED if a connect that was begun did not succeed.
Status ConnectResult(int fd, const SocketAddress &address);
// Connects within the deadline; the socket is non-blocking, without Nagle's delay. LLDD_LINK_FAILED
// or LLDD_TIMEOUT; `from` as above.
Status Connect(const SocketAddress &address, const SocketAddress &from, const Deadline &deadline,
               Fd *socket);

// Switches off Nagle's delay, so that a small request leaves at once.
void SetNoDelay(int fd);

// Sends or receives exactly `size` bytes over a non-blocking socket. LLDD_TIMEOUT; LLDD_FAILED when
// the connection is closed or broken.
Status SendAll(int fd, const void *data, size_t size, const Deadline &deadline);
Status ReceiveAll(int fd, void *data, size_t size, const Deadline &deadline);

// Waits until one of `events` (POLLIN, POLLOUT) is there. LLDD_TIMEOUT.
Status WaitFor(int fd, short events, const Deadline &deadline);

}  // namespace lldd
