// A file descriptor with an owner.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <utility>

#include "base/fork.h"

namespace lldd {

class Fd {
public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {
        if (fd_ >= 0) RememberDescriptor(fd_);
    }
    ~Fd() { Close(); }
    Fd(Fd &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd &operator=(Fd &&other) noexcept {
        if (this != &other) {
            Close();
            fd_ = std::exchange(other.fd_, -1);
        }
        return *this;
    }
    Fd(const Fd &) = delete;
    Fd &operator=(const Fd &) = delete;

    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }

    void Close() {
        const int fd = std::exchange(fd_, -1);
        if (fd >= 0) CloseDescriptor(fd);
    }

private:
    int fd_ = -1;
};

}  // namespace lldd
