// The card of a member of a communicator, as it comes to a meeting and over a rendezvous.
//
// SPDX-License-Identifier: Apache-2.0
#include "engine/meeting.h"
#include "engine/rank_table.h"
#include "target.h"

namespace lldd::fuzz {
namespace {

void Run(std::string_view input) {
    MeetingCard card;
    if (!card.Decode(input)) return;
    const std::string written = card.Encode();
    // Nothing is kept of what another version has behind the name.
    DEMAND(card.version == wire::kVersion ? written == input
                                          : input.substr(0, written.size()) == written);
    MeetingCard again;
    DEMAND(again.Decode(written));
    DEMAND(again.Encode() == written);
}

std::vector<std::string> Seeds() {
    MeetingCard card;
    card.cluster_id = 7;
    card.name = "name";
    card.group = "group";
    card.rank_table = "{}";
    card.ip = "127.0.0.1";
    card.port = 4711;
    MeetingCard older;
    older.version = 1;
    older.name = "name";
    return {card.Encode(), older.Encode() + "rest"};
}

const Registration kRegistered({"card", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
