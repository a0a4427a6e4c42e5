// What every exported function is made of: one guarded call that reads the caller's structs, forwards
// and converts.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <string>

#include "base/status.h"
#include "engine/abi_structs.h"
#include "engine/engine.h"
#include "llm_datadist.h"

struct lldd_engine {
    std::unique_ptr<lldd::Engine> engine;
};

namespace lldd::abi {

// Keeps the text of a failure for lldd_last_error() of this thread.
lldd_status Report(const Status &status) noexcept;
// The text is short enough to need no memory.
lldd_status ReportOutOfMemory() noexcept;

// Nothing is thrown across the ABI.
template <typename Body>
lldd_status Guarded(const Body &body) noexcept {
    try {
        return Report(body());
    } catch (const std::bad_alloc &) {
        return ReportOutOfMemory();
    } catch (const std::exception &error) {
        try {
            return Report(
                Status(LLDD_FAILED, std::string("an error inside the library: ") + error.what()));
        } catch (const std::bad_alloc &) {
            return ReportOutOfMemory();
        }
    }
}

// The same for calls on an engine, which must be open.
template <typename Body>
lldd_status OnEngine(lldd_engine *handle, const Body &body) noexcept {
    return Guarded([&]() -> Status {
        if (handle == nullptr) return Failure(LLDD_PARAM_INVALID, "engine is null");
        Engine &engine = *handle->engine;
        if (engine.in_forked_child()) {
            return Failure(
                LLDD_FAILED,
                "the engine belongs to the parent of this forked process; open one here instead");
        }
        const CallGate::Pass pass(&engine.gate());
        if (!pass) return Failure(LLDD_ENGINE_FINALIZED, "the engine is closed");
        return body(engine);
    });
}

// A key of one of the kinds that there are.
Status ReadKey(const lldd_cache_key *from, lldd_cache_key *to);
// A list may be null only when it is empty.
Status CheckList(const char *name, const uint64_t *list, uint64_t count);

// Both cut to what there is room for, with the final zero.
template <size_t kSize>
void CopyText(const std::string &text, char (&to)[kSize]) {
    std::snprintf(to, kSize, "%s", text.c_str());
}
void CopyText(const std::string &text, char *to, uint64_t size);

}  // namespace lldd::abi
