// Where the members of a communicator meet when they are on several hosts: at one address, that of
// LLM_DATADIST_RENDEZVOUS, which the member with the lowest rank holds.
//
// Every other member connects there, again and again until the holder answers, and sends its card.
// The holder passes the cards of one communicator on to all its members, its own included. An
// engine holds the address for all its communicators at once. Everything runs on the I/O thread.
//
// With a secret a visitor sends a greeting first, the holder proves that it has the secret, and each
// card comes with a proof: no card goes to, or is taken from, a process that has not the secret.
// Visitors whose card names no communicator that is attended here are strangers: the first makes room,
// each is sent away after a while, and comes again if it is a member.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/listener.h"
#include "base/mutex.h"
#include "base/socket.h"
#include "base/status.h"
#include "base/strangers.h"
#include "engine/meeting.h"

namespace lldd {

class Rendezvous {
public:
    // Where the environment says that it is; `address` stays as it was if it says nothing.
    // LLDD_PARAM_INVALID if it says something that is not an address.
    static Status FromEnvironment(bool *given, SocketAddress *address);

    // `from`: where it is dialled from, see StartConnect. `secret`: "" if there is none.
    // `peer_timeout_ms`: see WatchPeerHost.
    Rendezvous(EventLoop *loop, const SocketAddress &address, const SocketAddress &from,
               std::string secret, uint32_t peer_timeout_ms);
    ~Rendezvous();
    Rendezvous(const Rendezvous &) = delete;
    Rendezvous &operator=(const Rendezvous &) = delete;

    // Attends the meeting of the card's name, with these others, until `meeting` is destroyed. A
    // member that does not hold the address gets its own card's ip from its connection.
    // LLDD_LINK_FAILED: the holder cannot bind the address.
    Status Attend(bool holds, MeetingCard own, std::vector<uint64_t> others,
                  MeetingCardHandler on_card, std::unique_ptr<Meeting> *meeting);

private:
    class Held;
    class Visiting;
    class Session;
    using SessionPtr = std::shared_ptr<Session>;

    void OnVisitor(Fd socket) LLDD_REQUIRES(*loop_);
    bool OnFrame(const SessionPtr &session, uint16_t kind, std::string_view body)
        LLDD_REQUIRES(*loop_);
    bool OnGreeting(Session *session, std::string_view body) LLDD_REQUIRES(*loop_);
    bool OnCard(const SessionPtr &session, std::string_view body) LLDD_REQUIRES(*loop_);
    void Introduce(const SessionPtr &session, const Held &held) LLDD_REQUIRES(*loop_);
    // Of one that is not a member, or not any more.
    void BecomeStranger(const SessionPtr &session, uint64_t origin) LLDD_REQUIRES(*loop_);
    void End(const SessionPtr &session) LLDD_REQUIRES(*loop_);

    EventLoop *const loop_;
    const SocketAddress address_;
    const SocketAddress from_;
    const std::string secret_;
    const uint32_t peer_timeout_ms_;
    // Used by the holder only.
    Strangers strangers_;
    Listener listener_;
    std::set<SessionPtr> sessions_ LLDD_GUARDED_BY(*loop_);
    std::map<std::string, Held *> held_ LLDD_GUARDED_BY(*loop_);
};

}  // namespace lldd
