// HMAC-SHA256 (RFC 2104, FIPS 180-4): how the ends of a link prove that they know the shared
// secret.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace lldd {

using Digest = std::array<uint8_t, 32>;

Digest Sha256(std::string_view message);
Digest HmacSha256(std::string_view key, std::string_view message);

// Takes a time that does not depend on where they differ.
bool SameDigest(std::string_view a, std::string_view b);

}  // namespace lldd
