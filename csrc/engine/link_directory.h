// The links of an engine, and by what they are found.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/socket.h"
#include "engine/link.h"
#include "runtime/runtime.h"

namespace lldd {

// How many links whose peers made them and are gone are kept: a peer that comes again and again under
// other ids must not fill this process with them.
constexpr size_t kMaxGone = 1024;

// Thread-safe; nothing here blocks.
class LinkDirectory {
public:
    using LinkPtr = std::shared_ptr<Link>;

    LinkDirectory(uint64_t cluster_id, bool one_way) : cluster_id_(cluster_id), one_way_(one_way) {}
    LinkDirectory(const LinkDirectory &) = delete;
    LinkDirectory &operator=(const LinkDirectory &) = delete;

    // ---- What transfers may use.

    // The newest usable link to that cluster; null if there is none.
    LinkPtr Find(uint64_t cluster_id) const;
    // All usable links.
    std::vector<LinkPtr> All() const;
    // The first clusters that links lead to, at most `most` of them, and of how many.
    std::vector<uint64_t> SomePeers(size_t most, size_t *count) const;
    uint64_t count() const;

    uint64_t links_made() const { return made_.load(std::memory_order_relaxed); }
    uint64_t links_lost() const { return lost_.load(std::memory_order_relaxed); }
    uint64_t links_silent() const { return silent_.load(std::memory_order_relaxed); }
    void CountSilent() { silent_.fetch_add(1, std::memory_order_relaxed); }

    // ---- Other ways to find a link; null if there is none.

    // The usable one that link_clusters made.
    LinkPtr FindByClusters(uint64_t cluster_id) const;
    // The initiator's end of a link to what listens there.
    LinkPtr FindByAddress(const SocketAddress &address) const;
    // The acceptor's end of the link with that nonce.
    LinkPtr FindByNonce(const LinkNonce &nonce) const;
    // The usable ones and those that no transfer may use.
    std::vector<LinkPtr> Everything() const;

    // ---- Adding and removing.

    // False if the cluster has a link already, and this one would be its second.
    bool Store(const LinkPtr &link);
    // Takes the link out and marks it unlinked; false if it was not in the directory.
    bool Remove(const LinkPtr &link);
    // Makes the links of a communicator usable.
    void Publish(const std::vector<LinkPtr> &links);
    // The link's peer is gone. A usable link stays, and counts as lost. Any other that no
    // communicator will end is removed, since no client can unlink it. Of the usable links that
    // peers made, kMaxGone stay: returns the one that was gone for longest and is removed for this
    // one, or null.
    LinkPtr PeerGone(const LinkPtr &link);

    // ---- Both ends of a pair that link to each other at the same time.

    // While it lives, this end is linking to that cluster.
    class Linking {
    public:
        Linking(LinkDirectory *directory, uint64_t cluster_id);
        ~Linking();
        Linking(const Linking &) = delete;
        Linking &operator=(const Linking &) = delete;

    private:
        LinkDirectory *const directory_;
        std::multiset<uint64_t>::iterator place_;
    };

    bool IsLinkingTo(uint64_t peer) const;
    // How often this end has begun to link to that cluster.
    uint64_t AttemptsAt(uint64_t peer) const;
    // Whether this end's own link stays and the peer's is refused. `attempts_before`: AttemptsAt
    // when the peer's link was prepared.
    bool OwnLinkGoesFirst(uint64_t peer, uint64_t attempts_before) const;

private:
    std::vector<LinkPtr> AllLocked() const LLDD_REQUIRES(mutex_);
    bool RemoveLocked(const LinkPtr &link) LLDD_REQUIRES(mutex_);
    void IndexLocked(const LinkPtr &link) LLDD_REQUIRES(mutex_);
    void UnindexLocked(const LinkPtr &link) LLDD_REQUIRES(mutex_);

    const uint64_t cluster_id_;
    const bool one_way_;

    mutable Mutex mutex_;
    // Usable links, the newest of each peer last. More than one only where communicators share a
    // peer.
    std::map<uint64_t, std::vector<LinkPtr>> by_peer_ LLDD_GUARDED_BY(mutex_);
    // Live links that no transfer of this end may use: those of communicators in preparation, and
    // the acceptor's ends of one-way links and of links of this engine to itself.
    std::set<LinkPtr> hidden_ LLDD_GUARDED_BY(mutex_);
    // What is in by_peer_ or hidden_, by what else it is looked for: initiators' ends by the
    // address of the peer (and its id: a restarted peer may have another), acceptors' ends by their
    // nonce.
    std::map<std::pair<std::string, uint64_t>, LinkPtr> by_address_ LLDD_GUARDED_BY(mutex_);
    std::map<LinkNonce, LinkPtr> by_nonce_ LLDD_GUARDED_BY(mutex_);
    // Links in by_peer_ that peers made and left, the one that was left first in front.
    std::deque<LinkPtr> gone_ LLDD_GUARDED_BY(mutex_);
    // Peers that this end is linking to right now.
    std::multiset<uint64_t> linking_to_ LLDD_GUARDED_BY(mutex_);
    // How often it has begun to.
    std::map<uint64_t, uint64_t> attempts_ LLDD_GUARDED_BY(mutex_);

    std::atomic<uint64_t> made_{0};
    std::atomic<uint64_t> lost_{0};
    std::atomic<uint64_t> silent_{0};
};

}  // namespace lldd
