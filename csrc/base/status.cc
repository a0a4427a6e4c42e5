// SPDX-License-Identifier: Apache-2.0
#include "base/status.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

namespace lldd {
namespace {

struct NamedStatus {
    lldd_status status;
    const char *name;
};

#define LLDD_NAMED(name) {name, #name}
constexpr NamedStatus kNamedStatuses[] = {
    LLDD_NAMED(LLDD_SUCCESS),
    LLDD_NAMED(LLDD_FAILED),
    LLDD_NAMED(LLDD_WAIT_PROCESS_TIMEOUT),
    LLDD_NAMED(LLDD_KV_CACHE_NOT_EXIST),
    LLDD_NAMED(LLDD_REPEAT_REQUEST),
    LLDD_NAMED(LLDD_REQUEST_ALREADY_COMPLETED),
    LLDD_NAMED(LLDD_PARAM_INVALID),
    LLDD_NAMED(LLDD_ENGINE_FINALIZED),
    LLDD_NAMED(LLDD_NOT_YET_LINK),
    LLDD_NAMED(LLDD_ALREADY_LINK),
    LLDD_NAMED(LLDD_LINK_FAILED),
    LLDD_NAMED(LLDD_UNLINK_FAILED),
    LLDD_NAMED(LLDD_NOTIFY_PROMPT_UNLINK_FAILED),
    LLDD_NAMED(LLDD_CLUSTER_NUM_EXCEED_LIMIT),
    LLDD_NAMED(LLDD_PROCESSING_LINK),
    LLDD_NAMED(LLDD_DEVICE_OUT_OF_MEMORY),
    LLDD_NAMED(LLDD_PREFIX_ALREADY_EXIST),
    LLDD_NAMED(LLDD_PREFIX_NOT_EXIST),
    LLDD_NAMED(LLDD_SEQ_LENOVERLIMIT),
    LLDD_NAMED(LLDD_NO_FREE_BLOCK),
    LLDD_NAMED(LLDD_BLOCKS_OUT_OF_MEMORY),
    LLDD_NAMED(LLDD_EXIST_LINK),
    LLDD_NAMED(LLDD_FEATURE_NOT_ENABLED),
    LLDD_NAMED(LLDD_TIMEOUT),
    LLDD_NAMED(LLDD_LINK_BUSY),
    LLDD_NAMED(LLDD_OUT_OF_MEMORY),
    LLDD_NAMED(LLDD_DEVICE_MEM_ERROR),
    LLDD_NAMED(LLDD_SUSPECT_REMOTE_ERROR),
    LLDD_NAMED(LLDD_ABI_MISMATCH),
    LLDD_NAMED(LLDD_NOTICE_LEFT),
};
#undef LLDD_NAMED

// glibc's strerror_r returns the text, which may be a constant; musl's fills the buffer.
[[maybe_unused]] const char *TextOf(const char *text, const char *) { return text; }
[[maybe_unused]] const char *TextOf(int, const char *buffer) { return buffer; }

}  // namespace

const char *StatusName(lldd_status status) {
    for (const NamedStatus &named : kNamedStatuses) {
        if (named.status == status) return named.name;
    }
    return nullptr;
}

bool StatusNamed(const std::string &name, lldd_status *status) {
    const std::string own = name.rfind("LLM_", 0) == 0 ? "LLDD_" + name.substr(4) : name;
    for (const NamedStatus &named : kNamedStatuses) {
        if (own != named.name) continue;
        *status = named.status;
        return true;
    }
    return false;
}

std::string FormatV(const char *format, va_list args) {
    va_list again;
    va_copy(again, args);
    const int length = std::vsnprintf(nullptr, 0, format, args);
    std::string text(length > 0 ? static_cast<size_t>(length) : 0, '\0');
    if (length > 0) std::vsnprintf(text.data(), text.size() + 1, format, again);
    va_end(again);
    return text;
}

std::string Format(const char *format, ...) {
    va_list args;
    va_start(args, format);
    std::string text = FormatV(format, args);
    va_end(args);
    return text;
}

Status Failure(lldd_status code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    std::string text = FormatV(format, args);
    va_end(args);
    return Status(code, std::move(text));
}

std::string ErrorText(int error) {
    char buffer[128] = "";
    std::string text = TextOf(strerror_r(error, buffer, sizeof buffer), buffer);
    if (error == EMFILE) {
        rlimit limit{};
        getrlimit(RLIMIT_NOFILE, &limit);
        text += Format(" (process %d may have %llu descriptors: RLIMIT_NOFILE, \"ulimit -n\")",
                       static_cast<int>(getpid()), Printable(uint64_t{limit.rlim_cur}));
    } else if (error == ENFILE) {
        text += " (of the whole machine: fs.file-max)";
    }
    return text;
}

bool OutOfDescriptors(int64_t error) { return error == EMFILE || error == ENFILE; }

Status ErrnoFailure(lldd_status code, int error, const char *format, ...) {
    va_list args;
    va_start(args, format);
    std::string text = FormatV(format, args);
    va_end(args);
    return Status(code, text + ": " + ErrorText(error), error);
}

}  // namespace lldd
