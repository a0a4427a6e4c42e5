// SPDX-License-Identifier: Apache-2.0
#include "base/box.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/fd.h"
#include "base/older_libc.h"

namespace lldd {
namespace {

using box::Header;
using box::Record;
using box::Text;

constexpr uint64_t kDefaultCalls = 4096;
constexpr uint64_t kFewestCalls = 16;
constexpr uint64_t kMostCalls = 1U << 20;
constexpr uint64_t kEventSlots = 4096;
constexpr uint64_t kTextSlots = 1024;
constexpr uint64_t kMostParts = 1000;
// A slot that a call has been writing since a whole turn of the ring is passed over; so many in a row
// mean that there are as many calls under way as slots.
constexpr int kMostTries = 64;

int64_t Clock(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

std::string ReadSmall(const char *path) {
    const Fd fd(open(path, O_RDONLY | O_CLOEXEC));
    std::array<char, 1024> bytes;
    const ssize_t size = fd ? read(fd.get(), bytes.data(), bytes.size()) : -1;
    return size <= 0 ? "" : std::string(bytes.data(), static_cast<size_t>(size));
}

// The 16 bytes of a UUID; zeros if it cannot be read.
void ReadBootId(uint64_t (&id)[2]) {
    id[0] = id[1] = 0;
    size_t digits = 0;
    for (const char each : ReadSmall("/proc/sys/kernel/random/boot_id")) {
        const char *const place = std::strchr("0123456789abcdef", each);
        if (each == '\0' || place == nullptr || digits == 32) continue;
        uint64_t &half = id[digits++ / 16];
        half = half << 4 | static_cast<uint64_t>(*place <= '9' ? *place - '0' : *place - 'a' + 10);
    }
}

uint64_t StartOfThisProcess() {
    const std::string stat = ReadSmall("/proc/self/stat");
    // The second field is a name in parentheses, in which anything may be.
    size_t at = stat.rfind(')');
    for (int field = 2; field < 22 && at != std::string::npos; ++field) at = stat.find(' ', at + 1);
    return at == std::string::npos ? 0 : std::strtoull(stat.c_str() + at, nullptr, 10);
}

Status ReadCalls(uint64_t *calls) {
    *calls = kDefaultCalls;
    const char *const text = std::getenv(kBoxCallsVariable);
    if (text == nullptr || text[0] == '\0') return Status::Ok();
    char *end = nullptr;
    const uint64_t number = std::strtoull(text, &end, 10);
    if (*end != '\0' || text[0] == '-' || number < kFewestCalls || number > kMostCalls) {
        return Failure(LLDD_PARAM_INVALID, "%s is \"%s\", allowed is %llu..%llu", kBoxCallsVariable,
                       text, Printable(kFewestCalls), Printable(kMostCalls));
    }
    *calls = kFewestCalls;
    while (*calls < number) *calls *= 2;
    return Status::Ok();
}

// How large a file with these rings is.
size_t Place(Header *header, const std::array<uint64_t, box::kRings> &slots) {
    uint64_t offset = box::kHeaderBytes;
    for (uint32_t ring = 0; ring < box::kRings; ++ring) {
        header->rings[ring].offset = offset;
        header->rings[ring].slots = slots[ring];
        offset += slots[ring] * box::kSlotBytes;
    }
    return offset;
}

// What is stored afterwards is not seen before what was stored until now.
void FenceStores() {
#ifndef __SANITIZE_THREAD__  // which does not know fences
    std::atomic_thread_fence(std::memory_order_release);
#endif
}

// Of memory that may be written meanwhile: the caller finds out.
__attribute__((no_sanitize("thread"))) void CopyAnyway(const box::Call &from, box::Call *to) {
    const auto *const source = reinterpret_cast<const uint64_t *>(&from);
    auto *const target = reinterpret_cast<uint64_t *>(to);
    for (size_t i = 0; i < box::kCallBytes / sizeof *source; ++i)
        target[i] = __atomic_load_n(source + i, __ATOMIC_RELAXED);
}

Status Fault(const std::string &folder, const char *what, int error) {
    return ErrnoFailure(LLDD_PARAM_INVALID, error, "%s: %s in the folder \"%s\"", kBoxVariable,
                        what, folder.c_str());
}

}  // namespace

int64_t MonotonicNs() { return Clock(CLOCK_MONOTONIC); }

Status Box::OpenFromEnvironment(uint64_t cluster_id, const std::string &runtime,
                                std::unique_ptr<Box> *box) {
    const char *const text = std::getenv(kBoxVariable);
    if (text == nullptr || text[0] == '\0') return Status::Ok();
    const std::string folder = text;
    uint64_t calls = 0;
    LLDD_RETURN_IF_ERROR(ReadCalls(&calls));
    uint64_t ids = 0;
    if (getrandom(&ids, sizeof ids, 0) != static_cast<ssize_t>(sizeof ids))
        return ErrnoFailure(LLDD_FAILED, errno, "no random numbers");
    // A W3C trace id is not 0.
    ids |= uint64_t{1} << 63;

    Header layout{};
    const size_t size = Place(&layout, {calls, calls, kEventSlots, kTextSlots});
    const std::string path = Format("%s/%llu-%d-%016llx.box", folder.c_str(), Printable(cluster_id),
                                    getpid(), Printable(ids));
    const Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) return Fault(folder, "no file can be made", errno);
    // The pages are taken now: one that is missing later would end the process.
    int error = posix_fallocate(fd.get(), 0, static_cast<off_t>(size));
    void *memory = MAP_FAILED;
    if (error == 0) {
        memory =
            mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd.get(), 0);
        error = memory == MAP_FAILED ? errno : 0;
    }
    if (error != 0) {
        unlink(path.c_str());
        return Fault(folder, Format("no file of %zu bytes can be made", size).c_str(), error);
    }
    box->reset(new Box(path, static_cast<char *>(memory), size));
    Header &header = *(*box)->header_;
    Place(&header, {calls, calls, kEventSlots, kTextSlots});
    header.format = box::kFormat;
    header.slot_bytes = box::kSlotBytes;
    header.cluster_id = cluster_id;
    header.pid = static_cast<uint32_t>(getpid());
    header.process_start = StartOfThisProcess();
    ReadBootId(header.boot_id);
    struct stat clocks{};
    if (stat("/proc/self/ns/time", &clocks) == 0) header.time_namespace = clocks.st_ino;
    header.opened_ns = MonotonicNs();
    header.opened_realtime_ns = Clock(CLOCK_REALTIME);
    header.ids = ids;
    gethostname(header.host, sizeof header.host - 1);
    std::snprintf(header.runtime, sizeof header.runtime, "%s", runtime.c_str());
    // Last: a file without it is none.
    std::atomic_signal_fence(std::memory_order_release);
    std::memcpy(header.magic, box::kMagic, sizeof header.magic);
    return Status::Ok();
}

Box::Box(std::string path, char *memory, size_t size)
    : path_(std::move(path)),
      memory_(memory),
      size_(size),
      header_(reinterpret_cast<Header *>(memory)) {
    // A forked child has no engine that could write there.
    (void)madvise(memory_, size_, MADV_DONTFORK);
}

Box::~Box() { munmap(memory_, size_); }

void Box::Close() { header_->closed_ns.store(MonotonicNs(), std::memory_order_release); }

Box::Slot Box::Read(box::Ring ring, uint64_t ticket, box::Call *call) const {
    const box::RingHead &head = header_->rings[ring];
    const Record &record =
        reinterpret_cast<const Record *>(memory_ + head.offset)[ticket & (head.slots - 1)];
    const uint64_t state = record.state.load(std::memory_order_acquire);
    // Its ticket was given, and its state may not be set yet.
    if (state <= 2 * ticket)
        return ticket + head.slots > Begun(ring) ? Slot::kUnderWay : Slot::kLost;
    if (state == 2 * ticket + 1) return Slot::kUnderWay;
    if (state != 2 * ticket + 2) return Slot::kLost;
    CopyAnyway(record.call, call);
    // What was copied is read before the state is read again.
    std::atomic_signal_fence(std::memory_order_acq_rel);
    return record.state.load(std::memory_order_acquire) == state ? Slot::kWhole : Slot::kLost;
}

template <typename Slot>
Slot *Box::Claim(box::Ring ring) {
    box::RingHead &head = header_->rings[ring];
    Slot *const slots = reinterpret_cast<Slot *>(memory_ + head.offset);
    for (int tries = 0; tries < kMostTries; ++tries) {
        const uint64_t ticket = head.next.fetch_add(1, std::memory_order_relaxed);
        Slot &slot = slots[ticket & (head.slots - 1)];
        uint64_t state = slot.state.load(std::memory_order_relaxed);
        const bool free = (state & 1) == 0 && state <= 2 * ticket;
        // The fields must not be written before those who read the slot can see that they are.
        if (free &&
            slot.state.compare_exchange_strong(state, 2 * ticket + 1, std::memory_order_acq_rel)) {
            FenceStores();
            return &slot;
        }
        head.skipped.fetch_add(1, std::memory_order_relaxed);
    }
    head.lost.fetch_add(1, std::memory_order_relaxed);
    return nullptr;
}

Record *Box::Begin(box::Ring ring) { return Claim<Record>(ring); }

uint64_t Box::NumberOf(const Record &record) {
    return (record.state.load(std::memory_order_relaxed) + 1) / 2;
}

void Box::ShowBegun(Record *record) {
    record->begun.store(NumberOf(*record), std::memory_order_release);
}

void Box::Commit(Record *record) {
    const uint64_t state = record->state.load(std::memory_order_relaxed);
    record->state.store(state + 1, std::memory_order_release);
}

void Box::Tell(box::Ring ring, std::string_view text, uint64_t about) {
    constexpr size_t kPiece = sizeof Text::text;
    const int64_t now = MonotonicNs();
    const size_t parts = std::min<size_t>((text.size() + kPiece - 1) / kPiece, kMostParts);
    const MutexLock lock(mutex_);
    for (size_t part = 0; part < parts; ++part) {
        Text *const slot = Claim<Text>(ring);
        if (slot == nullptr) return;
        const std::string_view piece = text.substr(part * kPiece, kPiece);
        slot->time_ns = now;
        slot->about = about;
        slot->part = static_cast<uint32_t>(part);
        slot->parts = static_cast<uint32_t>(parts);
        slot->length = static_cast<uint32_t>(piece.size());
        std::memcpy(slot->text, piece.data(), piece.size());
        slot->state.fetch_add(1, std::memory_order_release);
    }
}

}  // namespace lldd
