// SPDX-License-Identifier: Apache-2.0
#include "base/status.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

namespace lldd {

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
    char buffer[128];
    // The GNU strerror_r: may answer a constant instead of filling the buffer.
    std::string text = strerror_r(error, buffer, sizeof buffer);
    if (error == EMFILE) {
        rlimit limit{};
        getrlimit(RLIMIT_NOFILE, &limit);
        text += Format(" (process %d may have %llu descriptors: RLIMIT_NOFILE, \"ulimit -n\")",
                       static_cast<int>(getpid()), Printable(limit.rlim_cur));
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
