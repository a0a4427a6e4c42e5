// Memory that two processes see: a sealed memfd and a mapping of it.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <utility>

#include "base/address.h"
#include "base/fd.h"
#include "base/status.h"

namespace lldd::mock {

class SharedMemory {
public:
    SharedMemory() = default;
    ~SharedMemory() { Unmap(); }
    SharedMemory(SharedMemory &&other) noexcept
        : fd_(std::move(other.fd_)),
          addr_(std::exchange(other.addr_, nullptr)),
          size_(std::exchange(other.size_, 0)) {}
    SharedMemory &operator=(SharedMemory &&other) noexcept;
    SharedMemory(const SharedMemory &) = delete;
    SharedMemory &operator=(const SharedMemory &) = delete;

    enum class Writers { kAll, kCreatorOnly };

    // New zero pages, nothing of them present yet; size is a multiple of the page size. The size
    // is sealed; with kCreatorOnly no later mapping can write where the kernel knows that seal.
    // Neither the mapping nor the descriptor reaches forked children. LLDD_OUT_OF_MEMORY;
    // LLDD_FAILED: no descriptor is left.
    static Status Create(const char *name, uint64_t size, Writers writers, SharedMemory *memory);

    // Maps what a peer sent. Refuses what could kill this process when it is touched (a size that
    // is not sealed, huge pages) and what has not exactly that size. The descriptor is closed. LLDD_FAILED.
    static Status Map(Fd fd, uint64_t size, bool writable, SharedMemory *memory);

    char *data() const { return static_cast<char *>(addr_); }
    uint64_t address() const { return Address(addr_); }
    uint64_t size() const { return size_; }
    int fd() const { return fd_.get(); }
    // The mapping stays; it can no longer be passed to another process.
    void CloseDescriptor() { fd_.Close(); }
    explicit operator bool() const { return addr_ != nullptr; }

private:
    void Unmap();

    Fd fd_;
    void *addr_ = nullptr;
    uint64_t size_ = 0;
};

}  // namespace lldd::mock
