// SPDX-License-Identifier: Apache-2.0
#include "engine/link_acceptor.h"

#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "base/codec.h"
#include "base/deadline.h"
#include "base/hmac.h"
#include "base/io_thread.h"
#include "base/log.h"
#include "engine/box_reports.h"
#include "engine/life_log.h"
#include "engine/reports.h"
#include "runtime/texts.h"

namespace lldd {
namespace {

// Hundreds of peers may come at once.
constexpr size_t kMaxPending = 1024;
// A connection must have sent its request within kGreetingMs. What all of them hold of requests that
// are not complete is at most kMaxUnfinished: more than one of the largest.
constexpr uint64_t kGreetingMs = 10'000;
constexpr size_t kMaxUnfinished = 32U << 20;
// From then on the other end may take kHandshakeMs: its runtime connects.
constexpr uint64_t kHandshakeMs = 60'000;
// Until it has confirmed, it sends nothing larger than a message of its runtime.
constexpr uint32_t kMaxPreparedBody = 4096;

const char *ModeName(uint32_t mode) {
    return mode == LLDD_MODE_ONE_SIDED ? "one-sided mode (remote cache accessible)"
                                       : "request mode (remote cache not accessible)";
}

}  // namespace

LinkAcceptor::LinkAcceptor(EventLoop *loop, Device *device, LinkDirectory *directory,
                           OwnerService *owner, Notices *notices, const LinkOptions &options)
    : loop_(loop),
      device_(device),
      directory_(directory),
      owner_(owner),
      notices_(notices),
      options_(options),
      strangers_(loop, "the listener", {kMaxPending, kGreetingMs, kMaxUnfinished}),
      prepared_(loop, "links that are not confirmed", {kMaxPending, kHandshakeMs, kMaxUnfinished}),
      listener_(loop, &strangers_, HelloHandler(), GreetedHandler(), notices,
                options.peer_timeout_ms),
      group_listener_(loop, &strangers_, HelloHandler(), GreetedHandler(), notices,
                      options.peer_timeout_ms) {}

HelloListener::HelloHandler LinkAcceptor::HelloHandler() {
    return [this](const wire::Hello &hello) {
        LLDD_ON_IO_THREAD(*loop_);
        return AnswerTo(hello);
    };
}

HelloListener::GreetedHandler LinkAcceptor::GreetedHandler() {
    return [this](HelloListener::Greeted greeted) {
        LLDD_ON_IO_THREAD(*loop_);
        OnGreeted(std::move(greeted));
    };
}

Status LinkAcceptor::StartAcceptingForGroups(bool several_hosts,
                                             const SocketAddress &reachable_from,
                                             SocketAddress *address) {
    LLDD_ON_IO_THREAD(*loop_);
    if (!group_listener_.listening()) {
        SocketAddress any_port;
        const char *ip = "127.0.0.1";
        if (several_hosts) ip = reachable_from.family() == AF_INET6 ? "::" : "0.0.0.0";
        LLDD_RETURN_IF_ERROR(SocketAddress::Parse(ip, 0, &any_port));
        LLDD_RETURN_IF_ERROR(group_listener_.Start(any_port));
    }
    *address = group_listener_.address();
    return Status::Ok();
}

void LinkAcceptor::Close() {
    LLDD_OFF_IO_THREAD(*loop_);
    listener_.Stop();
    group_listener_.Stop();
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        while (!pending_.empty()) {
            const LinkPtr link = pending_.begin()->first;
            ForgetPending(link);
            link->channel().Close();
        }
    });
}

void LinkAcceptor::Serve(const LinkPtr &link) {
    const std::weak_ptr<Link> weak = link;
    link->channel().Start(
        weak,
        [this, weak](uint16_t kind, uint32_t request_id, std::string_view body) {
            LLDD_ON_IO_THREAD(*loop_);
            OnRequest(weak, kind, request_id, body);
        },
        [this, weak] {
            LLDD_ON_IO_THREAD(*loop_);
            OnClosed(weak);
        });
}

HelloListener::Answer LinkAcceptor::AnswerTo(const wire::Hello &hello) {
    HelloListener::Answer answer;
    answer.hello = options_.OwnHello();
    if (hello.purpose == wire::Purpose::kLink || hello.purpose == wire::Purpose::kMeeting) {
        answer.greets = true;
        answer.base = options_.secret;
        // The other end comes to the same conclusion, and can tell its client. Nobody meets here.
        answer.served =
            hello.purpose == wire::Purpose::kLink && CheckAuth(answer.hello, hello).ok();
        return answer;
    }
    const LinkPtr link = directory_->FindByNonce(hello.nonce);
    answer.hello.purpose = hello.purpose;
    answer.hello.id = 0;
    answer.greets = link != nullptr && hello.auth != wire::Auth::kNone;
    answer.served = link != nullptr && CheckAuth(answer.hello, hello).ok();
    if (answer.served) answer.base = AsBase(link->identity().key);
    return answer;
}

void LinkAcceptor::OnGreeted(HelloListener::Greeted greeted) {
    if (greeted.hello.purpose == wire::Purpose::kLink) {
        BeginHandshake(std::move(greeted));
        return;
    }
    // It may have ended since the stream's Hello.
    const LinkPtr link = directory_->FindByNonce(greeted.hello.nonce);
    if (link == nullptr) return;
    if (greeted.hello.purpose == wire::Purpose::kStreamInitiatorAsks) {
        link->connection()->ServeStream(std::move(greeted.socket));
    } else {
        link->DeliverStream(std::move(greeted.socket));
    }
}

void LinkAcceptor::BeginHandshake(HelloListener::Greeted greeted) {
    Fd &socket = greeted.socket;
    Strangers::Place place = std::move(greeted.place);
    Link::Identity identity;
    identity.own_cluster_id = options_.cluster_id;
    identity.peer_cluster_id = greeted.hello.id;
    identity.end = LinkEnd::kAcceptor;
    identity.peer_address = SocketAddress::OfPeer(socket.get());
    identity.key = greeted.key;
    identity.has_secret = !options_.secret.empty();
    identity.peer_features = greeted.hello.features;
    identity.peer_timeout_ms = options_.peer_timeout_ms;
    identity.totals = options_.totals;
    if (identity.has_secret) {
        Writer own_id;
        own_id.Number(options_.cluster_id);
        const std::string bytes = own_id.Take();
        if (!SendAll(socket.get(), bytes.data(), bytes.size(), Deadline::Passed()).ok()) return;
        place = prepared_.Admit(identity.peer_address.Network(), [](const char *) {});
    }
    const auto link = std::make_shared<Link>(loop_, identity, std::move(socket), options_.closing);
    Keep(link, std::move(place));
    link->channel().SetMaxBody(wire::kMaxStrangersBody);
    link->channel().SetHeldHandler([this, weak = std::weak_ptr<Link>(link)](size_t held) {
        LLDD_ON_IO_THREAD(*loop_);
        const auto found = pending_.find(weak.lock());
        if (found != pending_.end()) found->second.place.Hold(held);
    });
    Serve(link);
}

void LinkAcceptor::Keep(const LinkPtr &link, Strangers::Place place) {
    place.SetEnding([this, weak = std::weak_ptr<Link>(link)](const char *why) {
        LLDD_ON_IO_THREAD(*loop_);
        const LinkPtr ended = weak.lock();
        if (ended == nullptr) return;
        LLDD_LOG(LLDD_LOG_INFO, "a link that %s wanted %s", ended->peer_name().c_str(), why);
        ended->channel().Close();
        ForgetPending(ended);
    });
    pending_[link].place = std::move(place);
}

void LinkAcceptor::OnRequest(const std::weak_ptr<Link> &weak, uint16_t kind, uint32_t request_id,
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
    if (in_order && Answer(link, kind, request_id, body)) return;
    LLDD_LOG(
        LLDD_LOG_WARNING,
        "%s sent request %u, unknown, unreadable or at the wrong time; its connection is closed",
        link->peer_name().c_str(), kind);
    link->channel().Close();
    OnClosed(weak);
}

bool LinkAcceptor::Answer(const LinkPtr &link, uint16_t kind, uint32_t request_id,
                          std::string_view body) {
    switch (kind) {
        case wire::kLinkRequest: OnLinkRequest(link, request_id, body); return true;
        case wire::kLinkConfirm: OnLinkConfirm(link, request_id); return true;
        case wire::kUnlink: OnUnlink(link, request_id); return true;
        case wire::kDialStream:
            if (link->identity().end == LinkEnd::kAcceptor) return false;
            link->DialFor(request_id);
            return true;
        case wire::kHeartbeat: link->channel().Answer(kind, request_id, {}); return true;
        case wire::kReport: return TakeReport(link.get(), body);
        case wire::kEventsWanted: return options_.events->TakeWanted(link.get(), request_id, body);
        case wire::kEvent: return options_.events->TakeEvent(link.get(), body);
        case wire::kReplaced: return OnReplaced(link, body);
        case wire::kMessage: return link->OnMessage(request_id, body);
        case wire::kBoxCalls: return options_.box_reports->TakeCalls(link.get(), body);
        case wire::kBoxClock: return options_.box_reports->TakeClock(link.get(), body);
        default: return owner_->OnRequest(link, kind, request_id, body);
    }
}

void LinkAcceptor::OnLinkRequest(const LinkPtr &link, uint32_t request_id, std::string_view body) {
    wire::LinkRequest request;
    wire::LinkReply reply;
    Pending &pending = pending_.at(link);
    const bool readable = request.Decode(body) && !pending.prepared &&
                          (link->identity().has_secret || request.cluster_id == link->peer());
    const std::string proof = std::exchange(request.proof, "");
    if (!readable) {
        reply.status = LLDD_LINK_FAILED;
        reply.text = "the request cannot be read";
    } else if (!SameDigest(proof, options_.ProofOf(*link, LinkEnd::kInitiator, request.Encode()))) {
        reply.status = LLDD_LINK_FAILED;
        reply.text = "the two ends have different auth tokens";
    } else {
        link->SetPeer(request.cluster_id);
        pending.replace = request.replace;
        pending.attempts = directory_->AttemptsAt(request.cluster_id);
        reply = PrepareLink(link, request);
        pending.prepared = reply.status == LLDD_SUCCESS;
        if (pending.prepared) {
            reply.proof = options_.ProofOf(*link, LinkEnd::kAcceptor, reply.Encode());
            link->channel().SetMaxBody(kMaxPreparedBody);
            if (!link->identity().has_secret)
                Keep(link,
                     prepared_.Admit(link->identity().peer_address.Network(), [](const char *) {}));
        }
    }
    link->channel().Answer(wire::kLinkRequest, request_id, reply.Encode());
    if (reply.status != LLDD_SUCCESS) {
        LLDD_LOG(LLDD_LOG_WARNING, "a link that %s wanted is refused: %s: %s",
                 link->peer_name().c_str(), StatusName(reply.status), reply.text.c_str());
        ForgetPending(link);
        link->channel().CloseAfterFlush();
    }
}

// Whether this end wants the link.
Status LinkAcceptor::CheckRequest(const wire::LinkRequest &request) const {
    const uint64_t peer = request.cluster_id;
    const auto own = Printable(options_.cluster_id);
    if (!request.group.empty() && (groups_ == nullptr || !groups_->Expects(request.group, peer))) {
        return Failure(LLDD_LINK_FAILED,
                       "cluster %llu is in no communicator \"%s\" that waits for cluster %llu", own,
                       request.group.c_str(), Printable(peer));
    }
    const bool to_itself = peer == options_.cluster_id;
    const bool may_repeat =
        options_.one_way() || to_itself || !request.group.empty() || request.replace;
    if (!may_repeat && directory_->Find(peer) != nullptr) {
        return Failure(LLDD_ALREADY_LINK, "cluster %llu has a link to cluster %llu already", own,
                       Printable(peer));
    }
    if (request.group.empty() && directory_->OwnLinkGoesFirst(peer, directory_->AttemptsAt(peer))) {
        return Failure(LLDD_ALREADY_LINK,
                       "cluster %llu is linking to cluster %llu at the same time", own,
                       Printable(peer));
    }
    if (request.mode != options_.mode) {
        return Failure(LLDD_PARAM_INVALID,
                       "cluster %llu is in %s, cluster %llu in %s; both must be in one mode", own,
                       ModeName(options_.mode), Printable(peer), ModeName(request.mode));
    }
    if (request.link_style != options_.link_style) {
        return Failure(LLDD_PARAM_INVALID,
                       "cluster %llu and cluster %llu use different transfer backends", own,
                       Printable(peer));
    }
    return Status::Ok();
}

wire::LinkReply LinkAcceptor::PrepareLink(const LinkPtr &link, const wire::LinkRequest &request) {
    link->SetNonce(request.nonce);
    link->SetGroup(request.group);
    wire::LinkReply reply;
    Status status = CheckRequest(request);
    if (status.ok()) status = device_->Endpoint(request.nonce, &reply.endpoint);
    if (status.ok()) status = ConnectDevice(link, request);
    reply.status = status.code();
    reply.text = status.text();
    return reply;
}

Status LinkAcceptor::ConnectDevice(const LinkPtr &link, const wire::LinkRequest &request) {
    ConnectionSetup setup;
    setup.end = LinkEnd::kAcceptor;
    setup.nonce = request.nonce;
    setup.key = link->identity().key;
    setup.peer = link->peer();
    setup.peer_endpoint = request.endpoint;
    setup.streams = link.get();
    setup.passive = options_.one_way() || request.cluster_id == options_.cluster_id;
    std::unique_ptr<Connection> connection;
    LLDD_RETURN_IF_ERROR(device_->Connect(setup, Deadline::Passed(), &connection));
    link->SetConnection(std::move(connection));
    return Status::Ok();
}

void LinkAcceptor::OnLinkConfirm(const LinkPtr &link, uint32_t request_id) {
    const Pending pending = std::move(pending_.at(link));
    ForgetPending(link);
    const Status status = Accept(link, pending);
    if (status.ok()) {
        link->channel().SetMaxBody(wire::kMaxBody);
        link->channel().SetHeldHandler(nullptr);
        link->AllowRequests();
        link->Established();
        options_.events->AskOnly(link.get());
        LogLinkMade(options_.box, *link);
    }
    link->channel().Answer(wire::kLinkConfirm, request_id, wire::StatusBody::Of(status).Encode());
    if (!status.ok()) {
        directory_->Remove(link);
        link->ShutdownWhenIdle([link] { link->channel().CloseAfterFlush(); });
    }
}

Status LinkAcceptor::Accept(const LinkPtr &link, const Pending &pending) {
    if (!pending.prepared) return Failure(LLDD_LINK_FAILED, "confirmed before it was requested");
    LLDD_RETURN_IF_ERROR(link->connection()->Confirm());
    if (!link->identity().group.empty()) {
        directory_->Store(link);
        if (groups_->OnAccepted(link)) return Status::Ok();
        return Failure(LLDD_LINK_FAILED, "the communicator was left meanwhile");
    }
    if (directory_->OwnLinkGoesFirst(link->peer(), pending.attempts)) {
        return Failure(LLDD_ALREADY_LINK,
                       "cluster %llu has linked to cluster %llu at the same time",
                       Printable(options_.cluster_id), Printable(link->peer()));
    }
    if (pending.replace && !options_.one_way()) DropReplaced(*link);
    if (directory_->Store(link)) return Status::Ok();
    return Failure(LLDD_ALREADY_LINK, "another link from this cluster was made meanwhile");
}

// The initiator has no link to this end, so an old one can no longer be used.
void LinkAcceptor::DropReplaced(const Link &link) {
    const LinkPtr old = directory_->Find(link.peer());
    if (old == nullptr || link.peer() == options_.cluster_id || !old->identity().group.empty())
        return;
    if (!old->peer_gone() && !directory_->IsLinkingTo(link.peer())) {
        notices_->Add(
            Format("a new link from cluster %llu at %s replaced a live one from %s: two clients "
                   "may be using one cluster id",
                   Printable(link.peer()), link.identity().peer_address.ToString().c_str(),
                   old->identity().peer_address.ToString().c_str()));
    }
    LogLinkEnded(options_.box, *old,
                 "replaced by one from " + link.identity().peer_address.ToString());
    old->channel().Tell(wire::kReplaced, link.identity().peer_address.ToString());
    DropWhenIdle(old, [old] { old->channel().CloseAfterFlush(); });
}

// Another client has linked to the peer with the id of this engine.
bool LinkAcceptor::OnReplaced(const LinkPtr &link, std::string_view body) {
    constexpr std::string_view kOfAddresses = "0123456789abcdefABCDEF.:[]%";
    if (body.empty() || body.size() > 64 || body.find_first_not_of(kOfAddresses) != body.npos)
        return false;
    const std::string from(body);
    link->NoteReason("; replaced by a link from " + from +
                     ", whose client uses the cluster id of this one");
    LogLinkEnded(options_.box, *link, "replaced by one from " + from);
    notices_->Add(
        Format("the link to %s is replaced by one from %s: another client uses cluster id %llu, "
               "too; give each a cluster id of its own",
               link->peer_name().c_str(), from.c_str(), Printable(options_.cluster_id)));
    return true;
}

void LinkAcceptor::DropWhenIdle(const LinkPtr &link, std::function<void()> then) {
    directory_->Remove(link);
    owner_->OnLinkDown(*link);
    link->ShutdownWhenIdle(std::move(then));
}

void LinkAcceptor::OnUnlink(const LinkPtr &link, uint32_t request_id) {
    if (Connection *const connected = link->connection()) connected->Unlinked();
    options_.box_reports->Tell();
    SendReport(link.get());
    if (link->unlink_under_way.load()) {
        // A thread of this end has the turn and waits for the same answer.
        directory_->Remove(link);
        link->channel().Answer(wire::kUnlink, request_id, {});
        return;
    }
    LogLinkEnded(options_.box, *link, "unlinked by the peer");
    DropWhenIdle(link, [link, request_id] {
        link->channel().Answer(wire::kUnlink, request_id, {});
        link->channel().CloseAfterFlush();
    });
}

void LinkAcceptor::OnClosed(const std::weak_ptr<Link> &weak) {
    const LinkPtr link = weak.lock();
    if (link == nullptr) return;
    link->PeerGone();
    options_.events->LinkEnded();
    owner_->OnLinkDown(*link);
    if (pending_.count(link) != 0) {
        ForgetPending(link);
        return;
    }
    if (link->unlinked()) return;
    LogLinkEnded(options_.box, *link, std::string("lost: ") + kConnectionClosed);
    const int error = link->channel().lost_error();
    if (error == ETIMEDOUT || error == EHOSTUNREACH || error == ENETUNREACH) {
        LLDD_LOG(LLDD_LOG_WARNING,
                 "the peer of the link to %s is gone: its host has not answered for %u ms "
                 "(lldd.PeerTimeout)",
                 link->peer_name().c_str(), options_.peer_timeout_ms);
    }
    const LinkPtr dropped = directory_->PeerGone(link);
    if (link->unlinked()) link->ShutdownWhenIdle([] {});
    if (dropped == nullptr) return;
    LLDD_LOG(LLDD_LOG_WARNING,
             "the link to %s is removed: its peer is gone, and so are those of %zu newer links",
             dropped->peer_name().c_str(), kMaxGone);
    dropped->ShutdownWhenIdle([] {});
}

void LinkAcceptor::ForgetPending(const LinkPtr &link) { pending_.erase(link); }

}  // namespace lldd
