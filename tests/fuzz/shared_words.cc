// The page and the region table that a peer shares with this process: an input is a list of words
// that the peer writes there, and of calls that this end makes in between.
//
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>

#include "mock_runtime/host_memory.h"
#include "mock_runtime/link_page.h"
#include "mock_runtime/passages.h"
#include "mock_runtime/region_table.h"
#include "owner.h"
#include "target.h"

namespace lldd::fuzz {
namespace {

constexpr size_t kMostSteps = 32;

// The peer's own mapping of what it shares.
class Shared {
public:
    explicit Shared(uint64_t size) : size_(size) {
        fd_ = Fd(memfd_create("peers", MFD_CLOEXEC | MFD_ALLOW_SEALING));
        DEMAND(ftruncate(fd_.get(), static_cast<off_t>(size)) == 0);
        DEMAND(fcntl(fd_.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW) == 0);
        words_ = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
        DEMAND(words_ != MAP_FAILED);
    }
    ~Shared() { munmap(words_, size_); }
    Shared(const Shared &) = delete;
    Shared &operator=(const Shared &) = delete;

    Fd Give() const { return Fd(fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0)); }
    void Write(size_t word, uint32_t value) const {
        static_cast<std::atomic<uint32_t> *>(words_)[word % (size_ / 4)].store(value);
    }

private:
    const uint64_t size_;
    Fd fd_;
    void *words_;
};

uint32_t WordOf(Input *in) {
    constexpr uint32_t kWords[] = {0, 1, 2, 3, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF};
    return kWords[in->Byte() % 8];
}

// Words of either side of the page: alive, passage, waiters.
size_t PlaceOf(Input *in) {
    const uint8_t byte = in->Byte();
    return (byte % 2) * (sizeof(mock::LinkSide) / 4) + byte / 2 % 4;
}

// What an owner of memory does while the peer writes whatever it likes: nothing outside the page
// changes, and no wait is longer than its deadline.
void Step(Input *in, mock::PeerPassage *passage, const Shared &page) {
    const Deadline deadline = Deadline::InMs(in->Byte() % 8 == 0 ? 1 : 0);
    switch (in->Byte() % 6) {
        case 0: page.Write(PlaceOf(in), WordOf(in)); break;
        case 1: static_cast<void>(passage->WaitUntilLeft(deadline)); break;
        case 2: passage->PeerGone(); break;
        case 3: static_cast<void>(mock::IsInside(passage->own_side())); break;
        case 4:
            mock::Enter(passage->peer_side());
            mock::Leave(passage->peer_side());
            break;
        default: page.Write(in->Below(1024), WordOf(in));
    }
}

void Run(std::string_view input) {
    static const Shared page(mock::PageSize());
    static const Shared table(uint64_t{mock::kMostRegions} * sizeof(uint32_t));
    Input in(input);
    for (size_t word = 0; word < 1024; ++word) page.Write(word, 0);
    mock::LinkPage mapped;
    DEMAND(mock::LinkPage::Map(page.Give(), &mapped).ok());
    mock::PeerRegionTable regions;
    DEMAND(mock::PeerRegionTable::Map(table.Give(), &regions).ok());
    mock::PeerPassage passage(in.Byte() % 2 == 0 ? LinkEnd::kAcceptor : LinkEnd::kInitiator, 7, 0);
    passage.Open(std::move(mapped));
    const auto began = Deadline::Clock::now();
    for (size_t i = 0; i < kMostSteps && !in.empty(); ++i) {
        Step(&in, &passage, page);
        const uint32_t slot = in.Byte();
        const uint32_t generation = WordOf(&in);
        table.Write(slot, generation);
        DEMAND(regions.IsLive({slot, generation}));
        DEMAND(!regions.IsLive({slot, generation + 1}));
    }
    DEMAND(Deadline::Clock::now() - began < std::chrono::seconds(5));
}

std::vector<std::string> Seeds() {
    return {std::string("\0\1\0\2\1\3\1", 7), std::string("\1\1\4\0\0\1\2\1\1\1\3\0", 12),
            std::string("\0\0\0\3\1\0\0\0\1\2\2\1\1\1\2\0", 16)};
}

const Registration kRegistered({"shared_words", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
