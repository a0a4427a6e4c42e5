// What pulls and pushes have in common: the deadline, the turn of the link, questions to the owner.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/deadline.h"
#include "base/status.h"
#include "engine/link.h"
#include "engine/peer_table.h"
#include "engine/scratch.h"
#include "engine/token.h"
#include "engine/wire.h"
#include "llm_datadist.h"

namespace lldd {

// The deadline of a transfer whose caller has waited so long already.
inline Deadline DeadlineAfter(uint32_t waited_ms, uint32_t sync_timeout_ms) {
    return Deadline::InMs(sync_timeout_ms - std::min(waited_ms, sync_timeout_ms));
}

// The peer has nothing under that key.
Status NotThere(const PeerTable &table, const lldd_cache_key &key);
Status NotAccessible(const char *whose, int64_t cache_id);
inline Status CheckAccessible(const char *whose, int64_t cache_id, bool accessible) {
    return accessible ? Status::Ok() : NotAccessible(whose, cache_id);
}
// A request to the owner of a cache; it counts as part of the transfer.
Status AskOwner(Link *link, wire::Kind kind, const std::string &body, const Deadline &deadline,
                std::string *answer);

// Runs body(until) with the turn of the link, for which other transfers of it are waited for. The
// deadline is that of the whole call; `until` is the same one, which ends with the link, or with the
// token.
template <typename Body>
Status InTurn(const std::shared_ptr<Link> &link, const Deadline &deadline, const lldd_token *token,
              TransferScratch *scratch, const Body &body) {
    Interruption call(&link->interruption(), token == nullptr ? nullptr : &token->interruption);
    const Deadline until = deadline.InterruptedBy(&call);
    const Link::Turn turn(link, until);
    if (until.cause() != InterruptCause::kNone) return Interrupted(until.cause());
    if (!turn) return Failure(LLDD_TIMEOUT, "not done in time: other transfers have the link");
    if (scratch->timed) scratch->times.turn = Deadline::Clock::now();
    // The text says what a push has left behind.
    Status status = body(until);
    return WithCause(std::move(status), until.cause());
}

}  // namespace lldd
