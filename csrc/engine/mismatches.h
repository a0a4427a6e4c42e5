// Notices of transfers that are right by their sizes and wrong by their meaning.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "engine/cache_store.h"
#include "engine/link.h"
#include "engine/notices.h"
#include "engine/peer_table.h"
#include "engine/plan_pairs.h"

namespace lldd {

// Every function is for the thread that has the turn, after the transfer has been planned. True
// if a notice was left; each is left once per link and pair of caches.
class Mismatches {
public:
    // `look_closely`: also for what is dear to find and may be meant.
    Mismatches(Notices *notices, bool look_closely)
        : notices_(notices), look_closely_(look_closely) {}

    bool look_closely() const { return look_closely_; }

    bool InTypes(Link *link, const Cache &own, const PeerCache &peer) const
        LLDD_REQUIRES(link->turn()) {
        if (own.shape.data_type == peer.shape.data_type) return false;
        return WarnOfTypes(link, own, peer);
    }
    // The same where only an address is known of the peer's cache, and the type there, or
    // kSeveralTypes. Once for each type.
    bool InTypeThere(Link *link, const Cache &own, uint32_t data_type) const
        LLDD_REQUIRES(link->turn()) {
        if (data_type == kSeveralTypes || own.shape.data_type == data_type) return false;
        return WarnOfTypeThere(link, own, data_type);
    }
    // Dimensions past the first of two caches of one layout.
    bool InDims(Link *link, const Cache &own, const PeerCache &peer) const
        LLDD_REQUIRES(link->turn()) {
        return look_closely_ && WarnOfDims(link, own, peer);
    }
    // A destination block that several pairs name. `peer_id` is 0 where only addresses are known.
    bool InOwnBlocks(Link *link, const Cache &own, int64_t peer_id, const BlockPairs &pairs) const
        LLDD_REQUIRES(link->turn()) {
        return look_closely_ && WarnOfRepeats(link, own.id, peer_id, pairs, false);
    }
    bool InPeersBlocks(Link *link, const Cache &own, int64_t peer_id, const BlockPairs &pairs) const
        LLDD_REQUIRES(link->turn()) {
        return look_closely_ && WarnOfRepeats(link, own.id, peer_id, pairs, true);
    }

private:
    bool WarnOfTypes(Link *link, const Cache &own, const PeerCache &peer) const
        LLDD_REQUIRES(link->turn());
    bool WarnOfTypeThere(Link *link, const Cache &own, uint32_t data_type) const
        LLDD_REQUIRES(link->turn());
    bool WarnOfDims(Link *link, const Cache &own, const PeerCache &peer) const
        LLDD_REQUIRES(link->turn());
    bool WarnOfRepeats(Link *link, int64_t own_id, int64_t peer_id, const BlockPairs &pairs,
                       bool at_peer) const LLDD_REQUIRES(link->turn());

    Notices *const notices_;
    const bool look_closely_;
};

}  // namespace lldd
