// Members of a communicator that meet at a rendezvous: one holds it, another comes through a relay
// that changes what the two say (relay.h; an input is a list of changes). Whatever was said, the
// next member that comes is introduced.
//
// SPDX-License-Identifier: Apache-2.0
#include "engine/rendezvous.h"

#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>

#include "base/event_loop.h"
#include "base/io_thread.h"
#include "relay.h"
#include "target.h"

namespace lldd::fuzz {
namespace {

constexpr size_t kMostChanges = 8;
constexpr uint32_t kPeerTimeoutMs = 15000;
constexpr uint64_t kHolder = 1;
constexpr uint64_t kVisitor = 2;
constexpr uint64_t kNext = 3;

// The cards that one member has received.
class Cards {
public:
    void Add(uint64_t id) {
        const std::lock_guard<std::mutex> lock(mutex_);
        ids_.insert(id);
        changed_.notify_all();
    }
    bool Has(uint64_t id) const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return ids_.count(id) != 0;
    }
    bool WaitFor(uint64_t id) {
        std::unique_lock<std::mutex> lock(mutex_);
        return changed_.wait_for(lock, std::chrono::seconds(20),
                                 [&] { return ids_.count(id) != 0; });
    }

private:
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::set<uint64_t> ids_;
};

MeetingCard CardOf(uint64_t id) {
    MeetingCard card;
    card.cluster_id = id;
    card.name = "name";
    card.group = "group";
    card.rank_table = "{}";
    card.ip = "127.0.0.1";
    card.port = 4711;
    return card;
}

SocketAddress AddressOf(uint32_t port) {
    SocketAddress address;
    DEMAND(SocketAddress::Parse("127.0.0.1", port, &address).ok());
    return address;
}

uint32_t FreePort() {
    Fd listener;
    DEMAND(Listen(AddressOf(0), &listener).ok());
    return SocketAddress::OfSocket(listener.get()).port();
}

// An engine's end of a rendezvous, in one meeting at a time.
class Member {
public:
    Member(std::shared_ptr<EventLoop> loop, uint32_t port)
        : loop_(std::move(loop)),
          rendezvous_(loop_.get(), AddressOf(port), {}, "", kPeerTimeoutMs) {}
    ~Member() { Leave(); }

    void Attend(bool holds, uint64_t id, const std::function<void(const MeetingCard &)> &on_card) {
        const std::vector<uint64_t> others{kHolder, kVisitor, kNext};
        loop_->RunAndWait([&] {
            DEMAND(rendezvous_.Attend(holds, CardOf(id), others, on_card, &meeting_).ok());
        });
    }
    void Leave() {
        loop_->RunAndWait([&] { meeting_.reset(); });
    }

private:
    const std::shared_ptr<EventLoop> loop_;
    Rendezvous rendezvous_;
    std::unique_ptr<Meeting> meeting_;
};

void Run(std::string_view input) {
    static Relay *const relay = new Relay;
    static const auto loop = EventLoop::Acquire();
    static const uint32_t port = FreePort();
    static Member *const holder = new Member(loop, port);
    static Member *const next = new Member(loop, port);
    Input in(input);
    std::vector<Change> changes;
    while (!in.empty() && changes.size() < kMostChanges) changes.push_back(Change::From(&in));

    Cards holders;
    holder->Attend(true, kHolder, [&](const MeetingCard &card) {
        holders.Add(card.cluster_id);
        if (card.cluster_id == kVisitor) relay->Finish();
    });
    {
        Member visitor(loop, relay->port());
        visitor.Attend(false, kVisitor, [](const MeetingCard &card) {
            DEMAND(card.name.size() + card.rank_table.size() <= kMaxMeetingCard);
        });
        relay->Run(AddressOf(port), std::move(changes), {}, true);
    }
    Cards nexts;
    next->Attend(false, kNext, [&](const MeetingCard &card) { nexts.Add(card.cluster_id); });
    DEMAND(holders.WaitFor(kNext));
    DEMAND(nexts.WaitFor(kHolder));
    next->Leave();
    holder->Leave();
}

std::vector<std::string> Seeds() {
    using How = Change::How;
    return {"",
            ChangeTo(0, 0, How::kFlip, 20, 1),
            ChangeTo(0, 0, How::kNumber, 12, 14),
            ChangeTo(0, 0, How::kTwice, 0, 0),
            ChangeTo(0, 0, How::kCut, 40, 0) + ChangeTo(0, 0x80, How::kTear, 9, 0),
            ChangeTo(0, 0, How::kInsert, 9, 1, "card") + ChangeTo(0, 0, How::kReplay, 0, 0)};
}

const Registration kRegistered({"rendezvous", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
