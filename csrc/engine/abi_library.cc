// The exported functions of the library as a whole, before any engine is open.
//
// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "base/log.h"
#include "base/status.h"
#include "engine/abi_call.h"
#include "engine/abi_structs.h"
#include "llm_datadist.h"
#include "runtime/runtime.h"

#include "lldd_layout.inc"

#ifndef LLDD_FINGERPRINT
#define LLDD_FINGERPRINT 0
#endif
#ifndef LLDD_PACKAGE_VERSION
#define LLDD_PACKAGE_VERSION "unknown"
#endif

using lldd::Failure;
using lldd::Status;
using lldd::abi::CheckOut;
using lldd::abi::CopyText;
using lldd::abi::Guarded;
using lldd::abi::WriteStruct;

uint32_t lldd_version(void) { return LLDD_VERSION_MAJOR * 65536 + LLDD_VERSION_MINOR; }

uint64_t lldd_fingerprint(void) { return LLDD_FINGERPRINT; }

const lldd_field *lldd_layout(uint64_t *count) {
    if (count != nullptr) *count = sizeof kLayout / sizeof kLayout[0];
    return kLayout;
}

lldd_status lldd_runtime_describe(lldd_runtime_info *info) {
    return Guarded([&]() -> Status {
        LLDD_RETURN_IF_ERROR(CheckOut("info", info));
        const lldd::RuntimeDescription description = lldd::ThisRuntime().Describe();
        lldd_runtime_info written{};
        written.device_count = description.device_count;
        written.capabilities = description.capabilities;
        CopyText(description.name, written.name);
        CopyText(LLDD_PACKAGE_VERSION, written.version);
        CopyText(description.description, written.description);
        WriteStruct(written, info);
        return Status::Ok();
    });
}

lldd_status lldd_runtime_control(const char *command, const char *argument, char *answer,
                                 uint64_t answer_size, uint64_t *answer_needed) {
    return Guarded([&]() -> Status {
        if (command == nullptr) return Failure(LLDD_PARAM_INVALID, "command is null");
        std::string text;
        LLDD_RETURN_IF_ERROR(
            lldd::ThisRuntime().Control(command, argument == nullptr ? "" : argument, &text));
        CopyText(text, answer, answer_size);
        if (answer_needed != nullptr) *answer_needed = text.size() + 1;
        return Status::Ok();
    });
}

const char *lldd_status_name(lldd_status status) {
    const char *name = lldd::StatusName(status);
    return name != nullptr ? name : "unknown status";
}

lldd_status lldd_log_set(uint32_t level, int32_t fd) {
    return Guarded([&]() -> Status {
        if (level > LLDD_LOG_OFF)
            return Failure(LLDD_PARAM_INVALID, "level is %u, allowed is 0..%d", level,
                           LLDD_LOG_OFF);
        if (fd < 0) return Failure(LLDD_PARAM_INVALID, "fd is %d, it must not be negative", fd);
        lldd::SetLog(level, fd);
        return Status::Ok();
    });
}
