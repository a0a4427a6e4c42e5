// The messages by which one end of a link tells the other of each of its transfers, where that one has
// asked for it.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/plan_pairs.h"
#include "engine/transfer_record.h"
#include "llm_datadist.h"

namespace lldd {

// A transfer that is over, as a client is told of it: of this end, or of a peer.
struct TransferEvent {
    // What is kept of a list of blocks; a longer one is cut.
    static constexpr size_t kMostRuns = 65536;
    static constexpr uint64_t kMostBlocks = uint64_t{1} << 20;
    static constexpr size_t kMostText = 240;

    TransferKind kind = TransferKind::kPull;
    lldd_status status = LLDD_SUCCESS;
    TransferId id{};
    uint32_t layer = 0;   // of the source
    uint32_t layers = 0;  // 0: all there are
    uint64_t bytes = 0;
    uint64_t moved = 0;
    uint64_t lost = 0;           // events that were dropped before this one
    lldd_cache_key key{};        // kind 0: to addresses
    bool all_blocks = true;      // `runs` is not cut
    std::vector<BlockRun> runs;  // `local` at the end that is told, `remote` at the other one
    std::string text;            // of a failure

    // Not told: each end knows them.
    bool by_peer = false;
    uint64_t peer = 0;
    uint32_t link = 0;
    int64_t cache_id = 0;  // the own cache; 0 of a peer's transfer
    TransferTimes::Point end;

    static TransferEvent Of(const TransferRecord &record);
    // As the other end sees it.
    std::string Encode() const;
    // False also for more than the bounds allow.
    bool Decode(std::string_view body);
};

}  // namespace lldd
