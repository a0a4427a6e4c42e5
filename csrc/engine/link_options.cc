// SPDX-License-Identifier: Apache-2.0
#include "engine/link_options.h"

#include <sys/random.h>

#include <cerrno>
#include <system_error>

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

wire::Hello LinkOptions::OwnHello() const {
    wire::Hello hello;
    hello.auth = secret.empty() ? wire::Auth::kNone : wire::Auth::kHmacSha256;
    hello.cluster_id = cluster_id;
    hello.nonce = RandomNonce();
    return hello;
}

Status LinkOptions::CheckAuth(const wire::Hello &peer) const {
    if (peer.auth == wire::Auth::kNone && !secret.empty()) {
        return Failure(LLDD_LINK_FAILED, "this end has an auth token, the other end has none");
    }
    if (peer.auth != wire::Auth::kNone && secret.empty()) {
        return Failure(LLDD_LINK_FAILED, "the other end asks for an auth token, this end has none");
    }
    return Status::Ok();
}

std::string LinkOptions::ProofOf(const Link &link, LinkEnd sender,
                                 const std::string &message) const {
    const Link::Identity &identity = link.identity();
    return wire::Proof(secret, sender, identity.initiator_greeting, identity.acceptor_greeting,
                       message);
}

}  // namespace lldd
