// All links of an engine: making them from either end, finding them, ending them.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/deadline.h"
#include "base/event_loop.h"
#include "base/socket.h"
#include "base/status.h"
#include "engine/acceptor.h"
#include "engine/link.h"
#include "runtime/runtime.h"

namespace lldd {

// What links need from the engine they belong to. Nothing here may block.
class LinkHost {
public:
    virtual ~LinkHost() = default;
    // A request that concerns caches, on the I/O thread. False if it is none, or cannot be read.
    virtual bool OnPeerRequest(const std::shared_ptr<Link> &link, uint16_t kind,
                               uint32_t request_id, std::string_view body) = 0;
    // The peer of this link will ask for nothing any more. On the I/O thread; may come more than
    // once.
    virtual void OnLinkDown(const Link &link) = 0;
    // Something the client should hear of at its next call.
    virtual void AddNotice(std::string text) = 0;
};

// What links need to know of communicators. On the I/O thread; must not block.
class GroupHost {
public:
    virtual ~GroupHost() = default;
    // A communicator of that name is being prepared, and waits for a link from that member.
    virtual bool Expects(const std::string &group, uint64_t cluster_id) = 0;
    // Such a link was made; false if it is not wanted any more.
    virtual bool OnAccepted(const std::shared_ptr<Link> &link) = 0;
};

// A peer as the client names it.
struct ClusterSpec {
    bool has_id = false;
    uint64_t id = 0;
    struct Address {
        std::string ip;
        uint32_t port = 0;
    };
    std::vector<Address> remote;
};

struct ClusterResult {
    Status status;
    uint64_t cluster_id = 0;  // of a link that was made: as the peer told it
};

class Links {
public:
    struct Options {
        uint64_t cluster_id = 0;
        uint32_t mode = 0;
        uint32_t link_style = 0;
        std::string secret;  // that peers must know, too; "": none
    };

    Links(EventLoop *loop, Device *device, LinkHost *host, Options options);
    ~Links();
    Links(const Links &) = delete;
    Links &operator=(const Links &) = delete;

    Status StartListening(const SocketAddress &address) { return acceptor_.Start(address); }
    void StopListening() { acceptor_.Stop(); }
    const Acceptor &acceptor() const { return acceptor_; }

    // One result for each spec, in order; several are handled in parallel, all until the deadline.
    std::vector<ClusterResult> LinkClusters(const std::vector<ClusterSpec> &specs,
                                            const Deadline &deadline);
    std::vector<ClusterResult> UnlinkClusters(const std::vector<ClusterSpec> &specs,
                                              const Deadline &deadline, bool force);

    // ---- Links of communicators. They are made one by one and become usable together.

    // Before the first communicator is joined.
    void SetGroupHost(GroupHost *groups) { groups_ = groups; }
    // See Device.
    Status UseAddress(const std::string &ip) { return device_->UseAddress(ip, false); }
    // Where members may link to: on this host, or from where `reachable_from` can be reached, at
    // all addresses of its family. The first call decides.
    Status StartAcceptingForGroups(bool several_hosts, const SocketAddress &reachable_from,
                                   SocketAddress *address);
    Status LinkForGroup(const SocketAddress &address, uint64_t peer, const std::string &group,
                        uint64_t comm_id, const Deadline &deadline, std::shared_ptr<Link> *link);
    void PublishGroupLinks(const std::vector<std::shared_ptr<Link>> &links);
    Status EndGroupLink(const std::shared_ptr<Link> &link, const Deadline &deadline);

    // The newest usable link to that cluster; null if there is none.
    std::shared_ptr<Link> Find(uint64_t cluster_id) const;
    std::vector<std::shared_ptr<Link>> All() const;
    // The first clusters that links lead to, at most `most` of them, and of how many.
    std::vector<uint64_t> SomePeers(size_t most, size_t *count) const;
    uint64_t count() const;

    // Ends every link without telling the peers, who see their connections close. No call may be
    // under way.
    void CloseAll(const Deadline &deadline);

    uint64_t links_made() const { return made_.load(std::memory_order_relaxed); }
    uint64_t links_lost() const { return lost_.load(std::memory_order_relaxed); }

private:
    using LinkPtr = std::shared_ptr<Link>;
    class Linking;

    // ---- The initiator, on the calling thread or one of its own.
    ClusterResult LinkOne(const ClusterSpec &spec, const Deadline &deadline);
    void WarnOfId(const ClusterSpec &spec, const SocketAddress &address, uint64_t real_id);
    Status LinkMutually(const ClusterSpec &spec, const LinkPtr &link, const Deadline &deadline);
    Status LinkOneWay(const ClusterSpec &spec, const LinkPtr &link, const Deadline &deadline);
    bool one_way() const { return options_.link_style == LLDD_LINK_STYLE_ONE_WAY; }
    LinkPtr FindByAddress(const SocketAddress &address) const;
    wire::Hello OwnHello() const;
    Status CheckAuth(const wire::Hello &peer) const;
    Status Greet(int socket, const Deadline &deadline, const wire::Hello &own, wire::Hello *peer);
    std::string ProofOf(const Link &link, LinkEnd sender, const std::string &message) const;
    Status Dial(const SocketAddress &address, const Deadline &deadline, Link::Identity identity,
                LinkPtr *link);
    Status Shake(const LinkPtr &link, bool replace, const Deadline &deadline);
    // What is left of a link that could not be made goes; the status tells which.
    Status Undo(const LinkPtr &link, const Deadline &deadline, Status status);
    ClusterResult UnlinkOne(const ClusterSpec &spec, const Deadline &deadline, bool force);
    Status UnlinkBoth(const LinkPtr &link, const Deadline &deadline);

    // ---- The acceptor, on the I/O thread.
    void OnGreeted(Fd socket, const wire::Hello &hello);
    void BeginHandshake(Fd socket, const wire::Hello &hello);
    void OnRequest(const std::weak_ptr<Link> &weak, uint16_t kind, uint32_t request_id,
                   std::string_view body);
    bool Serve(const LinkPtr &link, uint16_t kind, uint32_t request_id, std::string_view body);
    void OnLinkRequest(const LinkPtr &link, uint32_t request_id, std::string_view body);
    wire::LinkReply PrepareLink(const LinkPtr &link, const wire::LinkRequest &request);
    void OnLinkConfirm(const LinkPtr &link, uint32_t request_id);
    void OnUnlink(const LinkPtr &link, uint32_t request_id);
    void OnClosed(const std::weak_ptr<Link> &weak);
    void ForgetPending(const LinkPtr &link);
    void DropReplaced(const Link &link);
    bool OwnLinkGoesFirst(uint64_t peer, uint64_t attempts_before) const;
    uint64_t AttemptsAt(uint64_t peer) const;
    bool IsLinkingTo(uint64_t peer) const;

    void StartChannel(const LinkPtr &link);
    bool Store(const LinkPtr &link);
    // The one that link_clusters made.
    LinkPtr FindByClusters(uint64_t cluster_id) const;
    std::vector<LinkPtr> AllLocked() const;
    // Takes the link out of the directory; false if it was not in it.
    bool Remove(const LinkPtr &link);
    void IndexLocked(const LinkPtr &link);
    void UnindexLocked(const LinkPtr &link);
    // For other threads, with the turn held: takes a link down.
    Status TakeDown(const LinkPtr &link, const Deadline &deadline);
    // For the I/O thread: the same as soon as no transfer runs over it.
    void DropWhenIdle(const LinkPtr &link, bool answer_unlink, uint32_t request_id);
    LinkPtr FindByNonce(const LinkNonce &nonce) const;

    EventLoop *const loop_;
    Device *const device_;
    LinkHost *const host_;
    const Options options_;
    Acceptor acceptor_;

    Acceptor group_acceptor_;
    GroupHost *groups_ = nullptr;

    mutable std::mutex mutex_;
    // Usable links, the newest of each peer last. More than one only where communicators share a
    // peer.
    std::map<uint64_t, std::vector<LinkPtr>> by_peer_;
    // Live links that no transfer of this end may use: those of communicators in preparation, and
    // the acceptor's ends of one-way links and of links of this engine to itself.
    std::set<LinkPtr> hidden_;
    // What is in by_peer_ or hidden_, by what else it is looked for: initiators' ends by the
    // address of the peer (and its id: a restarted peer may have another), acceptors' ends by their
    // nonce.
    std::map<std::pair<std::string, uint64_t>, LinkPtr> by_address_;
    std::map<LinkNonce, LinkPtr> by_nonce_;
    // Peers that this end is linking to right now.
    std::multiset<uint64_t> linking_to_;
    // How often it has begun to.
    std::map<uint64_t, uint64_t> attempts_;

    struct Pending {
        EventLoop::Token timer = 0;
        bool replace = false;
        bool prepared = false;
        uint64_t attempts = 0;  // of this end to link to that peer, when the link was prepared
    };
    std::map<LinkPtr, Pending> pending_;              // links being accepted; I/O thread only
    std::deque<std::pair<Fd, wire::Hello>> greeted_;  // wait for a place there; I/O thread only

    std::atomic<uint64_t> made_{0};
    std::atomic<uint64_t> lost_{0};
};

// Fresh random bytes from the kernel.
LinkNonce RandomNonce();

}  // namespace lldd
