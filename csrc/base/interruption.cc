// SPDX-License-Identifier: Apache-2.0
#include "base/interruption.h"

#include <utility>

namespace lldd {

Status Interrupted(InterruptCause cause) {
    const char *by = cause == InterruptCause::kUnlink     ? "unlink"
                     : cause == InterruptCause::kFinalize ? "finalize"
                     : cause == InterruptCause::kCancel   ? "cancel"
                                                          : "the caller";
    return Failure(LLDD_TIMEOUT, "interrupted by %s", by);
}

Status WithCause(Status status, InterruptCause cause) {
    if (status.code() != LLDD_TIMEOUT || cause == InterruptCause::kNone) return status;
    return std::move(status).WithPrefix(Interrupted(cause).text() + ": ");
}

}  // namespace lldd
