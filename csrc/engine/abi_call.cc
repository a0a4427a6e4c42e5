// SPDX-License-Identifier: Apache-2.0
#include "engine/abi_call.h"

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "engine/cache_key.h"

namespace lldd::abi {
namespace {

struct LastError {
    std::string text;
    int64_t raw = 0;
};

LastError &ThisThreadsError() {
    static thread_local LastError error;
    return error;
}

}  // namespace

lldd_status Report(const Status &status) noexcept {
    if (status.ok()) return LLDD_SUCCESS;
    try {
        ThisThreadsError() = {status.text(), status.raw()};
        LLDD_LOG(LLDD_LOG_INFO, "%s: %s", lldd_status_name(status.code()), status.text().c_str());
    } catch (const std::exception &) {
        // There is no memory for the text: only the status is reported.
        return status.code();
    }
    return status.code();
}

lldd_status ReportOutOfMemory() noexcept { return Report(Status(LLDD_FAILED, "out of memory")); }

Status ReadKey(const lldd_cache_key *from, lldd_cache_key *to) {
    LLDD_RETURN_IF_ERROR(ReadStruct("key", from, to));
    if (IsKeyKind(to->kind)) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID,
                   "key.kind is %u, allowed is %d (request), %d (id), %d (blocks)", to->kind,
                   LLDD_KEY_REQUEST, LLDD_KEY_ID, LLDD_KEY_BLOCKS);
}

Status CheckList(const char *name, const uint64_t *list, uint64_t count) {
    if (list != nullptr || count == 0) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID, "%s is null, but %llu are announced", name,
                   Printable(count));
}

void CopyText(const std::string &text, char *to, uint64_t size) {
    if (to == nullptr || size == 0) return;
    const size_t length = std::min<size_t>(text.size(), size - 1);
    std::memcpy(to, text.data(), length);
    to[length] = '\0';
}

}  // namespace lldd::abi

const char *lldd_last_error(void) { return lldd::abi::ThisThreadsError().text.c_str(); }

int64_t lldd_last_error_raw(void) { return lldd::abi::ThisThreadsError().raw; }
