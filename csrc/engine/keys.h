// The keys of connections, and what is proved with them: see greeting.h.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "engine/wire.h"
#include "runtime/runtime.h"

namespace lldd {

// HMAC-SHA-256, keyed with `base` (the secret, "" without one; of a stream the key of its link), of
// "lldd 2 key" and both Hellos as they were sent, the initiator's first; without a secret their features
// count as 0, since nothing protects them.
LinkKey DeriveKey(std::string_view base, const wire::Hello &initiator, const wire::Hello &acceptor);

// HMAC-SHA-256, keyed with the key, of the sender's end (one byte: 1 initiator, 2 acceptor), `label`
// with a null character, and the message.
std::string Proof(const LinkKey &key, LinkEnd sender, std::string_view label,
                  std::string_view message);
// For what the labels stand: that of the greeting, whose message is empty; a LinkRequest or LinkReply; a
// MeetingCard.
constexpr std::string_view kGreetingLabel = "greeting";
constexpr std::string_view kLinkLabel = "link";
constexpr std::string_view kCardLabel = "card";
constexpr size_t kProofBytes = sizeof(LinkKey);

// Fresh random bytes from the kernel.
LinkNonce RandomNonce();

// The key of a link or a secret, as what other keys are derived from.
std::string_view AsBase(const LinkKey &key);

}  // namespace lldd
