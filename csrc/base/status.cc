// SPDX-License-Identifier: Apache-2.0
#include "base/status.h"

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

Status ErrnoFailure(lldd_status code, int error, const char *format, ...) {
    va_list args;
    va_start(args, format);
    std::string text = FormatV(format, args);
    va_end(args);
    char buffer[128];
    // The GNU strerror_r: may answer a constant instead of filling the buffer.
    text += std::string(": ") + strerror_r(error, buffer, sizeof buffer);
    return Status(code, std::move(text), error);
}

}  // namespace lldd
