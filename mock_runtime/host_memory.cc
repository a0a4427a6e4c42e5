// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/host_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <vector>

#include "base/address.h"

// New in Linux 5.14; older C libraries do not name it.
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace lldd::mock {
namespace {

struct CloseFile {
    void operator()(std::FILE *file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

}  // namespace

uint64_t PageSize() {
    static const uint64_t size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    return size;
}

PageRange RoundOutward(uint64_t addr, uint64_t size) {
    const uint64_t mask = PageSize() - 1;
    const uint64_t start = addr & ~mask;
    const uint64_t last = (addr + (size - 1)) | mask;  // size > 0, no wrap-around: checked before
    return {start, last - start + 1};
}

PageRange RoundInward(uint64_t addr, uint64_t size) {
    const uint64_t mask = PageSize() - 1;
    const uint64_t start = (addr + mask) & ~mask;
    const uint64_t end = (addr + size) & ~mask;
    if (start < addr || end <= start) return {};
    return {start, end - start};
}

bool IsMapped(uint64_t addr, uint64_t size, bool writable) {
    const File file(std::fopen("/proc/self/maps", "re"));
    if (file == nullptr) return false;
    const uint64_t last = addr + (size - 1);
    uint64_t next = addr;  // the first byte not yet known to be mapped
    char line[8192];
    while (std::fgets(line, sizeof line, file.get()) != nullptr) {
        uint64_t start = 0;
        uint64_t end = 0;
        char access[5] = "";
        if (std::sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &start, &end, access) != 3) continue;
        if (end <= next) continue;
        if (start > next || access[0] != 'r' || (writable && access[1] != 'w')) return false;
        if (end - 1 >= last) return true;
        next = end;
    }
    return false;
}

Populated PopulateForWriting(PageRange range) {
    // In pieces, so that a fatal signal or an ill-sized request is noticed between them.
    constexpr uint64_t kPiece = 64U << 20;
    for (uint64_t done = 0; done < range.size;) {
        const uint64_t size = std::min(kPiece, range.size - done);
        if (madvise(Pointer(range.addr + done), size, MADV_POPULATE_WRITE) == 0) {
            done += size;
        } else if (errno == EINVAL || errno == ENOSYS) {
            return Populated::kUnknown;
        } else if (errno != EINTR && errno != EAGAIN) {
            return Populated::kNotUsable;
        }
    }
    return Populated::kYes;
}

bool CountAbsent(PageRange range, uint64_t enough, uint64_t *bytes) {
    constexpr uint64_t kPagesPerCall = 16384;
    std::vector<unsigned char> present(
        static_cast<size_t>(std::min(kPagesPerCall, range.size / PageSize())));
    uint64_t absent = 0;
    for (uint64_t done = 0; done < range.size && absent <= enough;) {
        const uint64_t size = std::min(kPagesPerCall * PageSize(), range.size - done);
        if (mincore(Pointer(range.addr + done), size, present.data()) != 0) {
            if (errno == EAGAIN) continue;
            return false;
        }
        const auto pages = static_cast<ptrdiff_t>(size / PageSize());
        absent += PageSize() * static_cast<uint64_t>(std::count_if(
                                   present.begin(), present.begin() + pages,
                                   [](unsigned char page) { return (page & 1) == 0; }));
        done += size;
    }
    *bytes = absent;
    return true;
}

}  // namespace lldd::mock
