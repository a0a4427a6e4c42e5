// SPDX-License-Identifier: Apache-2.0
#include "engine/links.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <system_error>
#include <thread>
#include <utility>

#include "base/hmac.h"
#include "base/log.h"
#include "base/thread.h"

namespace lldd {
namespace {

// As many clusters of one call are handled at the same time.
constexpr size_t kParallel = 16;
// Whoever has greeted must have linked within this time.
constexpr uint64_t kHandshakeMs = 60000;
constexpr size_t kMaxPending = 128;
// What a stranger may send at once: an endpoint with a hundred thousand regions.
constexpr uint32_t kMaxStrangersBody = 4u << 20;

unsigned long long Printable(uint64_t number) {
    return number;
}

const char *ModeName(uint32_t mode) {
    return mode == LLDD_MODE_ONE_SIDED ? "one-sided mode (remote cache accessible)"
                                       : "request mode (remote cache not accessible)";
}

// The results of body(spec) for each spec, several at a time.
template <typename Body>
std::vector<ClusterResult> InParallel(const std::vector<ClusterSpec> &specs, const Body &body) {
    const size_t count = specs.size();
    std::vector<ClusterResult> results(count);
    std::atomic<size_t> next{0};
    const auto work = [&] {
        for (size_t i = next++; i < count; i = next++) {
            try {
                results[i] = body(specs[i]);
            } catch (const std::exception &error) {
                results[i].status =
                    Failure(LLDD_FAILED, "an error inside the library: %s", error.what());
            }
        }
    };
    std::vector<std::thread> threads;
    for (size_t i = 1; i < std::min(count, kParallel); ++i) {
        try {
            threads.push_back(StartThread("lldd-link", work));
        } catch (const std::system_error &error) {
            // Fewer threads only make it slower.
            LLDD_LOG(LLDD_LOG_WARNING, "cannot start a thread for linking: %s", error.what());
            break;
        }
    }
    work();
    for (std::thread &thread : threads) thread.join();
    return results;
}

Status OneRemoteAddress(const ClusterSpec &spec, SocketAddress *address) {
    if (spec.remote.size() != 1) {
        return Failure(LLDD_PARAM_INVALID, "exactly one remote ip info is needed, %zu are given",
                       spec.remote.size());
    }
    return SocketAddress::Parse(spec.remote[0].ip, spec.remote[0].port, address);
}

}  // namespace

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
      acceptor_(loop, [this](Fd socket,
                             const wire::Hello &hello) { OnGreeted(std::move(socket), hello); }),
      group_acceptor_(loop, [this](Fd socket, const wire::Hello &hello) {
          OnGreeted(std::move(socket), hello);
      }) {}

Links::~Links() {
    CloseAll(Deadline::Passed());
}

// ------------------------------------------------------------------------------------------------
// directory ----

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
    for (LinkPtr &link : All()) {
        if (link->identity().group.empty() &&
            link->identity().peer_address.ToString() == address.ToString()) {
            return std::move(link);
        }
    }
    return nullptr;
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

std::shared_ptr<Link> Links::FindByNonce(const LinkNonce &nonce) const {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<LinkPtr> links = AllLocked();
    links.insert(links.end(), hidden_.begin(), hidden_.end());
    for (LinkPtr &link : links) {
        if (link->identity().end == LinkEnd::kAcceptor && link->identity().nonce == nonce)
            return std::move(link);
    }
    return nullptr;
}

bool Links::Store(const LinkPtr &link) {
    std::lock_guard<std::mutex> lock(mutex_);
    const bool to_itself = link->peer() == options_.cluster_id;
    const bool passive = link->identity().end == LinkEnd::kAcceptor && (to_itself || one_way());
    if (passive || !link->identity().group.empty()) {
        hidden_.insert(link);
        return true;
    }
    std::vector<LinkPtr> &links = by_peer_[link->peer()];
    if (!links.empty()) return false;
    links.push_back(link);
    made_.fetch_add(1, std::memory_order_relaxed);
    return true;
}

bool Links::Remove(const LinkPtr &link) {
    std::lock_guard<std::mutex> lock(mutex_);
    link->MarkUnlinked();
    if (hidden_.erase(link) != 0) return true;
    const auto found = by_peer_.find(link->peer());
    if (found == by_peer_.end()) return false;
    std::vector<LinkPtr> &links = found->second;
    const auto place = std::find(links.begin(), links.end(), link);
    if (place == links.end()) return false;
    links.erase(place);
    if (links.empty()) by_peer_.erase(found);
    return true;
}

Status Links::TakeDown(const LinkPtr &link, const Deadline &deadline) {
    Remove(link);
    Status status = link->Shutdown(deadline);
    link->channel().Close();
    loop_->RunAndWait([&] { host_->OnLinkDown(*link); });
    return status;
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

// ------------------------------------------------------------------------------------------------
// initiator ----

// While it lives, this end is linking to that cluster.
class Links::Linking {
public:
    Linking(Links *links, uint64_t cluster_id) : links_(links) {
        std::lock_guard<std::mutex> lock(links_->mutex_);
        place_ = links_->linking_to_.insert(cluster_id);
        ++links_->attempts_[cluster_id];
    }
    ~Linking() {
        std::lock_guard<std::mutex> lock(links_->mutex_);
        links_->linking_to_.erase(place_);
    }
    Linking(const Linking &) = delete;
    Linking &operator=(const Linking &) = delete;

private:
    Links *const links_;
    std::multiset<uint64_t>::iterator place_;
};

// Both ends may link to each other at the same time. The link of the end with the smaller id is the
// one that stays: that end refuses the other's, as long as its own is being made or if it was made
// since the other was prepared.
bool Links::OwnLinkGoesFirst(uint64_t peer, uint64_t attempts_before) const {
    std::lock_guard<std::mutex> lock(mutex_);
    if (one_way() || options_.cluster_id >= peer) return false;
    if (linking_to_.count(peer) != 0) return true;
    const auto attempts = attempts_.find(peer);
    return attempts != attempts_.end() && attempts->second != attempts_before &&
           by_peer_.count(peer) != 0;
}

uint64_t Links::AttemptsAt(uint64_t peer) const {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto attempts = attempts_.find(peer);
    return attempts == attempts_.end() ? 0 : attempts->second;
}

bool Links::IsLinkingTo(uint64_t peer) const {
    std::lock_guard<std::mutex> lock(mutex_);
    return linking_to_.count(peer) != 0;
}

std::vector<ClusterResult> Links::LinkClusters(const std::vector<ClusterSpec> &specs,
                                               const Deadline &deadline) {
    return InParallel(specs, [&](const ClusterSpec &spec) { return LinkOne(spec, deadline); });
}

ClusterResult Links::LinkOne(const ClusterSpec &spec, const Deadline &deadline) {
    ClusterResult result;
    result.cluster_id = spec.id;
    SocketAddress address;
    result.status = OneRemoteAddress(spec, &address);
    if (!result.status.ok()) return result;
    if (one_way() && acceptor_.address().ToString() == address.ToString()) {
        result.status =
            Failure(LLDD_PARAM_INVALID, "%s is the own address", address.ToString().c_str());
        return result;
    }
    LinkPtr link;
    result.status = Dial(address, deadline, {}, &link);
    if (!result.status.ok()) return result;
    result.cluster_id = link->peer();
    result.status =
        one_way() ? LinkOneWay(spec, link, deadline) : LinkMutually(spec, link, deadline);
    return result;
}

Status Links::LinkMutually(const ClusterSpec &spec, const LinkPtr &link, const Deadline &deadline) {
    // An old link is replaced when the client holds none under the id it gave: it may have forced
    // it down, or name the peer wrongly.
    const LinkPtr named = Find(spec.has_id ? spec.id : link->peer());
    const LinkPtr old = Find(link->peer());
    // A communicator's link is not this call's to replace.
    if (old != nullptr && (named != nullptr || !old->identity().group.empty())) {
        return Failure(LLDD_ALREADY_LINK, "%s is linked already; unlink first",
                       old->peer_name().c_str());
    }
    if (old != nullptr) {
        const Link::Turn turn(old);
        LLDD_RETURN_IF_ERROR(TakeDown(old, deadline));
    }
    const Linking linking(this, link->peer());
    Status status = Shake(link, named == nullptr, deadline);
    if (status.ok()) return status;
    status = Undo(link, deadline, std::move(status));
    if (status.code() == LLDD_LINK_FAILED && Find(link->peer()) != nullptr) {
        return Status(LLDD_ALREADY_LINK,
                      status.text() + "; the peer has made a link at the same time");
    }
    return status;
}

// The peer is known under the id that the client gave, and only this end may use the link.
Status Links::LinkOneWay(const ClusterSpec &spec, const LinkPtr &link, const Deadline &deadline) {
    LinkPtr old = FindByAddress(link->identity().peer_address);
    if (spec.has_id) link->SetPeer(spec.id);
    if (old == nullptr) old = Find(link->peer());
    if (old != nullptr) {
        return Failure(LLDD_ALREADY_LINK, "%s is linked already; unlink first",
                       old->peer_name().c_str());
    }
    Status status = Shake(link, false, deadline);
    return status.ok() ? status : Undo(link, deadline, std::move(status));
}

Status Links::Dial(const SocketAddress &address, const Deadline &deadline, Link::Identity identity,
                   LinkPtr *link) {
    Fd socket;
    wire::Hello peer;
    const wire::Hello own = OwnHello();
    LLDD_RETURN_IF_ERROR(lldd::Connect(address, deadline, &socket));
    LLDD_RETURN_IF_ERROR(Greet(socket.get(), deadline, own, &peer));
    identity.initiator_greeting = own.nonce;
    identity.acceptor_greeting = peer.nonce;
    identity.own_cluster_id = options_.cluster_id;
    identity.peer_cluster_id = peer.cluster_id;
    identity.end = LinkEnd::kInitiator;
    identity.peer_address = address;
    identity.nonce = RandomNonce();
    *link = std::make_shared<Link>(loop_, std::move(identity), std::move(socket));
    return Status::Ok();
}

Status Links::Undo(const LinkPtr &link, const Deadline &deadline, Status status) {
    const Link::Turn turn(link);
    const Status down = TakeDown(link, deadline);
    if (!down.ok()) LLDD_LOG(LLDD_LOG_WARNING, "half a link taken down: %s", down.text().c_str());
    return std::move(status).WithPrefix("link to " + link->peer_name() + ": ");
}

// ----------------------------------------------------------------------------------------------
// communicators ----

Status Links::StartAcceptingForGroups(SocketAddress *address) {
    if (!group_acceptor_.listening()) {
        SocketAddress any_port;
        LLDD_RETURN_IF_ERROR(SocketAddress::Parse("127.0.0.1", 0, &any_port));
        LLDD_RETURN_IF_ERROR(group_acceptor_.Start(any_port));
    }
    *address = group_acceptor_.address();
    return Status::Ok();
}

Status Links::LinkForGroup(const SocketAddress &address, uint64_t peer, const std::string &group,
                           uint64_t comm_id, const Deadline &deadline, std::shared_ptr<Link> *out) {
    Link::Identity identity;
    identity.group = group;
    identity.comm_id = comm_id;
    LinkPtr link;
    LLDD_RETURN_IF_ERROR(Dial(address, deadline, std::move(identity), &link));
    Status status =
        link->peer() == peer
            ? Shake(link, false, deadline)
            : Failure(LLDD_LINK_FAILED, "cluster %llu was expected there", Printable(peer));
    if (!status.ok()) return Undo(link, deadline, std::move(status));
    *out = link;
    return Status::Ok();
}

void Links::PublishGroupLinks(const std::vector<std::shared_ptr<Link>> &links) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const LinkPtr &link : links) {
        if (hidden_.erase(link) == 0) continue;
        by_peer_[link->peer()].push_back(link);
        made_.fetch_add(1, std::memory_order_relaxed);
    }
}

Status Links::EndGroupLink(const std::shared_ptr<Link> &link, const Deadline &deadline) {
    const Link::Turn turn(link);
    return TakeDown(link, deadline);
}

// ---------------------------------------------------------------------------------------------------
// handshake ----

wire::Hello Links::OwnHello() const {
    wire::Hello hello;
    hello.auth = options_.secret.empty() ? wire::Auth::kNone : wire::Auth::kHmacSha256;
    hello.cluster_id = options_.cluster_id;
    hello.nonce = RandomNonce();
    return hello;
}

Status Links::CheckAuth(const wire::Hello &peer) const {
    if (peer.auth == wire::Auth::kNone && !options_.secret.empty()) {
        return Failure(LLDD_LINK_FAILED, "this end has an auth token, the other end has none");
    }
    if (peer.auth != wire::Auth::kNone && options_.secret.empty()) {
        return Failure(LLDD_LINK_FAILED, "the other end asks for an auth token, this end has none");
    }
    return Status::Ok();
}

std::string Links::ProofOf(const Link &link, LinkEnd sender, const std::string &message) const {
    const Link::Identity &identity = link.identity();
    return wire::Proof(options_.secret, sender, identity.initiator_greeting,
                       identity.acceptor_greeting, message);
}

// Each end tells the version, a nonce and how it wants to be convinced of the other's right to
// link.
Status Links::Greet(int socket, const Deadline &deadline, const wire::Hello &own,
                    wire::Hello *peer) {
    const auto bytes = own.Encode();
    char answer[wire::Hello::kSize];
    Status status = SendAll(socket, bytes.data(), bytes.size(), deadline);
    if (status.ok()) status = ReceiveAll(socket, answer, sizeof answer, deadline);
    if (!status.ok()) {
        return Failure(status.code() == LLDD_TIMEOUT ? LLDD_TIMEOUT : LLDD_LINK_FAILED,
                       "%s accepted the connection but did not answer: %s",
                       SocketAddress::OfPeer(socket).ToString().c_str(), status.text().c_str());
    }
    LLDD_RETURN_IF_ERROR(peer->Decode({answer, sizeof answer}));
    return CheckAuth(*peer);
}

// From the request to the stored link. The channel runs already, so that a dying peer is noticed at
// once.
Status Links::Shake(const LinkPtr &link, bool replace, const Deadline &deadline) {
    wire::LinkRequest request;
    request.cluster_id = options_.cluster_id;
    request.mode = options_.mode;
    request.link_style = options_.link_style;
    request.replace = replace;
    request.nonce = link->identity().nonce;
    request.group = link->identity().group;
    LLDD_RETURN_IF_ERROR(device_->Endpoint(request.nonce, &request.endpoint));
    request.proof = ProofOf(*link, LinkEnd::kInitiator, request.Encode());
    StartChannel(link);

    const auto ask = [&](wire::Kind kind, const std::string &body, std::string *answer) {
        const Status status = link->channel().Call(kind, body, deadline, answer);
        if (status.ok() || status.code() == LLDD_TIMEOUT) return status;
        return Failure(LLDD_LINK_FAILED, "%s", status.text().c_str());
    };
    std::string answer;
    LLDD_RETURN_IF_ERROR(ask(wire::kLinkRequest, request.Encode(), &answer));
    wire::LinkReply reply;
    if (!reply.Decode(answer)) return Failure(LLDD_LINK_FAILED, "the peer's answer cannot be read");
    if (reply.status != LLDD_SUCCESS)
        return Status(reply.status, "refused by the peer: " + reply.text);
    const std::string proof = std::exchange(reply.proof, "");
    if (!SameDigest(proof, ProofOf(*link, LinkEnd::kAcceptor, reply.Encode()))) {
        return Failure(LLDD_LINK_FAILED, "the peer has another auth token");
    }

    ConnectionSetup setup;
    setup.end = LinkEnd::kInitiator;
    setup.nonce = request.nonce;
    setup.peer_endpoint = std::move(reply.endpoint);
    setup.streams = link.get();
    std::unique_ptr<Connection> connection;
    LLDD_RETURN_IF_ERROR(device_->Connect(setup, deadline, &connection));
    link->SetConnection(std::move(connection));

    // Stored before the peer is told, which may use the link as soon as it knows.
    if (!Store(link))
        return Failure(LLDD_ALREADY_LINK, "another link to this peer was made meanwhile");
    link->AllowRequests();
    LLDD_RETURN_IF_ERROR(ask(wire::kLinkConfirm, {}, &answer));
    wire::StatusBody done;
    if (!done.Decode(answer)) return Failure(LLDD_LINK_FAILED, "the peer's answer cannot be read");
    if (done.status != LLDD_SUCCESS)
        return Status(done.status, "refused by the peer: " + done.text);
    return Status::Ok();
}

std::vector<ClusterResult> Links::UnlinkClusters(const std::vector<ClusterSpec> &specs,
                                                 const Deadline &deadline, bool force) {
    return InParallel(specs,
                      [&](const ClusterSpec &spec) { return UnlinkOne(spec, deadline, force); });
}

ClusterResult Links::UnlinkOne(const ClusterSpec &spec, const Deadline &deadline, bool force) {
    ClusterResult result;
    result.cluster_id = spec.id;
    const bool local_only = force || one_way();
    SocketAddress address;
    if (!local_only || !spec.has_id) {
        result.status = OneRemoteAddress(spec, &address);
        if (!result.status.ok()) return result;
    }
    LinkPtr link;
    if (spec.has_id) {
        link = FindByClusters(spec.id);
    } else {
        link = FindByAddress(address);
    }
    if (link == nullptr) return result;
    result.cluster_id = link->peer();

    const Link::Turn turn(link);
    if (link->unlinked()) return result;
    if (!local_only) {
        const Status told = UnlinkBoth(link, deadline);
        if (!told.ok()) {
            result.status = Status(
                told.code(), "unlink from " + link->peer_name() + ": " + told.text(), told.raw());
            return result;
        }
    }
    result.status = TakeDown(link, deadline);
    return result;
}

Status Links::UnlinkBoth(const LinkPtr &link, const Deadline &deadline) {
    if (link->peer_gone()) return Failure(LLDD_UNLINK_FAILED, "%s", kConnectionClosed);
    std::string answer;
    link->unlink_under_way.store(true);
    const Status status = link->channel().Call(wire::kUnlink, {}, deadline, &answer);
    link->unlink_under_way.store(false);
    // Both ends may unlink at the same time, and the other one be done first.
    if (status.ok() || link->unlinked()) return Status::Ok();
    if (status.code() == LLDD_TIMEOUT) return status;
    return Failure(LLDD_UNLINK_FAILED, "%s", status.text().c_str());
}

// -------------------------------------------------------------------------------------------------
// acceptor ----

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
    if (pending_.size() >= kMaxPending) return;
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
    link->channel().SetMaxBody(kMaxStrangersBody);
    StartChannel(link);
}

void Links::OnRequest(const std::weak_ptr<Link> &weak, uint16_t kind, uint32_t request_id,
                      std::string_view body) {
    const LinkPtr link = weak.lock();
    if (link == nullptr) return;
    const bool accepting = pending_.count(link) != 0;
    const bool handshake = kind == wire::kLinkRequest || kind == wire::kLinkConfirm;
    const bool in_order = accepting ? handshake : !handshake && link->requests_allowed();
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
    link->SetNonce(request.nonce);
    link->SetGroup(request.group);
    if (!request.group.empty() &&
        (groups_ == nullptr || !groups_->Expects(request.group, request.cluster_id))) {
        return refuse(Failure(
            LLDD_LINK_FAILED,
            "cluster %llu is in no communicator \"%s\" that waits for cluster %llu",
            Printable(options_.cluster_id), request.group.c_str(), Printable(request.cluster_id)));
    }
    const bool may_repeat = one_way() || request.cluster_id == options_.cluster_id ||
                            !request.group.empty() || request.replace;
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
    setup.peer_endpoint = request.endpoint;
    setup.streams = link.get();
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
        if (link->identity().group.empty() && hidden_.erase(link) != 0) link->MarkUnlinked();
    }
    if (usable) lost_.fetch_add(1, std::memory_order_relaxed);
    if (link->unlinked()) link->ShutdownWhenIdle([] {});
}

void Links::ForgetPending(const LinkPtr &link) {
    const auto found = pending_.find(link);
    if (found == pending_.end()) return;
    loop_->Cancel(found->second.timer);
    pending_.erase(found);
}

}  // namespace lldd
