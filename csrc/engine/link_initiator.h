// Links as the calling thread makes and ends them.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/event_loop.h"
#include "base/mutex.h"
#include "base/socket.h"
#include "base/status.h"
#include "engine/link.h"
#include "engine/link_acceptor.h"
#include "engine/link_directory.h"
#include "engine/link_options.h"
#include "engine/notices.h"
#include "engine/owner_service.h"
#include "engine/wire.h"
#include "runtime/runtime.h"

namespace lldd {

// A peer as the client names it.
struct ClusterSpec {
    bool has_id = false;
    uint64_t id = 0;
    struct Address {
        std::string ip;
        uint32_t port = 0;
    };
    std::vector<Address> remote;
    std::vector<Address>
        local;  // of this host; the first of the remote one's family is dialled from
};

struct ClusterResult {
    Status status;
    uint64_t cluster_id = 0;  // of a link that was made: as the peer told it
};

// Thread-safe: it has no state of its own. Everything blocks; not on the I/O thread.
class LinkInitiator {
public:
    LinkInitiator(EventLoop *loop, Device *device, LinkDirectory *directory, LinkAcceptor *acceptor,
                  OwnerService *owner, Notices *notices, const LinkOptions &options)
        : loop_(loop),
          device_(device),
          directory_(directory),
          acceptor_(acceptor),
          owner_(owner),
          notices_(notices),
          options_(options) {}
    LinkInitiator(const LinkInitiator &) = delete;
    LinkInitiator &operator=(const LinkInitiator &) = delete;

    // One result for each spec, in order; several are handled in parallel, all until the deadline.
    std::vector<ClusterResult> LinkClusters(const std::vector<ClusterSpec> &specs,
                                            const Deadline &deadline);
    std::vector<ClusterResult> UnlinkClusters(const std::vector<ClusterSpec> &specs,
                                              const Deadline &deadline, bool force);

    // Ends all links of link_clusters whose peers are gone, and counts them. The status is that of
    // the last one that could not be ended as a forced unlink would; it is gone all the same.
    Status DropGone(const Deadline &deadline, uint64_t *count);

    // ---- Links of communicators. They are made one by one and become usable together, when the
    // directory publishes them.

    // See Device.
    Status UseAddress(const std::string &ip) { return device_->UseAddress(ip, false); }
    Status LinkForGroup(const SocketAddress &address, const SocketAddress &from, uint64_t peer,
                        const std::string &group, uint64_t comm_id, const Deadline &deadline,
                        std::shared_ptr<Link> *link);
    Status EndGroupLink(const std::shared_ptr<Link> &link, const Deadline &deadline);

    // Ends every link of the directory without telling the peers, which see their connections
    // close. After LinkAcceptor::Close; no call may be under way.
    void EndAll(const Deadline &deadline);

private:
    using LinkPtr = std::shared_ptr<Link>;

    ClusterResult LinkOne(const ClusterSpec &spec, const Deadline &deadline);
    void WarnOfId(const ClusterSpec &spec, const SocketAddress &address, uint64_t real_id);
    static Status AlreadyLinked(const Link &old);
    Status LinkMutually(const ClusterSpec &spec, const LinkPtr &link, const Deadline &deadline);
    Status LinkOneWay(const ClusterSpec &spec, const LinkPtr &link, const Deadline &deadline);
    Status Introduce(int socket, const Deadline &deadline, const wire::Hello &own,
                     wire::Hello *peer, LinkKey *key);
    Status Dial(const SocketAddress &address, const Deadline &deadline, Link::Identity identity,
                LinkPtr *link);
    Status Shake(const LinkPtr &link, bool replace, const Deadline &deadline);
    Status Ask(const LinkPtr &link, wire::Kind kind, const std::string &body,
               const Deadline &deadline, std::string *answer);
    Status Request(const LinkPtr &link, bool replace, const Deadline &deadline,
                   std::string *peer_endpoint);
    Status Confirm(const LinkPtr &link, const Deadline &deadline);
    // Takes down what there is of a link that could not be made, and adds its name to the status.
    Status Undo(const LinkPtr &link, const Deadline &deadline, Status status);
    ClusterResult UnlinkOne(const ClusterSpec &spec, const Deadline &deadline, bool force);
    Status EndNamed(const LinkPtr &link, const Deadline &deadline, bool force);
    Status UnlinkBoth(const LinkPtr &link, const Deadline &deadline) LLDD_REQUIRES(link->turn());
    // Takes the link down. If a transfer of this end has the turn until the deadline, the link ends
    // with that transfer, and the answer is LLDD_TIMEOUT; nobody can use it any more.
    Status End(const LinkPtr &link, const Deadline &deadline);
    Status TakeDown(const LinkPtr &link, const Deadline &deadline) LLDD_REQUIRES(link->turn());

    EventLoop *const loop_;
    Device *const device_;
    LinkDirectory *const directory_;
    LinkAcceptor *const acceptor_;
    OwnerService *const owner_;
    Notices *const notices_;
    const LinkOptions options_;
};

}  // namespace lldd
