// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/link_page.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>

#include "mock_runtime/host_memory.h"

namespace lldd::mock {
namespace {

static_assert(std::atomic<uint32_t>::is_always_lock_free, "the words are shared between processes");
static_assert(2 * sizeof(LinkSide) <= 4096, "both sides fit into the smallest page");

// Changes the word when the peer is gone, so that a wait that is just beginning does not sleep.
constexpr uint32_t kStopWaiting = 0x80000000;
// Nobody wakes a thread when another process ends: it looks this often.
constexpr std::chrono::milliseconds kProcessEnds{5};

void Wake(std::atomic<uint32_t> &word) {
    syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void SleepWhile(std::atomic<uint32_t> &word, uint32_t value, const Deadline &deadline) {
    const int ms = deadline.NextLookMs();
    const timespec time{ms / 1000, static_cast<long>(ms % 1000) * 1000000};
    syscall(SYS_futex, &word, FUTEX_WAIT, value, &time, nullptr, 0);
}

Deadline SoonerOf(const Deadline &deadline, std::chrono::milliseconds time) {
    return Deadline::At(std::min(deadline.when(), Deadline::Clock::now() + time));
}

}  // namespace

uint64_t LinkPage::Size() { return PageSize(); }

Status LinkPage::Create(LinkPage *page) {
    return SharedMemory::Create("lldd-link", Size(), SharedMemory::Writers::kAll, &page->memory_);
}

Status LinkPage::Map(Fd fd, LinkPage *page) {
    return SharedMemory::Map(std::move(fd), Size(), true, &page->memory_);
}

void Leave(LinkSide &side) {
    side.passage.fetch_add(1, std::memory_order_seq_cst);
    if (side.waiters.load(std::memory_order_seq_cst) != 0) Wake(side.passage);
}

bool IsInside(const LinkSide &side) {
    return (side.passage.load(std::memory_order_seq_cst) & 1) != 0;
}

bool WaitForPassage(LinkSide &side, const std::atomic<bool> &peer_gone, const PeerProcess &process,
                    const Deadline &deadline) {
    const uint32_t seen = side.passage.load(std::memory_order_seq_cst);
    if ((seen & 1) == 0) return true;
    side.waiters.fetch_add(1, std::memory_order_seq_cst);
    bool over = false;
    CallerWatch watch;
    for (;;) {
        const uint32_t now = side.passage.load(std::memory_order_seq_cst);
        const bool gone = peer_gone.load();
        over = ((now ^ seen) & ~kStopWaiting) != 0 || (gone && process.HasEnded());
        if (over || deadline.passed()) break;
        SleepWhile(side.passage, now, gone ? SoonerOf(deadline, kProcessEnds) : deadline);
        watch.Look(deadline, Deadline::Clock::now());
    }
    side.waiters.fetch_sub(1, std::memory_order_seq_cst);
    return over;
}

void StopWaiting(LinkSide &side) {
    side.passage.fetch_or(kStopWaiting, std::memory_order_seq_cst);
    Wake(side.passage);
}

}  // namespace lldd::mock
