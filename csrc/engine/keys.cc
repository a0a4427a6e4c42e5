// SPDX-License-Identifier: Apache-2.0
#include "engine/keys.h"

#include <cerrno>
#include <cstdint>
#include <system_error>

#include "base/codec.h"
#include "base/hmac.h"
#include "base/older_libc.h"

namespace lldd {
namespace {

constexpr std::string_view kKeyLabel = "lldd 2 key";

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

LinkKey DeriveKey(std::string_view base, const wire::Hello &initiator,
                  const wire::Hello &acceptor) {
    Writer writer;
    writer.Raw(kKeyLabel.data(), kKeyLabel.size());
    for (wire::Hello hello : {initiator, acceptor}) {
        if (base.empty()) hello.features = 0;
        const auto bytes = hello.Encode();
        writer.Raw(bytes.data(), bytes.size());
    }
    return HmacSha256(base, writer.Take());
}

std::string Proof(const LinkKey &key, LinkEnd sender, std::string_view label,
                  std::string_view message) {
    Writer writer;
    writer.Number(static_cast<uint8_t>(sender == LinkEnd::kInitiator ? 1 : 2));
    writer.Raw(label.data(), label.size());
    writer.Number(uint8_t{0});
    writer.Raw(message.data(), message.size());
    const Digest digest = HmacSha256(AsBase(key), writer.Take());
    return std::string(digest.begin(), digest.end());
}

std::string_view AsBase(const LinkKey &key) {
    return {reinterpret_cast<const char *>(key.data()), key.size()};
}

}  // namespace lldd
