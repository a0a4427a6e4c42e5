// The result of everything inside the library that can fail.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdarg>
#include <cstdint>
#include <string>
#include <utility>

#include "llm_datadist.h"

namespace lldd {

// Success costs nothing: no text, no allocation.
class [[nodiscard]] Status {
public:
    Status() = default;
    Status(lldd_status code, std::string text, int64_t raw = 0)
        : code_(code), raw_(raw), text_(std::move(text)) {}

    static Status Ok() { return {}; }

    bool ok() const { return code_ == LLDD_SUCCESS; }
    lldd_status code() const { return code_; }
    // The device's or the kernel's own number behind the failure; 0: there is none.
    int64_t raw() const { return raw_; }
    const std::string &text() const { return text_; }

    // The same failure with what a caller knows in front of its text: "pull from peer 7: ".
    Status WithPrefix(const std::string &prefix) && {
        text_.insert(0, prefix);
        return std::move(*this);
    }
    // And what follows from it.
    Status WithSuffix(const std::string &suffix) && {
        text_ += suffix;
        return std::move(*this);
    }

private:
    lldd_status code_ = LLDD_SUCCESS;
    int64_t raw_ = 0;
    std::string text_;
};

// "LLDD_TIMEOUT"; null for a number without a name.
const char *StatusName(lldd_status status);
// The number behind a name, as it is here or in the Python API: "LLDD_TIMEOUT", "LLM_TIMEOUT".
bool StatusNamed(const std::string &name, lldd_status *status);

// For %llu.
inline unsigned long long Printable(uint64_t number) { return number; }
// For %lld.
inline long long Printable(int64_t number) { return number; }

// printf into a std::string.
std::string Format(const char *format, ...) __attribute__((format(printf, 1, 2)));
std::string FormatV(const char *format, va_list args) __attribute__((format(printf, 1, 0)));

// A failure with a printf text.
Status Failure(lldd_status code, const char *format, ...) __attribute__((format(printf, 2, 3)));
// What the C library says of an errno value, and where descriptors ran out, which process and which
// limit that concerns, so that the operator can raise it.
std::string ErrorText(int error);
// Whether an errno value says that there are no descriptors left.
bool OutOfDescriptors(int64_t error);
// A failure whose text ends with ErrorText(error) and whose raw number is `error`.
Status ErrnoFailure(lldd_status code, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

}  // namespace lldd

// Leaves the function with the failure of an expression that gives a Status.
#define LLDD_RETURN_IF_ERROR(expression)                   \
    do {                                                   \
        ::lldd::Status lldd_status_of_ = (expression);     \
        if (!lldd_status_of_.ok()) return lldd_status_of_; \
    } while (false)
