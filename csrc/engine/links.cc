// The directory of links, and how it is closed. Making and ending links: links_initiator.cc,
// links_acceptor.cc.
//
// SPDX-License-Identifier: Apache-2.0
#include "engine/links.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "base/log.h"

namespace lldd {

LinkNonce RandomNonce() {
    LinkNonce nonce{};
    size_t filled = 0;
    while (filled < nonce.size()) {
        const ssize_t got = getrandom(nonce.data() + filled, nonce.size() - filled, 0);
        if (got > 0) filled += static_cast<size_t>(got);
        if (got < 0 && errno != EINTR)
            throw std::system_error(errno, std::generic_category(), "getrandom");
    }
    return nonce;
}

Links::Links(EventLoop *loop, Device *device, LinkHost *host, Options options)
    : loop_(loop),
      device_(device),
      host_(host),
      options_(std::move(options)),
      acceptor_(
          loop,
          [this](Fd socket, const wire::Hello &hello) { OnGreeted(std::move(socket), hello); },
          [this](const std::string &why) { host_->AddNotice(why); }),
      group_acceptor_(
          loop,
          [this](Fd socket, const wire::Hello &hello) { OnGreeted(std::move(socket), hello); },
          [this](const std::string &why) { host_->AddNotice(why); }) {}

Links::~Links() { CloseAll(Deadline::Passed()); }

std::shared_ptr<Link> Links::Find(uint64_t cluster_id) const {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = by_peer_.find(cluster_id);
    return found == by_peer_.end() ? nullptr : found->second.back();
}

std::shared_ptr<Link> Links::FindByClusters(uint64_t cluster_id) const {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = by_peer_.find(cluster_id);
    if (found == by_peer_.end()) return nullptr;
    for (const LinkPtr &link : found->second) {
        if (link->identity().group.empty()) return link;
    }
    return nullptr;
}

std::shared_ptr<Link> Links::FindByAddress(const SocketAddress &address) const {
    const std::string text = address.ToString();
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = by_address_.lower_bound({text, 0});
    return found != by_address_.end() && found->first.first == text ? found->second : nullptr;
}

std::vector<std::shared_ptr<Link>> Links::AllLocked() const {
    std::vector<LinkPtr> links;
    for (const auto &entry : by_peer_)
        links.insert(links.end(), entry.second.begin(), entry.second.end());
    return links;
}

std::vector<std::shared_ptr<Link>> Links::All() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return AllLocked();
}

uint64_t Links::count() const {
    std::lock_guard<std::mutex> lock(mutex_);
    uint64_t count = 0;
    for (const auto &entry : by_peer_) count += entry.second.size();
    return count;
}

std::vector<uint64_t> Links::SomePeers(size_t most, size_t *count) const {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<uint64_t> peers;
    for (auto peer = by_peer_.begin(); peer != by_peer_.end() && peers.size() < most; ++peer)
        peers.push_back(peer->first);
    *count = by_peer_.size();
    return peers;
}

std::shared_ptr<Link> Links::FindByNonce(const LinkNonce &nonce) const {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = by_nonce_.find(nonce);
    return found == by_nonce_.end() ? nullptr : found->second;
}

void Links::IndexLocked(const LinkPtr &link) {
    const Link::Identity &identity = link->identity();
    if (identity.end == LinkEnd::kAcceptor) {
        by_nonce_[identity.nonce] = link;
    } else if (identity.group.empty()) {
        by_address_[{identity.peer_address.ToString(), link->peer()}] = link;
    }
}

void Links::UnindexLocked(const LinkPtr &link) {
    const Link::Identity &identity = link->identity();
    if (identity.end == LinkEnd::kAcceptor) {
        by_nonce_.erase(identity.nonce);
    } else if (identity.group.empty()) {
        by_address_.erase({identity.peer_address.ToString(), link->peer()});
    }
}

bool Links::Store(const LinkPtr &link) {
    std::lock_guard<std::mutex> lock(mutex_);
    const bool to_itself = link->peer() == options_.cluster_id;
    const bool passive = link->identity().end == LinkEnd::kAcceptor && (to_itself || one_way());
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

bool Links::Remove(const LinkPtr &link) {
    std::lock_guard<std::mutex> lock(mutex_);
    link->MarkUnlinked();
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

Status Links::TakeDown(const LinkPtr &link, const Deadline &deadline) {
    Remove(link);
    Status status = link->Shutdown(deadline);
    link->channel().Close();
    loop_->RunAndWait([&] { host_->OnLinkDown(*link); });
    if (status.ok()) return status;
    return std::move(status).WithPrefix("unlink from " + link->peer_name() + ": ");
}

void Links::DropWhenIdle(const LinkPtr &link, bool answer_unlink, uint32_t request_id) {
    Remove(link);
    host_->OnLinkDown(*link);
    link->ShutdownWhenIdle([link, answer_unlink, request_id] {
        if (answer_unlink) link->channel().Answer(wire::kUnlink, request_id, {});
        link->channel().CloseAfterFlush();
    });
}

void Links::CloseAll(const Deadline &deadline) {
    acceptor_.Stop();
    group_acceptor_.Stop();
    // From here on nobody adds a link.
    loop_->RunAndWait([this] {
        greeted_.clear();
        while (!pending_.empty()) {
            const LinkPtr link = pending_.begin()->first;
            ForgetPending(link);
            link->channel().Close();
        }
    });
    std::vector<LinkPtr> links;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        links = AllLocked();
        links.insert(links.end(), hidden_.begin(), hidden_.end());
    }
    for (const LinkPtr &link : links) {
        const Link::Turn turn(link);
        const Status status = TakeDown(link, deadline);
        if (!status.ok()) {
            LLDD_LOG(LLDD_LOG_WARNING, "link to %s closed: %s", link->peer_name().c_str(),
                     status.text().c_str());
        }
    }
    links.clear();
    // What was posted for a link may be the last to hold it; the device must outlive it.
    loop_->RunAndWait([] {});
}

void Links::StartChannel(const LinkPtr &link) {
    const std::weak_ptr<Link> weak = link;
    link->channel().Start(
        weak,
        [this, weak](uint16_t kind, uint32_t request_id, std::string_view body) {
            OnRequest(weak, kind, request_id, body);
        },
        [this, weak] { OnClosed(weak); });
}

}  // namespace lldd
