// How the members of a communicator meet on one host: at one abstract socket per member, named
// after user, scope, communicator and cluster id. On several hosts: see rendezvous.h.
//
// A member listens first and then connects to all the others. Those that are there answer; those
// that come later connect to it. So each pair meets, in whatever order its members come, and no
// member polls. Either end of a connection sends one card. Everything runs on the I/O thread.
//
// Any user of the host can bind the name of a member. Its member then waits at a name with random
// digits at its end, calls on the others every kAgainMs, and finds those who also had to in
// /proc/net/unix. Only processes of the own user are shown a card, whatever name they have.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <set>
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
    // `others`: cluster ids.
    LocalMeeting(EventLoop *loop, MeetingCard own, std::vector<uint64_t> others,
                 MeetingCardHandler on_card)
        : loop_(loop),
          own_(std::move(own)),
          others_(others.begin(), others.end()),
          on_card_(std::move(on_card)),
          listener_(loop) {}
    ~LocalMeeting() override { Stop(); }
    LocalMeeting(const LocalMeeting &) = delete;
    LocalMeeting &operator=(const LocalMeeting &) = delete;

    // LLDD_LINK_FAILED if this member is in a meeting of that name already. *notice: what the client
    // should know, if it is not empty.
    Status Start(std::string *notice);

private:
    void Stop() LLDD_REQUIRES(*loop_);
    struct Visit {
        Fd socket;
        EventLoop::Token token = 0;
        uint64_t other = 0;  // on whom this member called; of one who called on it: its own id
    };
    using Visits = std::list<Visit>;

    Status Bind(std::string *notice) LLDD_REQUIRES(*loop_);
    // False: another one may be there, and must be called on again.
    bool CallOn(uint64_t other, const std::string &name) LLDD_REQUIRES(*loop_);
    void CallAgain() LLDD_REQUIRES(*loop_);
    void CallAgainLater() LLDD_REQUIRES(*loop_);
    void Exchange(Fd socket, uint64_t other) LLDD_REQUIRES(*loop_);
    void OnCard(Visits::iterator visit) LLDD_REQUIRES(*loop_);

    EventLoop *const loop_;
    const MeetingCard own_;
    std::set<uint64_t> others_ LLDD_GUARDED_BY(*loop_);  // who have shown no card yet
    const MeetingCardHandler on_card_;
    Listener listener_;
    EventLoop::Token timer_ LLDD_GUARDED_BY(*loop_) = 0;
    Visits visits_ LLDD_GUARDED_BY(*loop_);
};

}  // namespace lldd
