// Log lines of the library, for people: off unless ASCEND_GLOBAL_LOG_LEVEL asks for them.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "llm_datadist.h"

namespace lldd {

// The level is one of LLDD_LOG_*.
bool LogEnabled(uint32_t level);
void SetLog(uint32_t level, int fd);
void Log(uint32_t level, const char *format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace lldd

// Evaluates its arguments only if the line would be written.
#define LLDD_LOG(level, ...)                                            \
    do {                                                                \
        if (::lldd::LogEnabled(level)) ::lldd::Log(level, __VA_ARGS__); \
    } while (false)
