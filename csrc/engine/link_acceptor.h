// What peers ask for: new links, streams, requests over links that stand.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/mutex.h"
#include "base/socket.h"
#include "base/status.h"
#include "base/strangers.h"
#include "engine/hello_listener.h"
#include "engine/link.h"
#include "engine/link_directory.h"
#include "engine/link_options.h"
#include "engine/notices.h"
#include "engine/owner_service.h"
#include "engine/wire.h"
#include "runtime/runtime.h"

namespace lldd {

// What a link needs to know of communicators. On the I/O thread; must not block.
class GroupHost {
public:
    virtual ~GroupHost() = default;
    // A communicator of that name is being prepared, and waits for a link from that member.
    virtual bool Expects(const std::string &group, uint64_t cluster_id) = 0;
    // Such a link was made; false if it is not wanted any more.
    virtual bool OnAccepted(const std::shared_ptr<Link> &link) = 0;
};

// Everything private runs on the I/O thread: it takes the place of a lock.
class LinkAcceptor {
public:
    LinkAcceptor(EventLoop *loop, Device *device, LinkDirectory *directory, OwnerService *owner,
                 Notices *notices, const LinkOptions &options);
    ~LinkAcceptor() { Close(); }
    LinkAcceptor(const LinkAcceptor &) = delete;
    LinkAcceptor &operator=(const LinkAcceptor &) = delete;

    // Where peers link to. Called by one thread at a time.
    Status StartListening(const SocketAddress &address) { return listener_.Start(address); }
    void StopListening() { listener_.Stop(); }
    const HelloListener &listener() const { return listener_; }

    // Where members of communicators may link to: on this host, or from where `reachable_from` can
    // be reached, at all addresses of its family. The first call decides. On the I/O thread.
    Status StartAcceptingForGroups(bool several_hosts, const SocketAddress &reachable_from,
                                   SocketAddress *address);
    // Before the first communicator is joined.
    void SetGroupHost(GroupHost *groups) { groups_ = groups; }

    // Begins to serve what the peer of this link asks for; of either end. Any thread.
    void Serve(const std::shared_ptr<Link> &link);

    // No link is accepted afterwards, and those that were being made are dropped. Not on the I/O
    // thread.
    void Close();

private:
    using LinkPtr = std::shared_ptr<Link>;

    // A link that is being accepted.
    struct Pending {
        Strangers::Place place;
        bool replace = false;
        bool prepared = false;
        uint64_t attempts = 0;  // of this end to link to that peer, when the link was prepared
    };

    HelloListener::HelloHandler HelloHandler();
    HelloListener::GreetedHandler GreetedHandler();
    HelloListener::Answer AnswerTo(const wire::Hello &hello) LLDD_REQUIRES(*loop_);
    void OnGreeted(HelloListener::Greeted greeted) LLDD_REQUIRES(*loop_);
    void BeginHandshake(HelloListener::Greeted greeted) LLDD_REQUIRES(*loop_);
    // The place of a link that is being accepted: it ends with the link, and counts its bytes.
    void Keep(const LinkPtr &link, Strangers::Place place) LLDD_REQUIRES(*loop_);
    void OnRequest(const std::weak_ptr<Link> &weak, uint16_t kind, uint32_t request_id,
                   std::string_view body) LLDD_REQUIRES(*loop_);
    bool Answer(const LinkPtr &link, uint16_t kind, uint32_t request_id, std::string_view body)
        LLDD_REQUIRES(*loop_);
    void OnLinkRequest(const LinkPtr &link, uint32_t request_id, std::string_view body)
        LLDD_REQUIRES(*loop_);
    wire::LinkReply PrepareLink(const LinkPtr &link, const wire::LinkRequest &request)
        LLDD_REQUIRES(*loop_);
    Status CheckRequest(const wire::LinkRequest &request) const LLDD_REQUIRES(*loop_);
    Status ConnectDevice(const LinkPtr &link, const wire::LinkRequest &request)
        LLDD_REQUIRES(*loop_);
    void OnLinkConfirm(const LinkPtr &link, uint32_t request_id) LLDD_REQUIRES(*loop_);
    Status Accept(const LinkPtr &link, const Pending &pending) LLDD_REQUIRES(*loop_);
    void OnUnlink(const LinkPtr &link, uint32_t request_id) LLDD_REQUIRES(*loop_);
    void OnClosed(const std::weak_ptr<Link> &weak) LLDD_REQUIRES(*loop_);
    void ForgetPending(const LinkPtr &link) LLDD_REQUIRES(*loop_);
    void DropReplaced(const Link &link) LLDD_REQUIRES(*loop_);
    bool OnReplaced(const LinkPtr &link, std::string_view body) LLDD_REQUIRES(*loop_);
    // Takes the link down as soon as no transfer runs over it; `then` runs when that is done.
    void DropWhenIdle(const LinkPtr &link, std::function<void()> then) LLDD_REQUIRES(*loop_);

    EventLoop *const loop_;
    Device *const device_;
    LinkDirectory *const directory_;
    OwnerService *const owner_;
    Notices *const notices_;
    const LinkOptions options_;
    GroupHost *groups_ = nullptr;

    // Of both listeners: connections until they have proved that they have the secret (without one,
    // until their request is in order), and links from there on until they are confirmed.
    Strangers strangers_;
    Strangers prepared_;
    HelloListener listener_;
    HelloListener group_listener_;
    std::map<LinkPtr, Pending> pending_ LLDD_GUARDED_BY(*loop_);
};

}  // namespace lldd
