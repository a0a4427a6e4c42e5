// SPDX-License-Identifier: Apache-2.0
#include "engine/link_options.h"

#include "engine/greeting.h"

namespace lldd {

wire::Hello LinkOptions::OwnHello() const {
    wire::Hello hello;
    hello.auth = secret.empty() ? wire::Auth::kNone : wire::Auth::kHmacSha256;
    hello.id = secret.empty() ? cluster_id : 0;
    hello.nonce = RandomNonce();
    if (box != nullptr) hello.features |= wire::kFeatureBox;
    return hello;
}

std::string LinkOptions::ProofOf(const Link &link, LinkEnd sender,
                                 const std::string &message) const {
    return secret.empty() ? "" : Proof(link.identity().key, sender, kLinkLabel, message);
}

}  // namespace lldd
