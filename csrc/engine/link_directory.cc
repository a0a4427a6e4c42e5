// SPDX-License-Identifier: Apache-2.0
#include "engine/link_directory.h"

#include <algorithm>

namespace lldd {

LinkDirectory::LinkPtr LinkDirectory::Find(uint64_t cluster_id) const {
    MutexLock lock(mutex_);
    const auto found = by_peer_.find(cluster_id);
    return found == by_peer_.end() ? nullptr : found->second.back();
}

LinkDirectory::LinkPtr LinkDirectory::FindByClusters(uint64_t cluster_id) const {
    MutexLock lock(mutex_);
    const auto found = by_peer_.find(cluster_id);
    if (found == by_peer_.end()) return nullptr;
    for (const LinkPtr &link : found->second) {
        if (link->identity().group.empty()) return link;
    }
    return nullptr;
}

LinkDirectory::LinkPtr LinkDirectory::FindByAddress(const SocketAddress &address) const {
    const std::string text = address.ToString();
    MutexLock lock(mutex_);
    const auto found = by_address_.lower_bound({text, 0});
    return found != by_address_.end() && found->first.first == text ? found->second : nullptr;
}

std::vector<LinkDirectory::LinkPtr> LinkDirectory::AllLocked() const {
    std::vector<LinkPtr> links;
    for (const auto &entry : by_peer_)
        links.insert(links.end(), entry.second.begin(), entry.second.end());
    return links;
}

std::vector<LinkDirectory::LinkPtr> LinkDirectory::All() const {
    MutexLock lock(mutex_);
    return AllLocked();
}

std::vector<LinkDirectory::LinkPtr> LinkDirectory::Everything() const {
    MutexLock lock(mutex_);
    std::vector<LinkPtr> links = AllLocked();
    links.insert(links.end(), hidden_.begin(), hidden_.end());
    return links;
}

uint64_t LinkDirectory::count() const {
    MutexLock lock(mutex_);
    uint64_t count = 0;
    for (const auto &entry : by_peer_) count += entry.second.size();
    return count;
}

std::vector<uint64_t> LinkDirectory::SomePeers(size_t most, size_t *count) const {
    MutexLock lock(mutex_);
    std::vector<uint64_t> peers;
    for (auto peer = by_peer_.begin(); peer != by_peer_.end() && peers.size() < most; ++peer)
        peers.push_back(peer->first);
    *count = by_peer_.size();
    return peers;
}

LinkDirectory::LinkPtr LinkDirectory::FindByNonce(const LinkNonce &nonce) const {
    MutexLock lock(mutex_);
    const auto found = by_nonce_.find(nonce);
    return found == by_nonce_.end() ? nullptr : found->second;
}

void LinkDirectory::IndexLocked(const LinkPtr &link) {
    const Link::Identity &identity = link->identity();
    if (identity.end == LinkEnd::kAcceptor) {
        // The first link with a nonce keeps it, so a peer cannot capture another's streams by
        // reusing it.
        by_nonce_.emplace(identity.nonce, link);
    } else if (identity.group.empty()) {
        by_address_[{identity.peer_address.ToString(), link->peer()}] = link;
    }
}

void LinkDirectory::UnindexLocked(const LinkPtr &link) {
    const Link::Identity &identity = link->identity();
    if (identity.end == LinkEnd::kAcceptor) {
        const auto found = by_nonce_.find(identity.nonce);
        if (found != by_nonce_.end() && found->second == link) by_nonce_.erase(found);
    } else if (identity.group.empty()) {
        by_address_.erase({identity.peer_address.ToString(), link->peer()});
    }
}

bool LinkDirectory::Store(const LinkPtr &link) {
    MutexLock lock(mutex_);
    const bool to_itself = link->peer() == cluster_id_;
    const bool passive = link->identity().end == LinkEnd::kAcceptor && (to_itself || one_way_);
    if (passive || !link->identity().group.empty()) {
        hidden_.insert(link);
        IndexLocked(link);
        return true;
    }
    std::vector<LinkPtr> &links = by_peer_[link->peer()];
    if (!links.empty()) return false;
    links.push_back(link);
    IndexLocked(link);
    made_.fetch_add(1, std::memory_order_relaxed);
    return true;
}

bool LinkDirectory::Remove(const LinkPtr &link) {
    MutexLock lock(mutex_);
    return RemoveLocked(link);
}

bool LinkDirectory::RemoveLocked(const LinkPtr &link) {
    link->MarkUnlinked();
    gone_.erase(std::remove(gone_.begin(), gone_.end(), link), gone_.end());
    bool was_there = hidden_.erase(link) != 0;
    const auto found = by_peer_.find(link->peer());
    if (!was_there && found != by_peer_.end()) {
        std::vector<LinkPtr> &links = found->second;
        const auto place = std::find(links.begin(), links.end(), link);
        was_there = place != links.end();
        if (was_there) links.erase(place);
        if (links.empty()) by_peer_.erase(found);
    }
    if (was_there) UnindexLocked(link);
    return was_there;
}

void LinkDirectory::Publish(const std::vector<LinkPtr> &links) {
    MutexLock lock(mutex_);
    for (const LinkPtr &link : links) {
        if (hidden_.erase(link) == 0) continue;
        by_peer_[link->peer()].push_back(link);
        made_.fetch_add(1, std::memory_order_relaxed);
    }
}

LinkDirectory::LinkPtr LinkDirectory::PeerGone(const LinkPtr &link) {
    MutexLock lock(mutex_);
    LinkPtr dropped;
    const auto found = by_peer_.find(link->peer());
    if (found != by_peer_.end() &&
        std::find(found->second.begin(), found->second.end(), link) != found->second.end()) {
        lost_.fetch_add(1, std::memory_order_relaxed);
        if (link->identity().end == LinkEnd::kAcceptor && link->identity().group.empty())
            gone_.push_back(link);
        if (gone_.size() > kMaxGone) {
            dropped = gone_.front();
            RemoveLocked(dropped);
        }
    }
    if (link->identity().group.empty() && hidden_.erase(link) != 0) {
        UnindexLocked(link);
        link->MarkUnlinked();
    }
    return dropped;
}

LinkDirectory::Linking::Linking(LinkDirectory *directory, uint64_t cluster_id)
    : directory_(directory) {
    MutexLock lock(directory_->mutex_);
    place_ = directory_->linking_to_.insert(cluster_id);
    ++directory_->attempts_[cluster_id];
}

LinkDirectory::Linking::~Linking() {
    MutexLock lock(directory_->mutex_);
    directory_->linking_to_.erase(place_);
}

// Both ends may link to each other at the same time. The link of the end with the smaller id is the
// one that stays: that end refuses the other's, while its own is being made, or if it was made
// since the other was prepared.
bool LinkDirectory::OwnLinkGoesFirst(uint64_t peer, uint64_t attempts_before) const {
    MutexLock lock(mutex_);
    if (one_way_ || cluster_id_ >= peer) return false;
    if (linking_to_.count(peer) != 0) return true;
    const auto attempts = attempts_.find(peer);
    return attempts != attempts_.end() && attempts->second != attempts_before &&
           by_peer_.count(peer) != 0;
}

uint64_t LinkDirectory::AttemptsAt(uint64_t peer) const {
    MutexLock lock(mutex_);
    const auto attempts = attempts_.find(peer);
    return attempts == attempts_.end() ? 0 : attempts->second;
}

bool LinkDirectory::IsLinkingTo(uint64_t peer) const {
    MutexLock lock(mutex_);
    return linking_to_.count(peer) != 0;
}

}  // namespace lldd
