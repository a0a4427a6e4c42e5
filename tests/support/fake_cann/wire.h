// Sockets of the fake HIXL: whole messages within a time, and what a forked child must not keep.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

namespace fake_cann {

using Clock = std::chrono::steady_clock;

// A socket that a forked child loses at once, as it loses a device's connections.
class Socket {
public:
    Socket() = default;
    explicit Socket(int fd);
    ~Socket() { Close(); }
    Socket(Socket &&other) noexcept;
    Socket &operator=(Socket &&other) noexcept;

    int get() const { return fd_; }
    bool open() const { return fd_ >= 0; }
    void Close();
    // Wakes whoever waits for it, on any thread.
    void Interrupt() const;
    // Small messages leave at once.
    void SetNoDelay() const;

private:
    int fd_ = -1;
};

enum class Sent { kDone, kLate, kBroken };

// Exactly `size` bytes by that time.
Sent Send(const Socket &socket, const void *data, size_t size, Clock::time_point until);
Sent Receive(const Socket &socket, void *data, size_t size, Clock::time_point until);

constexpr Clock::time_point kForEver = Clock::time_point::max();

// "ip:port", "[ip6]:port", "ip", "[ip6]": as HIXL names engines. The port is 0 where there is none.
struct Name {
    std::string ip;
    int port = 0;

    static bool Parse(const std::string &text, Name *name);
    Socket Listen() const;
    // kLate or kBroken leave it closed.
    Sent Dial(Clock::time_point until, Socket *socket) const;
};

}  // namespace fake_cann
