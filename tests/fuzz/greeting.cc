// The greeting that begins each connection to a listener.
//
// SPDX-License-Identifier: Apache-2.0
#include "engine/wire.h"
#include "target.h"

namespace lldd::fuzz {
namespace {

void Run(std::string_view input) {
    wire::Hello hello;
    const Status status = hello.Decode(input);
    if (!status.ok()) {
        DEMAND(status.code() == LLDD_LINK_FAILED && !status.text().empty());
        return;
    }
    DEMAND(hello.purpose >= wire::Purpose::kLink);
    DEMAND(hello.purpose <= wire::Purpose::kMeeting);
    DEMAND(hello.auth <= wire::Auth::kHmacSha256);
    const auto again = hello.Encode();
    DEMAND(input == std::string_view(again.data(), again.size()));
}

std::vector<std::string> Seeds() {
    std::vector<std::string> seeds;
    for (const auto purpose : {wire::Purpose::kLink, wire::Purpose::kStreamInitiatorAsks,
                               wire::Purpose::kStreamAcceptorAsks, wire::Purpose::kMeeting}) {
        wire::Hello hello;
        hello.purpose = purpose;
        hello.id = 7;
        hello.nonce.fill(0x55);
        const auto bytes = hello.Encode();
        seeds.emplace_back(bytes.data(), bytes.size());
        hello.auth = wire::Auth::kHmacSha256;
        const auto proved = hello.Encode();
        seeds.emplace_back(proved.data(), proved.size());
    }
    return seeds;
}

const Registration kRegistered({"greeting", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
