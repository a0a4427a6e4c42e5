// The exported functions that move bytes: pulls, pushes, local copies.
//
// SPDX-License-Identifier: Apache-2.0
#include "base/status.h"
#include "engine/abi_call.h"
#include "engine/abi_structs.h"
#include "engine/call_record.h"
#include "engine/engine.h"
#include "engine/scratch.h"
#include "engine/token.h"
#include "engine/transfer_context.h"
#include "llm_datadist.h"

namespace {

using lldd::Engine;
using lldd::Recorded;
using lldd::Status;
using lldd::abi::CheckList;
using lldd::abi::Guarded;
using lldd::abi::OnEngine;
using lldd::abi::ReadKey;
using lldd::abi::ReadStruct;

template <typename Args>
Status CheckBlockLists(const Args &args) {
    LLDD_RETURN_IF_ERROR(CheckList("src_blocks", args.src_blocks, args.num_src_blocks));
    return CheckList("dst_blocks", args.dst_blocks, args.num_dst_blocks);
}

// A thread makes one call at a time.
lldd::TransferScratch &ThisThreadsScratch() {
    static thread_local lldd::TransferScratch scratch;
    return scratch;
}

// Runs a transfer; one that succeeds and leaves a notice says so to clients that asked for it.
template <typename Body>
Status TellNotice(const Engine &engine, const Body &body) {
    lldd::TransferScratch &scratch = ThisThreadsScratch();
    scratch.notice_left = false;
    Status status = body(&scratch);
    if (!scratch.notice_left || !status.ok() || !engine.tells_notices()) return status;
    return lldd::Failure(LLDD_NOTICE_LEFT, "the transfer is done, and a notice about it waits");
}

}  // namespace

lldd_status lldd_pull(lldd_engine *handle, const lldd_pull_args *args) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        lldd_pull_args read;
        lldd_cache_key key;
        LLDD_RETURN_IF_ERROR(ReadStruct("args", args, &read));
        LLDD_RETURN_IF_ERROR(ReadKey(read.key, &key));
        LLDD_RETURN_IF_ERROR(CheckBlockLists(read));
        return TellNotice(engine, [&](auto *scratch) {
            const auto pull = [&] { return engine.transfers().Pull(read, key, scratch); };
            return Recorded(engine.box(), lldd::box::kPull, scratch, pull, read, key);
        });
    });
}

lldd_status lldd_push(lldd_engine *handle, const lldd_push_args *args, uint32_t *layers_done) {
    uint32_t done = 0;
    const lldd_status status = OnEngine(handle, [&](Engine &engine) -> Status {
        lldd_push_args read;
        lldd_cache_key key;
        LLDD_RETURN_IF_ERROR(ReadStruct("args", args, &read));
        LLDD_RETURN_IF_ERROR(ReadKey(read.key, &key));
        LLDD_RETURN_IF_ERROR(CheckBlockLists(read));
        return TellNotice(engine, [&](auto *scratch) {
            const auto push = [&] { return engine.transfers().Push(read, key, scratch, &done); };
            return Recorded(engine.box(), lldd::box::kPush, scratch, push, read, key);
        });
    });
    if (layers_done != nullptr) *layers_done = done;
    return status;
}

lldd_status lldd_transfer_layer(lldd_engine *handle, const lldd_transfer_args *args) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        lldd_transfer_args read;
        lldd_cache_key key{};
        LLDD_RETURN_IF_ERROR(ReadStruct("args", args, &read));
        if (read.key != nullptr) LLDD_RETURN_IF_ERROR(ReadKey(read.key, &key));
        LLDD_RETURN_IF_ERROR(CheckBlockLists(read));
        LLDD_RETURN_IF_ERROR(CheckList("dst_addrs", read.dst_addrs, read.num_dst_addrs));
        return TellNotice(engine, [&](auto *scratch) {
            const auto send = [&] { return engine.transfers().TransferLayer(read, key, scratch); };
            return Recorded(engine.box(), lldd::box::kLayer, scratch, send, read, key);
        });
    });
}

void lldd_transfer_context(uint64_t trace_high, uint64_t trace_low, uint64_t span) {
    lldd::ThisTransferThread().context = {trace_high, trace_low, span};
}

// ---- tokens ----

lldd_status lldd_token_new(lldd_token **token) {
    return Guarded([&]() -> Status {
        if (token == nullptr) return lldd::Failure(LLDD_PARAM_INVALID, "token is null");
        *token = new lldd_token;
        return Status::Ok();
    });
}

lldd_status lldd_token_cancel(lldd_token *token) {
    return Guarded([&]() -> Status {
        if (token == nullptr) return lldd::Failure(LLDD_PARAM_INVALID, "token is null");
        token->interruption.Raise(lldd::InterruptCause::kCancel);
        return Status::Ok();
    });
}

void lldd_token_free(lldd_token *token) { delete token; }

// ---- local copies ----

lldd_status lldd_cache_copy(lldd_engine *handle, const lldd_copy_args *args) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        lldd_copy_args read;
        LLDD_RETURN_IF_ERROR(ReadStruct("args", args, &read));
        lldd::TransferScratch *const scratch = &ThisThreadsScratch();
        const auto copy = [&] { return engine.copies().Copy(read, scratch); };
        return Recorded(engine.box(), lldd::box::kCopyCache, scratch, copy, read);
    });
}

lldd_status lldd_blocks_copy(lldd_engine *handle, int64_t cache_id, const uint64_t *src_blocks,
                             const uint64_t *dst_blocks, uint64_t num_pairs) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        LLDD_RETURN_IF_ERROR(CheckList("src_blocks", src_blocks, num_pairs));
        LLDD_RETURN_IF_ERROR(CheckList("dst_blocks", dst_blocks, num_pairs));
        lldd::TransferScratch *const scratch = &ThisThreadsScratch();
        const auto copy = [&] {
            return engine.copies().CopyBlocks(cache_id, src_blocks, dst_blocks, num_pairs, scratch);
        };
        return Recorded(engine.box(), lldd::box::kCopyBlocks, scratch, copy, cache_id, num_pairs);
    });
}

lldd_status lldd_blocks_swap(lldd_engine *handle, const lldd_swap_args *args) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        lldd_swap_args read;
        LLDD_RETURN_IF_ERROR(ReadStruct("args", args, &read));
        LLDD_RETURN_IF_ERROR(CheckList("src_addrs", read.src_addrs, read.num_tensors));
        LLDD_RETURN_IF_ERROR(CheckList("dst_addrs", read.dst_addrs, read.num_tensors));
        LLDD_RETURN_IF_ERROR(CheckList("src_blocks", read.src_blocks, read.num_blocks));
        LLDD_RETURN_IF_ERROR(CheckList("dst_blocks", read.dst_blocks, read.num_blocks));
        lldd::TransferScratch *const scratch = &ThisThreadsScratch();
        const auto swap = [&] { return engine.copies().SwapBlocks(read, scratch); };
        return Recorded(engine.box(), lldd::box::kSwapBlocks, scratch, swap, read);
    });
}
