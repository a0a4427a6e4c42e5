// Communicators: engines that link to each other by all calling lldd_link() with the same
// description.
//
// A group is PREPARING until this engine is linked to every other member, then its links can be
// used; after the total time, or when the members' descriptions differ, it has FAILED. Of each pair
// the member with the smaller cluster id makes the link.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/mutex.h"
#include "base/status.h"
#include "engine/link_acceptor.h"
#include "engine/link_directory.h"
#include "engine/link_initiator.h"
#include "engine/meeting.h"
#include "engine/notices.h"
#include "engine/rank_table.h"
#include "engine/rendezvous.h"

namespace lldd {

struct GroupSpec {
    struct Member {
        uint64_t cluster_id = 0;
        uint32_t rank = 0;
    };
    std::string name;
    std::vector<Member> members;  // in the order given
    std::string rank_table;
};

class Groups final : public GroupHost {
public:
    struct Options {
        uint64_t cluster_id = 0;
        uint32_t total_time_s = 0;
        uint32_t sync_timeout_ms = 0;
        std::string secret;  // "": none
        // Raised when the engine is closed; null: it is not.
        const Interruption *closing = nullptr;
        uint32_t peer_timeout_ms = 0;  // see WatchPeerHost
    };

    Groups(EventLoop *loop, LinkDirectory *directory, LinkAcceptor *acceptor,
           LinkInitiator *initiator, Notices *notices, Options options)
        : loop_(loop),
          directory_(directory),
          acceptor_(acceptor),
          initiator_(initiator),
          notices_(notices),
          options_(std::move(options)) {}
    ~Groups() override;
    Groups(const Groups &) = delete;
    Groups &operator=(const Groups &) = delete;

    Status Join(const GroupSpec &spec, uint64_t *comm_id);
    Status Leave(uint64_t comm_id, const Deadline &deadline);
    Status State(uint64_t comm_id, uint32_t *state) const;
    // Leaves all groups until the deadline and ends the thread. No call may be under way.
    void Close(const Deadline &deadline);

    bool Expects(const std::string &group, uint64_t cluster_id) override;
    bool OnAccepted(const std::shared_ptr<Link> &link) override;

private:
    struct Group {
        uint64_t comm_id = 0;
        GroupSpec spec;
        std::string description;
        RankTable rank_table{""};
        uint32_t state = LLDD_GROUP_PREPARING;
        // Used by functions that require the I/O thread.
        std::unique_ptr<Meeting> meeting;
        EventLoop::Token timer = 0;
        // Guarded by Groups::mutex_, as is the state.
        std::set<uint64_t> dialled;
        std::map<uint64_t, std::shared_ptr<Link>> links;  // by peer
    };
    using GroupPtr = std::shared_ptr<Group>;

    uint64_t TotalS() const;
    Status Check(const GroupSpec &spec) const;
    GroupPtr FindPreparingLocked(const std::string &name) const LLDD_REQUIRES(mutex_);
    std::string MissingLocked(const Group &group) const LLDD_REQUIRES(mutex_);
    std::string NotAllCame(const Group &group) const;
    Status UseOwnAddress();
    // Where this engine dials members and the rendezvous from; not given: the kernel chooses.
    static Status OwnAddress(SocketAddress *from);
    Status Attend(const GroupPtr &group) LLDD_REQUIRES(*loop_);
    void OnCard(const GroupPtr &group, const MeetingCard &card) LLDD_REQUIRES(*loop_);
    void Dial(const GroupPtr &group, uint64_t peer, const SocketAddress &address);
    bool AddLink(const GroupPtr &group, const std::shared_ptr<Link> &link);
    void Fail(const GroupPtr &group, const std::string &why);
    Status EndLinks(const GroupPtr &group, const Deadline &deadline);
    void EndMeeting(const GroupPtr &group) LLDD_REQUIRES(*loop_);
    void Post(std::function<void()> task);
    void Work();

    EventLoop *const loop_;
    LinkDirectory *const directory_;
    LinkAcceptor *const acceptor_;
    LinkInitiator *const initiator_;
    Notices *const notices_;
    const Options options_;

    Mutex join_mutex_;  // calls of one engine are serialised
    mutable Mutex mutex_;
    std::map<uint64_t, GroupPtr> groups_ LLDD_GUARDED_BY(mutex_);
    uint64_t last_id_ LLDD_GUARDED_BY(mutex_) = 0;
    std::unique_ptr<Rendezvous> rendezvous_ LLDD_GUARDED_BY(*loop_);

    // Making a link blocks, so neither the I/O thread nor the caller of Join does it.
    Mutex tasks_mutex_;
    std::condition_variable tasks_changed_;
    std::deque<std::function<void()>> tasks_ LLDD_GUARDED_BY(tasks_mutex_);
    bool stopping_ LLDD_GUARDED_BY(tasks_mutex_) = false;
    std::thread worker_;
};

}  // namespace lldd
