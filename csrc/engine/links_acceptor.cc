// What peers ask for: new links, streams, requests over links that stand. Everything runs on the
// I/O thread.
//
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "base/hmac.h"
#include "base/log.h"
#include "engine/links.h"

namespace lldd {
namespace {

// Whoever has greeted must have linked within this time.
constexpr uint64_t kHandshakeMs = 60000;
constexpr size_t kMaxPending = 128;
// As many more wait for their turn: hundreds of peers may come at once.
constexpr size_t kMaxGreeted = 1024;

const char *ModeName(uint32_t mode) {
    return mode == LLDD_MODE_ONE_SIDED ? "one-sided mode (remote cache accessible)"
                                       : "request mode (remote cache not accessible)";
}

}  // namespace

void Links::OnGreeted(Fd socket, const wire::Hello &hello) {
    if (hello.purpose != wire::Purpose::kLink) {
        const LinkPtr link = FindByNonce(hello.nonce);
        if (link == nullptr) return;
        if (hello.purpose == wire::Purpose::kStreamInitiatorAsks) {
            link->connection()->ServeStream(std::move(socket));
        } else {
            link->DeliverStream(std::move(socket));
        }
        return;
    }
    if (pending_.size() < kMaxPending) {
        BeginHandshake(std::move(socket), hello);
    } else if (greeted_.size() < kMaxGreeted) {
        greeted_.emplace_back(std::move(socket), hello);
    }
}

void Links::BeginHandshake(Fd socket, const wire::Hello &hello) {
    const wire::Hello own = OwnHello();
    const auto bytes = own.Encode();
    // The other end comes to the same conclusion about the ways to authenticate, and can tell its
    // client.
    if (!SendAll(socket.get(), bytes.data(), bytes.size(), Deadline::Passed()).ok() ||
        !CheckAuth(hello).ok())
        return;

    Link::Identity identity;
    identity.own_cluster_id = options_.cluster_id;
    identity.peer_cluster_id = hello.cluster_id;
    identity.end = LinkEnd::kAcceptor;
    identity.peer_address = SocketAddress::OfPeer(socket.get());
    identity.initiator_greeting = hello.nonce;
    identity.acceptor_greeting = own.nonce;
    const auto link = std::make_shared<Link>(loop_, identity, std::move(socket));
    Pending pending;
    pending.timer =
        loop_->PostAt(Deadline::InMs(kHandshakeMs), [this, weak = std::weak_ptr<Link>(link)] {
            const LinkPtr late = weak.lock();
            if (late == nullptr) return;
            late->channel().Close();
            ForgetPending(late);
        });
    pending_.emplace(link, pending);
    link->channel().SetMaxBody(wire::kMaxStrangersBody);
    StartChannel(link);
}

void Links::OnRequest(const std::weak_ptr<Link> &weak, uint16_t kind, uint32_t request_id,
                      std::string_view body) {
    const LinkPtr link = weak.lock();
    if (link == nullptr) return;
    const auto pending = pending_.find(link);
    const bool accepting = pending != pending_.end();
    const bool handshake = kind == wire::kLinkRequest || kind == wire::kLinkConfirm;
    // The runtimes of two ends know each other before the link is complete.
    const bool early = kind == wire::kMessage && (!accepting || pending->second.prepared);
    const bool in_order =
        accepting ? handshake || early : !handshake && (early || link->requests_allowed());
    if (in_order && Serve(link, kind, request_id, body)) return;
    LLDD_LOG(
        LLDD_LOG_WARNING,
        "%s sent request %u, unknown, unreadable or at the wrong time; its connection is closed",
        link->peer_name().c_str(), kind);
    link->channel().Close();
    OnClosed(weak);
}

bool Links::Serve(const LinkPtr &link, uint16_t kind, uint32_t request_id, std::string_view body) {
    switch (kind) {
        case wire::kLinkRequest: OnLinkRequest(link, request_id, body); return true;
        case wire::kLinkConfirm: OnLinkConfirm(link, request_id); return true;
        case wire::kUnlink: OnUnlink(link, request_id); return true;
        case wire::kDialStream:
            if (link->identity().end == LinkEnd::kAcceptor) return false;
            link->DialFor(request_id);
            return true;
        case wire::kMessage: return link->OnMessage(request_id, body);
        default: return host_->OnPeerRequest(link, kind, request_id, body);
    }
}

void Links::OnLinkRequest(const LinkPtr &link, uint32_t request_id, std::string_view body) {
    wire::LinkRequest request;
    wire::LinkReply reply;
    Pending &pending = pending_.at(link);
    const bool readable =
        request.Decode(body) && !pending.prepared && request.cluster_id == link->peer();
    const std::string proof = std::exchange(request.proof, "");
    if (!readable) {
        reply.status = LLDD_LINK_FAILED;
        reply.text = "the request cannot be read";
    } else if (!SameDigest(proof, ProofOf(*link, LinkEnd::kInitiator, request.Encode()))) {
        reply.status = LLDD_LINK_FAILED;
        reply.text = "the two ends have different auth tokens";
    } else {
        pending.replace = request.replace;
        pending.attempts = AttemptsAt(request.cluster_id);
        reply = PrepareLink(link, request);
        pending.prepared = reply.status == LLDD_SUCCESS;
        if (pending.prepared) reply.proof = ProofOf(*link, LinkEnd::kAcceptor, reply.Encode());
    }
    link->channel().Answer(wire::kLinkRequest, request_id, reply.Encode());
    if (reply.status != LLDD_SUCCESS) {
        ForgetPending(link);
        link->channel().CloseAfterFlush();
    }
}

wire::LinkReply Links::PrepareLink(const LinkPtr &link, const wire::LinkRequest &request) {
    wire::LinkReply reply;
    const auto refuse = [&](const Status &status) {
        reply.status = status.code();
        reply.text = status.text();
        return reply;
    };
    const bool to_itself = request.cluster_id == options_.cluster_id;
    link->SetNonce(request.nonce);
    link->SetGroup(request.group);
    if (!request.group.empty() &&
        (groups_ == nullptr || !groups_->Expects(request.group, request.cluster_id))) {
        return refuse(Failure(
            LLDD_LINK_FAILED,
            "cluster %llu is in no communicator \"%s\" that waits for cluster %llu",
            Printable(options_.cluster_id), request.group.c_str(), Printable(request.cluster_id)));
    }
    const bool may_repeat = one_way() || to_itself || !request.group.empty() || request.replace;
    if (!may_repeat && Find(request.cluster_id) != nullptr) {
        return refuse(Failure(LLDD_ALREADY_LINK, "cluster %llu has a link to cluster %llu already",
                              Printable(options_.cluster_id), Printable(request.cluster_id)));
    }
    if (request.group.empty() &&
        OwnLinkGoesFirst(request.cluster_id, AttemptsAt(request.cluster_id))) {
        return refuse(Failure(LLDD_ALREADY_LINK,
                              "cluster %llu is linking to cluster %llu at the same time",
                              Printable(options_.cluster_id), Printable(request.cluster_id)));
    }
    if (request.mode != options_.mode) {
        return refuse(Failure(LLDD_PARAM_INVALID,
                              "cluster %llu is in %s, cluster %llu in %s; both must be in one mode",
                              Printable(options_.cluster_id), ModeName(options_.mode),
                              Printable(request.cluster_id), ModeName(request.mode)));
    }
    if (request.link_style != options_.link_style) {
        return refuse(Failure(LLDD_PARAM_INVALID,
                              "cluster %llu and cluster %llu use different transfer backends",
                              Printable(options_.cluster_id), Printable(request.cluster_id)));
    }
    const Status described = device_->Endpoint(request.nonce, &reply.endpoint);
    if (!described.ok()) return refuse(described);
    ConnectionSetup setup;
    setup.end = LinkEnd::kAcceptor;
    setup.nonce = request.nonce;
    setup.peer = link->peer();
    setup.peer_endpoint = request.endpoint;
    setup.streams = link.get();
    setup.passive = one_way() || to_itself;
    std::unique_ptr<Connection> connection;
    const Status connected = device_->Connect(setup, Deadline::Passed(), &connection);
    if (!connected.ok()) return refuse(connected);
    link->SetConnection(std::move(connection));
    return reply;
}

void Links::OnLinkConfirm(const LinkPtr &link, uint32_t request_id) {
    const Pending pending = pending_.at(link);
    Status status = pending.prepared
                        ? link->connection()->Confirm()
                        : Failure(LLDD_LINK_FAILED, "confirmed before it was requested");
    ForgetPending(link);
    if (status.ok() && !link->identity().group.empty()) {
        Store(link);
        if (!groups_->OnAccepted(link))
            status = Failure(LLDD_LINK_FAILED, "the communicator was left meanwhile");
    } else if (status.ok() && OwnLinkGoesFirst(link->peer(), pending.attempts)) {
        status =
            Failure(LLDD_ALREADY_LINK, "cluster %llu has linked to cluster %llu at the same time",
                    Printable(options_.cluster_id), Printable(link->peer()));
    } else if (status.ok()) {
        if (pending.replace && !one_way()) DropReplaced(*link);
        if (!Store(link)) {
            status =
                Failure(LLDD_ALREADY_LINK, "another link from this cluster was made meanwhile");
        }
    }
    if (status.ok()) {
        link->channel().SetMaxBody(wire::kMaxBody);
        link->AllowRequests();
    }
    link->channel().Answer(wire::kLinkConfirm, request_id, wire::StatusBody::Of(status).Encode());
    if (!status.ok()) {
        Remove(link);
        link->ShutdownWhenIdle([link] { link->channel().CloseAfterFlush(); });
    }
}

// The initiator has no link to this end: an old one is of no use any more.
void Links::DropReplaced(const Link &link) {
    const LinkPtr old = Find(link.peer());
    if (old == nullptr || link.peer() == options_.cluster_id || !old->identity().group.empty())
        return;
    if (!old->peer_gone() && !IsLinkingTo(link.peer())) {
        host_->AddNotice(
            Format("a new link from cluster %llu at %s replaced a live one from %s: two clients "
                   "may be using one cluster id",
                   Printable(link.peer()), link.identity().peer_address.ToString().c_str(),
                   old->identity().peer_address.ToString().c_str()));
    }
    DropWhenIdle(old, false, 0);
}

void Links::OnUnlink(const LinkPtr &link, uint32_t request_id) {
    if (link->unlink_under_way.load()) {
        // This end waits for the same answer with the turn in its hands.
        Remove(link);
        link->channel().Answer(wire::kUnlink, request_id, {});
        return;
    }
    DropWhenIdle(link, true, request_id);
}

void Links::OnClosed(const std::weak_ptr<Link> &weak) {
    const LinkPtr link = weak.lock();
    if (link == nullptr) return;
    link->PeerGone();
    host_->OnLinkDown(*link);
    if (pending_.count(link) != 0) {
        ForgetPending(link);
        return;
    }
    if (link->unlinked()) return;
    bool usable = false;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        const auto found = by_peer_.find(link->peer());
        usable = found != by_peer_.end() &&
                 std::find(found->second.begin(), found->second.end(), link) != found->second.end();
        // Nobody can unlink this one: its other end, of the same engine, is gone.
        if (link->identity().group.empty() && hidden_.erase(link) != 0) {
            UnindexLocked(link);
            link->MarkUnlinked();
        }
    }
    if (usable) lost_.fetch_add(1, std::memory_order_relaxed);
    if (link->unlinked()) link->ShutdownWhenIdle([] {});
}

void Links::ForgetPending(const LinkPtr &link) {
    const auto found = pending_.find(link);
    if (found == pending_.end()) return;
    loop_->Cancel(found->second.timer);
    pending_.erase(found);
    // One that does not even greet properly makes room for the next at once.
    while (!greeted_.empty() && pending_.size() < kMaxPending) {
        auto next = std::move(greeted_.front());
        greeted_.pop_front();
        BeginHandshake(std::move(next.first), next.second);
    }
}

}  // namespace lldd
