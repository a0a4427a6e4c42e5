// How the members of a communicator meet on one host: at one abstract socket per member, named
// after user, scope, communicator and cluster id. On several hosts: see rendezvous.h.
//
// A member listens first and then connects to all the others. Those that are there answer; those
// that come later connect to it. So each pair meets, in whatever order its members come, and no
// member polls. Either end of a connection sends one card. Everything runs on the I/O thread.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <string_view>
#include <vector>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/listener.h"
#include "base/mutex.h"
#include "base/status.h"
#include "engine/wire.h"

namespace lldd {

// What a member tells the others.
struct MeetingCard {
    // This and the next two are at the beginning of a card of every version. Of one of another
    // version there is nothing else, and its communicator fails: see Groups::OnCard.
    uint16_t version = wire::kVersion;
    uint64_t cluster_id = 0;
    std::string name;   // of the communicator
    std::string group;  // all that must be equal, for people and for comparison
    std::string rank_table;
    std::string ip;  // where its links are accepted
    uint32_t port = 0;

    std::string Encode() const;
    bool Decode(std::string_view bytes);
};

// A rank table of 64 KiB and the rest of a card.
constexpr size_t kMaxMeetingCard = 160 << 10;

// Gets the card of each other member, maybe more than once.
using MeetingCardHandler = std::function<void(const MeetingCard &card)>;

// What a member attends until it is destroyed.
class Meeting {
public:
    virtual ~Meeting() = default;
};

class LocalMeeting final : public Meeting {
public:
    LocalMeeting(EventLoop *loop, MeetingCard own, MeetingCardHandler on_card)
        : loop_(loop), own_(std::move(own)), on_card_(std::move(on_card)), listener_(loop) {}
    ~LocalMeeting() override { Stop(); }
    LocalMeeting(const LocalMeeting &) = delete;
    LocalMeeting &operator=(const LocalMeeting &) = delete;

    // `others`: cluster ids. LLDD_LINK_FAILED if this member is in a meeting of that name already.
    Status Start(const std::vector<uint64_t> &others);

private:
    void Stop() LLDD_REQUIRES(*loop_);
    struct Visit {
        Fd socket;
        EventLoop::Token token = 0;
    };
    using Visits = std::list<Visit>;

    void Exchange(Fd socket) LLDD_REQUIRES(*loop_);
    void OnCard(Visits::iterator visit) LLDD_REQUIRES(*loop_);

    EventLoop *const loop_;
    const MeetingCard own_;
    const MeetingCardHandler on_card_;
    Listener listener_;
    Visits visits_ LLDD_GUARDED_BY(*loop_);
};

}  // namespace lldd
