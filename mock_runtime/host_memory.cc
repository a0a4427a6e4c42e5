// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/host_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

// Of Linux 5.14; older C libraries do not name it.
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace lldd::mock {
namespace {

struct CloseFile {
    void operator()(std::FILE *file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

uint64_t MemAvailable() {
    const File file(std::fopen("/proc/meminfo", "re"));
    char line[256];
    while (file != nullptr && std::fgets(line, sizeof line, file.get()) != nullptr) {
        uint64_t kib = 0;
        if (std::sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1) return kib * 1024;
    }
    // Without /proc: what the C library knows is too low rather than too high.
    return static_cast<uint64_t>(std::max(sysconf(_SC_AVPHYS_PAGES), 0L)) * PageSize();
}

// A number in a file; "max" and missing files are no limit.
uint64_t ReadLimit(const std::string &path) {
    const File file(std::fopen(path.c_str(), "re"));
    uint64_t value = 0;
    if (file == nullptr || std::fscanf(file.get(), "%" SCNu64, &value) != 1) return kUnlimited;
    return value;
}

uint64_t ControlGroupAvailable() {
    const File file(std::fopen("/proc/self/cgroup", "re"));
    char line[4096];
    while (file != nullptr && std::fgets(line, sizeof line, file.get()) != nullptr) {
        if (std::strncmp(line, "0::", 3) != 0) continue;
        line[std::strcspn(line, "\n")] = '\0';
        const std::string folder = std::string("/sys/fs/cgroup") + (line + 3);
        const uint64_t limit = ReadLimit(folder + "/memory.max");
        const uint64_t used = ReadLimit(folder + "/memory.current");
        if (limit == kUnlimited || used == kUnlimited) return kUnlimited;
        return limit > used ? limit - used : 0;
    }
    return kUnlimited;
}

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

uint64_t AvailableMemory() { return std::min(MemAvailable(), ControlGroupAvailable()); }

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
        if (madvise(reinterpret_cast<void *>(range.addr + done), size, MADV_POPULATE_WRITE) == 0) {
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
        if (mincore(reinterpret_cast<void *>(range.addr + done), size, present.data()) != 0) {
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
