// SPDX-License-Identifier: Apache-2.0
#include "engine/link_initiator.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <future>
#include <system_error>
#include <thread>
#include <utility>

#include "base/hmac.h"
#include "base/io_thread.h"
#include "base/log.h"
#include "base/thread.h"
#include "engine/box_reports.h"
#include "engine/greeting.h"
#include "engine/life_log.h"
#include "engine/reports.h"

namespace lldd {
namespace {

// How many clusters of one call are handled at the same time.
constexpr size_t kParallel = 16;

// The results of body(spec) for each spec, several at a time, all until the deadline.
template <typename Body>
std::vector<ClusterResult> InParallel(const std::vector<ClusterSpec> &specs,
                                      const Deadline &deadline, const Body &body) {
    const size_t count = specs.size();
    std::vector<ClusterResult> results(count);
    std::atomic<size_t> next{0};
    const auto work = [&] {
        for (size_t i = next++; i < count; i = next++) {
            try {
                results[i] = body(specs[i]);
                results[i].status = WithCause(std::move(results[i].status), deadline.cause());
            } catch (const std::exception &error) {
                results[i].status =
                    Failure(LLDD_FAILED, "an error inside the library: %s", error.what());
            }
        }
    };
    std::vector<std::thread> threads;
    std::vector<std::promise<void>> ends(count == 0 ? 0 : std::min(count, kParallel) - 1);
    for (std::promise<void> &end : ends) {
        try {
            threads.push_back(StartThread("lldd-link", [&] {
                work();
                end.set_value();
            }));
        } catch (const std::system_error &error) {
            // Fewer threads only make it slower.
            LLDD_LOG(LLDD_LOG_WARNING, "cannot start a thread for linking: %s", error.what());
            break;
        }
    }
    work();
    // Only the caller's thread learns of Ctrl-C, so it looks as long as the others wait.
    for (size_t i = 0; i < threads.size(); ++i) {
        const std::future<void> ended = ends[i].get_future();
        while (ended.wait_until(deadline.NextLook()) != std::future_status::ready &&
               !deadline.passed()) {
            deadline.LookAtCaller();
        }
        threads[i].join();
    }
    return results;
}

// The contract's status for a link that could not be made because descriptors had run out, wherever
// one was needed.
Status AsLinkStatus(Status status) {
    if (!OutOfDescriptors(status.raw())) return status;
    return Status(LLDD_LINK_FAILED, status.text(), status.raw());
}

// Where to dial from: not given if the client has not said so.
Status LocalAddress(const ClusterSpec &spec, const SocketAddress &remote, SocketAddress *from) {
    for (const auto &local : spec.local) {
        SocketAddress address;
        LLDD_RETURN_IF_ERROR(SocketAddress::Parse(local.ip, local.port, &address));
        const bool fits = address.family() == remote.family();
        if (!from->given() || fits) *from = address;
        if (fits) break;
    }
    return Status::Ok();
}

Status OneRemoteAddress(const ClusterSpec &spec, SocketAddress *address) {
    if (spec.remote.size() != 1) {
        return Failure(LLDD_PARAM_INVALID, "exactly one remote ip info is needed, %zu are given",
                       spec.remote.size());
    }
    Status status = SocketAddress::Parse(spec.remote[0].ip, spec.remote[0].port, address);
    return status.ok() ? status : std::move(status).WithPrefix("remote ip info: ");
}

}  // namespace

std::vector<ClusterResult> LinkInitiator::LinkClusters(const std::vector<ClusterSpec> &specs,
                                                       const Deadline &deadline) {
    LLDD_OFF_IO_THREAD(*loop_);
    return InParallel(specs, deadline,
                      [&](const ClusterSpec &spec) { return LinkOne(spec, deadline); });
}

ClusterResult LinkInitiator::LinkOne(const ClusterSpec &spec, const Deadline &deadline) {
    ClusterResult result;
    result.cluster_id = spec.id;
    SocketAddress address;
    result.status = OneRemoteAddress(spec, &address);
    if (!result.status.ok()) return result;
    if (options_.one_way() && acceptor_->listener().address().ToString() == address.ToString()) {
        result.status =
            Failure(LLDD_PARAM_INVALID, "%s is the own address", address.ToString().c_str());
        return result;
    }
    if (address.IsWildcard()) {
        notices_->Add(
            Format("link to %s: this is the address of no host; the connection goes "
                   "to this host, whichever one was meant",
                   address.ToString().c_str()));
    }
    LinkPtr link;
    Link::Identity identity;
    result.status = LocalAddress(spec, address, &identity.from);
    if (result.status.ok())
        result.status = AsLinkStatus(Dial(address, deadline, std::move(identity), &link));
    if (!result.status.ok()) return result;
    const uint64_t real_id = link->peer();
    result.cluster_id = real_id;
    result.status = AsLinkStatus(options_.one_way() ? LinkOneWay(spec, link, deadline)
                                                    : LinkMutually(spec, link, deadline));
    if (result.status.ok()) WarnOfId(spec, address, real_id);
    return result;
}

// Adds a notice if keys with the id that the client gave do not lead to the peer of the new link.
void LinkInitiator::WarnOfId(const ClusterSpec &spec, const SocketAddress &address,
                             uint64_t real_id) {
    const uint64_t used = options_.one_way() && spec.has_id ? spec.id : real_id;
    const std::string where = "link to " + address.ToString() + ": ";
    if (used == options_.cluster_id) {
        notices_->Add(where + Format("cluster %llu is the own cluster id, and a pull from it is "
                                     "refused",
                                     Printable(used)));
    } else if (spec.has_id && spec.id != used) {
        notices_->Add(where + Format("remote_cluster_id is %llu, but cluster %llu is there; keys "
                                     "must name %llu",
                                     Printable(spec.id), Printable(used), Printable(used)));
    }
}

Status LinkInitiator::AlreadyLinked(const Link &old) {
    return Failure(LLDD_ALREADY_LINK, "%s is linked already%s", old.peer_name().c_str(),
                   old.peer_gone()
                       ? "; its peer is gone: call unlink_clusters with force=True first"
                       : "; unlink first");
}

Status LinkInitiator::LinkMutually(const ClusterSpec &spec, const LinkPtr &link,
                                   const Deadline &deadline) {
    // Known before the directory is looked at, so that the peer's own link is not taken for an old
    // one.
    const LinkDirectory::Linking linking(directory_, link->peer());
    // An old link is replaced when the client holds none under the id it gave: it may have forced
    // it down, or name the peer wrongly.
    const LinkPtr old = directory_->Find(link->peer());
    const bool by_other_name = spec.has_id && spec.id != link->peer();
    const bool named = by_other_name ? directory_->Find(spec.id) != nullptr : old != nullptr;
    // This call does not replace the link of a communicator.
    if (old != nullptr && (named || !old->identity().group.empty())) {
        return AlreadyLinked(*old);
    }
    if (old != nullptr) LLDD_RETURN_IF_ERROR(End(old, deadline));
    Status status = Shake(link, !named, deadline);
    if (status.ok()) return status;
    status = Undo(link, deadline, std::move(status));
    if (status.code() == LLDD_LINK_FAILED && directory_->Find(link->peer()) != nullptr) {
        return Status(LLDD_ALREADY_LINK,
                      status.text() + "; the peer has made a link at the same time");
    }
    return status;
}

// The peer is known under the id that the client gave, and only this end may use the link.
Status LinkInitiator::LinkOneWay(const ClusterSpec &spec, const LinkPtr &link,
                                 const Deadline &deadline) {
    LinkPtr old = directory_->FindByAddress(link->identity().peer_address);
    if (spec.has_id) link->SetPeer(spec.id);
    if (old == nullptr) old = directory_->Find(link->peer());
    if (old != nullptr) {
        return AlreadyLinked(*old);
    }
    Status status = Shake(link, false, deadline);
    return status.ok() ? status : Undo(link, deadline, std::move(status));
}

Status LinkInitiator::Dial(const SocketAddress &address, const Deadline &deadline,
                           Link::Identity identity, LinkPtr *link) {
    Fd socket;
    wire::Hello peer;
    const wire::Hello own = options_.OwnHello();
    LLDD_RETURN_IF_ERROR(lldd::Connect(address, identity.from, deadline, &socket));
    WatchPeerHost(socket.get(), options_.peer_timeout_ms);
    LLDD_RETURN_IF_ERROR(device_->UseAddress(SocketAddress::OfSocket(socket.get()).ip(), false));
    LLDD_RETURN_IF_ERROR(Introduce(socket.get(), deadline, own, &peer, &identity.key));
    identity.has_secret = !options_.secret.empty();
    identity.peer_features = peer.features;
    identity.peer_timeout_ms = options_.peer_timeout_ms;
    identity.totals = options_.totals;
    identity.own_cluster_id = options_.cluster_id;
    identity.peer_cluster_id = peer.id;
    identity.end = LinkEnd::kInitiator;
    identity.peer_address = address;
    identity.nonce = RandomNonce();
    *link = std::make_shared<Link>(loop_, std::move(identity), std::move(socket));
    return Status::Ok();
}

Status LinkInitiator::Undo(const LinkPtr &link, const Deadline &deadline, Status status) {
    const Status down = End(link, deadline);
    if (!down.ok()) LLDD_LOG(LLDD_LOG_WARNING, "half a link taken down: %s", down.text().c_str());
    return std::move(status).WithPrefix("link to " + link->peer_name() + ": ");
}

// ---- communicators ----

Status LinkInitiator::LinkForGroup(const SocketAddress &address, const SocketAddress &from,
                                   uint64_t peer, const std::string &group, uint64_t comm_id,
                                   const Deadline &deadline, std::shared_ptr<Link> *out) {
    LLDD_OFF_IO_THREAD(*loop_);
    Link::Identity identity;
    identity.group = group;
    identity.comm_id = comm_id;
    identity.from = from;
    LinkPtr link;
    LLDD_RETURN_IF_ERROR(Dial(address, deadline, std::move(identity), &link));
    Status status =
        link->peer() == peer
            ? Shake(link, false, deadline)
            : Failure(LLDD_LINK_FAILED, "cluster %llu was expected there", Printable(peer));
    if (!status.ok()) return Undo(link, deadline, std::move(status));
    *out = std::move(link);
    return Status::Ok();
}

Status LinkInitiator::EndGroupLink(const std::shared_ptr<Link> &link, const Deadline &deadline) {
    LLDD_OFF_IO_THREAD(*loop_);
    return End(link, deadline);
}

// ---- handshake ----

// Each end sends its version and a nonce, and proves its right to link.
Status LinkInitiator::Introduce(int socket, const Deadline &deadline, const wire::Hello &own,
                                wire::Hello *peer, LinkKey *key) {
    const Status status = Greet(socket, own, options_.secret, deadline, peer, key);
    // What it has sent is wrong: the text says it.
    if (status.ok() || status.code() == LLDD_LINK_FAILED) return status;
    return Failure(status.code() == LLDD_TIMEOUT ? LLDD_TIMEOUT : LLDD_LINK_FAILED,
                   "%s accepted the connection but did not answer: %s",
                   SocketAddress::OfPeer(socket).ToString().c_str(), status.text().c_str());
}

// From the request to the stored link. The channel runs already, so that a dying peer is noticed at
// once.
Status LinkInitiator::Shake(const LinkPtr &link, bool replace, const Deadline &deadline) {
    ConnectionSetup setup;
    LLDD_RETURN_IF_ERROR(Request(link, replace, deadline, &setup.peer_endpoint));
    setup.end = LinkEnd::kInitiator;
    setup.nonce = link->identity().nonce;
    setup.key = link->identity().key;
    setup.peer = link->peer();
    setup.streams = link.get();
    setup.peer_passive = options_.one_way() || link->peer() == options_.cluster_id;
    std::unique_ptr<Connection> connection;
    LLDD_RETURN_IF_ERROR(device_->Connect(setup, deadline, &connection));
    link->SetConnection(std::move(connection));
    LLDD_RETURN_IF_ERROR(Confirm(link, deadline));
    LogLinkMade(options_.box, *link);
    return Status::Ok();
}

Status LinkInitiator::Ask(const LinkPtr &link, wire::Kind kind, const std::string &body,
                          const Deadline &deadline, std::string *answer) {
    const Status status = link->channel().Call(kind, body, deadline, answer);
    if (status.ok() || status.code() == LLDD_TIMEOUT) return status;
    return Failure(LLDD_LINK_FAILED, "%s", status.text().c_str());
}

// Each end learns the endpoint of the other and that it knows the secret.
Status LinkInitiator::Request(const LinkPtr &link, bool replace, const Deadline &deadline,
                              std::string *peer_endpoint) {
    wire::LinkRequest request;
    request.cluster_id = options_.cluster_id;
    request.mode = options_.mode;
    request.link_style = options_.link_style;
    request.replace = replace;
    request.nonce = link->identity().nonce;
    request.group = link->identity().group;
    LLDD_RETURN_IF_ERROR(device_->Endpoint(request.nonce, &request.endpoint));
    request.proof = options_.ProofOf(*link, LinkEnd::kInitiator, request.Encode());
    const std::string encoded = request.Encode();
    if (encoded.size() > wire::kMaxStrangersBody) {
        return Failure(LLDD_LINK_FAILED,
                       "the description of what is registered here has %zu bytes, %u are possible: "
                       "fewer and larger ranges must be registered",
                       encoded.size(), wire::kMaxStrangersBody);
    }
    acceptor_->Serve(link);
    std::string answer;
    LLDD_RETURN_IF_ERROR(Ask(link, wire::kLinkRequest, encoded, deadline, &answer));
    wire::LinkReply reply;
    if (!reply.Decode(answer)) return Failure(LLDD_LINK_FAILED, "the peer's answer cannot be read");
    if (reply.status != LLDD_SUCCESS)
        return Status(reply.status, "refused by the peer: " + reply.text);
    const std::string proof = std::exchange(reply.proof, "");
    if (!SameDigest(proof, options_.ProofOf(*link, LinkEnd::kAcceptor, reply.Encode()))) {
        return Failure(LLDD_LINK_FAILED, "the peer has another auth token");
    }
    *peer_endpoint = std::move(reply.endpoint);
    return Status::Ok();
}

// Stored before the peer is told, which may use the link as soon as it knows. Other threads of this
// end wait for their turn until the peer has confirmed: it takes nothing else before.
Status LinkInitiator::Confirm(const LinkPtr &link, const Deadline &deadline) {
    const Link::Turn turn(link, deadline);
    if (!turn) return Failure(LLDD_TIMEOUT, "the link is in use already");
    if (!directory_->Store(link))
        return Failure(LLDD_ALREADY_LINK, "another link to this peer was made meanwhile");
    link->AllowRequests();
    std::string answer;
    Status status = Ask(link, wire::kLinkConfirm, {}, deadline, &answer);
    wire::StatusBody done;
    if (status.ok() && !done.Decode(answer)) {
        status = Failure(LLDD_LINK_FAILED, "the peer's answer cannot be read");
    } else if (status.ok() && done.status != LLDD_SUCCESS) {
        status = Status(done.status, "refused by the peer: " + done.text);
    }
    if (status.ok()) {
        link->Established();
        options_.events->AskAndWait(link.get(), deadline);
    } else {
        directory_->Remove(link);
    }
    return status;
}

std::vector<ClusterResult> LinkInitiator::UnlinkClusters(const std::vector<ClusterSpec> &specs,
                                                         const Deadline &deadline, bool force) {
    LLDD_OFF_IO_THREAD(*loop_);
    return InParallel(specs, deadline,
                      [&](const ClusterSpec &spec) { return UnlinkOne(spec, deadline, force); });
}

ClusterResult LinkInitiator::UnlinkOne(const ClusterSpec &spec, const Deadline &deadline,
                                       bool force) {
    ClusterResult result;
    result.cluster_id = spec.id;
    const bool local_only = force || options_.one_way();
    SocketAddress address;
    if (!local_only || !spec.has_id) {
        result.status = OneRemoteAddress(spec, &address);
        if (!result.status.ok()) return result;
    }
    LinkPtr link;
    if (spec.has_id) {
        link = directory_->FindByClusters(spec.id);
    } else {
        link = directory_->FindByAddress(address);
    }
    if (link != nullptr) {
        result.cluster_id = link->peer();
        result.status = EndNamed(link, deadline, force);
    }
    // What an earlier link has left under way: the call that ended it was out of time, or did not
    // wait.
    if (!result.status.ok() || (link == nullptr && !spec.has_id)) return result;
    result.status = device_->AwaitLeft(result.cluster_id, deadline);
    if (!result.status.ok()) {
        result.status =
            std::move(result.status)
                .WithPrefix(Format("unlink from cluster %llu: ", Printable(result.cluster_id)));
    }
    return result;
}

Status LinkInitiator::EndNamed(const LinkPtr &link, const Deadline &deadline, bool force) {
    if (force) {
        link->Interrupt(InterruptCause::kUnlink);
        return End(link, deadline);
    }
    const Link::Turn turn(link, deadline);
    if (link->unlinked()) return Status::Ok();
    Status status = turn ? Status::Ok() : Failure(LLDD_TIMEOUT, "transfers have the link");
    options_.box_reports->Flush();
    if (status.ok() && !options_.one_way()) status = UnlinkBoth(link, deadline);
    if (status.ok()) return TakeDown(link, deadline);
    return std::move(status).WithPrefix("unlink from " + link->peer_name() + ": ");
}

Status LinkInitiator::DropGone(const Deadline &deadline, uint64_t *count) {
    LLDD_OFF_IO_THREAD(*loop_);
    Status last;
    *count = 0;
    for (const LinkPtr &link : directory_->All()) {
        // A communicator ends its own links.
        if (!link->peer_gone() || !link->identity().group.empty()) continue;
        Status status = End(link, deadline);
        if (!status.ok()) last = std::move(status);
        ++*count;
    }
    return last;
}

Status LinkInitiator::UnlinkBoth(const LinkPtr &link, const Deadline &deadline) {
    if (link->peer_gone()) {
        return Failure(LLDD_UNLINK_FAILED, "%s; call unlink_clusters with force=True",
                       kConnectionClosed);
    }
    SendReport(link.get());
    std::string answer;
    link->unlink_under_way.store(true);
    const Status status = link->channel().Call(wire::kUnlink, {}, deadline, &answer);
    link->unlink_under_way.store(false);
    Connection *const connected = link->connection();
    if (status.ok() && connected != nullptr) connected->Unlinked();
    // Both ends may unlink at the same time, and the other one be done first.
    if (status.ok() || link->unlinked()) return Status::Ok();
    if (status.code() == LLDD_TIMEOUT) return status;
    return Failure(LLDD_UNLINK_FAILED, "%s", status.text().c_str());
}

Status LinkInitiator::End(const LinkPtr &link, const Deadline &deadline) {
    const Link::Turn turn(link, deadline);
    if (turn) return TakeDown(link, deadline);
    if (directory_->Remove(link))
        LogLinkEnded(options_.box, *link, "ends with the transfer that has it");
    loop_->RunAndWait([&] { owner_->OnLinkDown(*link); });
    link->ShutdownWhenIdle([link] { link->channel().Close(); });
    return Failure(LLDD_TIMEOUT,
                   "unlink from %s: a transfer of this process still runs; the link ends with it",
                   link->peer_name().c_str());
}

Status LinkInitiator::TakeDown(const LinkPtr &link, const Deadline &deadline) {
    if (directory_->Remove(link)) LogLinkEnded(options_.box, *link, "ended by this end");
    SendReport(link.get());
    Status status = link->Shutdown(deadline);
    link->channel().Close();
    loop_->RunAndWait([&] { owner_->OnLinkDown(*link); });
    if (status.ok()) return status;
    return std::move(status).WithPrefix("unlink from " + link->peer_name() + ": ");
}

void LinkInitiator::EndAll(const Deadline &deadline) {
    LLDD_OFF_IO_THREAD(*loop_);
    for (const LinkPtr &link : directory_->Everything()) {
        const Status status = End(link, deadline);
        if (!status.ok()) {
            LLDD_LOG(LLDD_LOG_WARNING, "link to %s closed: %s", link->peer_name().c_str(),
                     status.text().c_str());
        }
    }
    // A task that was posted for a link may hold the last reference to it; the device must outlive
    // it.
    loop_->RunAndWait([] {});
}

}  // namespace lldd
