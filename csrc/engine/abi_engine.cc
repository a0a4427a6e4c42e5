// The exported functions of the life of an engine, and what it tells of itself.
//
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <memory>
#include <string>

#include "base/status.h"
#include "engine/abi_call.h"
#include "engine/abi_structs.h"
#include "engine/box_events.h"
#include "engine/engine.h"
#include "llm_datadist.h"

using lldd::Engine;
using lldd::Failure;
using lldd::Status;
using lldd::abi::CheckOut;
using lldd::abi::CopyText;
using lldd::abi::Guarded;
using lldd::abi::OnEngine;
using lldd::abi::ReadStruct;
using lldd::abi::WriteStruct;

lldd_status lldd_engine_open(const lldd_config *config, lldd_engine **engine) {
    return Guarded([&]() -> Status {
        lldd_config read;
        LLDD_RETURN_IF_ERROR(ReadStruct("config", config, &read));
        if (engine == nullptr) return Failure(LLDD_PARAM_INVALID, "engine is null");
        auto handle = std::make_unique<lldd_engine>();
        LLDD_RETURN_IF_ERROR(Engine::Open(read, &handle->engine));
        *engine = handle.release();
        return Status::Ok();
    });
}

lldd_status lldd_engine_close(lldd_engine *handle) {
    return Guarded([&]() -> Status {
        if (handle == nullptr) return Failure(LLDD_PARAM_INVALID, "engine is null");
        if (handle->engine->in_forked_child()) {
            return Failure(LLDD_FAILED, "the engine belongs to the parent of this forked process");
        }
        return handle->engine->Close();
    });
}

void lldd_engine_free(lldd_engine *handle) {
    if (handle == nullptr) return;
    // In a forked child the engine's threads are the parent's, so nothing of it can be taken down.
    if (handle->engine->in_forked_child()) return;
    (void)lldd_engine_close(handle);
    delete handle;
}

lldd_status lldd_engine_describe(lldd_engine *handle, lldd_engine_info *info) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        LLDD_RETURN_IF_ERROR(CheckOut("info", info));
        lldd_engine_info written{};
        engine.Describe(&written);
        WriteStruct(written, info);
        return Status::Ok();
    });
}

lldd_status lldd_engine_counters(lldd_engine *handle, lldd_counters *counters) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        LLDD_RETURN_IF_ERROR(CheckOut("counters", counters));
        lldd_counters written{};
        engine.ReadCounters(&written);
        WriteStruct(written, counters);
        return Status::Ok();
    });
}

lldd_status lldd_engine_next_notice(lldd_engine *handle, char *text, uint64_t size,
                                    uint64_t *length) {
    return OnEngine(handle, [&](Engine &engine) -> Status {
        if (text == nullptr || size == 0 || length == nullptr) {
            return Failure(LLDD_PARAM_INVALID, "text and length must not be null, size not 0");
        }
        std::string notice;
        if (!engine.notices().Next(&notice)) notice.clear();
        CopyText(notice, text, size);
        *length = std::min<uint64_t>(notice.size(), size - 1);
        return Status::Ok();
    });
}

lldd_status lldd_engine_switch_listener(lldd_engine *handle, const char *ip, uint32_t port) {
    return OnEngine(handle, [&](Engine &engine) {
        Status status = engine.SwitchListener(ip, port);
        lldd::BoxListener(engine.box(), ip, port, status);
        return status;
    });
}
