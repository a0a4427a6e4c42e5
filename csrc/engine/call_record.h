// What an engine writes into its box of each call that moves bytes.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "base/box.h"
#include "base/status.h"
#include "engine/scratch.h"
#include "engine/transfer_context.h"
#include "llm_datadist.h"

namespace lldd {

// The record of the call that this thread is in. Without a box, or without room in it, there is none.
class CallRecord {
public:
    // `scratch` is that of the call, which keeps it until the end.
    CallRecord(Box *box, box::Kind kind, TransferScratch *scratch);
    ~CallRecord();
    CallRecord(const CallRecord &) = delete;
    CallRecord &operator=(const CallRecord &) = delete;

    // What was asked. Lists are not looked at, which are read once, elsewhere.
    void Asked(const lldd_pull_args &args, const lldd_cache_key &key);
    void Asked(const lldd_push_args &args, const lldd_cache_key &key);
    void Asked(const lldd_transfer_args &args, const lldd_cache_key &key);
    void Asked(const lldd_copy_args &args);
    void Asked(const lldd_swap_args &args);
    void Asked(int64_t cache_id, uint64_t num_pairs);
    // What came of it.
    void Ended(const Status &status);

private:
    // All of what is asked, where only some of it has a meaning.
    void SetNothing();
    void SetKey(const lldd_cache_key &key);
    void SetBlocks();

    Box *const box_;
    TransferScratch *const scratch_;
    TransferThread &thread_;
    box::Record *record_;
};

// A transfer over that link is over: adds what only it knows to the record of the call that it is part
// of. A push has several, one for each layer, and the record spans them.
void AddTo(box::Record *record, uint32_t link, const TransferScratch &scratch);

// Runs a call, and writes it down if there is a box.
template <typename Body, typename... Args>
Status Recorded(Box *box, box::Kind kind, TransferScratch *scratch, const Body &body,
                const Args &...asked) {
    if (box == nullptr) return body();
    CallRecord record(box, kind, scratch);
    record.Asked(asked...);
    Status status = body();
    record.Ended(status);
    return status;
}

}  // namespace lldd
