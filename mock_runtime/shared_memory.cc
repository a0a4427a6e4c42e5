// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <cerrno>
#include <limits>

#include "base/older_libc.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace lldd::mock {

SharedMemory &SharedMemory::operator=(SharedMemory &&other) noexcept {
    if (this != &other) {
        Unmap();
        fd_ = std::move(other.fd_);
        addr_ = std::exchange(other.addr_, nullptr);
        size_ = std::exchange(other.size_, 0);
    }
    return *this;
}

namespace {

// What fstatfs tells of a memfd of ordinary pages: TMPFS_MAGIC of <linux/magic.h>.
constexpr uint64_t kTmpfs = 0x01021994;

// Where the kernel has huge pages for shared memory on request (shmem_enabled is "advise"), a copy
// of a pool needs fewer walks of page tables. Elsewhere this changes nothing.
void PreferHugePages(void *addr, size_t size) {
    constexpr size_t kWorthIt = 8U << 20;
    if (size >= kWorthIt) static_cast<void>(madvise(addr, size, MADV_HUGEPAGE));
}

}  // namespace

void SharedMemory::Unmap() {
    if (addr_ != nullptr) munmap(addr_, size_);
    addr_ = nullptr;
}

Status SharedMemory::Create(const char *name, uint64_t size, Writers writers,
                            SharedMemory *memory) {
    SharedMemory made;
    made.fd_ = Fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!made.fd_) {
        const int error = errno;
        if (error == EPERM || error == EACCES || error == ENOSYS) {
            return ErrnoFailure(LLDD_FAILED, error,
                                "the system call memfd_create is refused (a container's seccomp "
                                "profile does that), and pools need it");
        }
        return ErrnoFailure(OutOfDescriptors(error) ? LLDD_FAILED : LLDD_OUT_OF_MEMORY, error,
                            "cannot make shared memory");
    }
    if (size > static_cast<uint64_t>(std::numeric_limits<off_t>::max()) ||
        ftruncate(made.fd_.get(), static_cast<off_t>(size)) != 0) {
        return ErrnoFailure(LLDD_OUT_OF_MEMORY, errno, "cannot reserve %llu bytes",
                            Printable(size));
    }
    void *addr =
        mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, made.fd_.get(), 0);
    if (addr == MAP_FAILED) {
        return ErrnoFailure(LLDD_OUT_OF_MEMORY, errno, "cannot reserve %llu bytes",
                            Printable(size));
    }
    made.addr_ = addr;
    made.size_ = size;
    PreferHugePages(addr, size);
    if (madvise(addr, size, MADV_DONTFORK) != 0) {
        return ErrnoFailure(LLDD_FAILED, errno, "cannot keep shared memory from children");
    }
    // Only mappings made before it may write; kernels before 5.1 do not know it.
    if (writers == Writers::kCreatorOnly &&
        fcntl(made.fd_.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE) != 0 && errno != EINVAL) {
        return ErrnoFailure(LLDD_FAILED, errno, "cannot seal shared memory");
    }
    if (fcntl(made.fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return ErrnoFailure(LLDD_FAILED, errno, "cannot seal shared memory");
    }
    *memory = std::move(made);
    return Status::Ok();
}

Status SharedMemory::Map(Fd fd, uint64_t size, bool writable, SharedMemory *memory) {
    struct stat info{};
    if (!fd || fstat(fd.get(), &info) != 0) {
        return ErrnoFailure(LLDD_FAILED, errno, "the peer sent no usable descriptor");
    }
    // Where no huge page is free, touching memory of huge pages is a SIGBUS.
    struct statfs system{};
    if (fstatfs(fd.get(), &system) != 0 || static_cast<uint64_t>(system.f_type) != kTmpfs) {
        return Failure(LLDD_FAILED, "the peer's shared memory is not of tmpfs");
    }
    const int seals = fcntl(fd.get(), F_GET_SEALS);
    constexpr int kFixedSize = F_SEAL_SHRINK | F_SEAL_GROW;
    if (seals < 0 || (seals & kFixedSize) != kFixedSize) {
        return Failure(LLDD_FAILED, "the size of the peer's shared memory is not sealed");
    }
    if (size == 0 || info.st_size < 0 || static_cast<uint64_t>(info.st_size) != size) {
        return Failure(LLDD_FAILED, "the peer's shared memory has %lld bytes instead of %llu",
                       static_cast<long long>(info.st_size), Printable(size));
    }
    SharedMemory made;
    void *addr = mmap(nullptr, size, PROT_READ | (writable ? PROT_WRITE : 0),
                      MAP_SHARED | MAP_NORESERVE, fd.get(), 0);
    if (addr == MAP_FAILED) {
        return ErrnoFailure(LLDD_FAILED, errno, "cannot map the peer's shared memory");
    }
    made.addr_ = addr;
    made.size_ = size;
    PreferHugePages(addr, size);
    if (madvise(addr, size, MADV_DONTFORK) != 0) {
        return ErrnoFailure(LLDD_FAILED, errno, "cannot keep shared memory from children");
    }
    *memory = std::move(made);
    return Status::Ok();
}

}  // namespace lldd::mock
