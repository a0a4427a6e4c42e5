// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/status.h"

namespace lldd {
namespace {

uint32_t LevelFromEnvironment() {
    const char *text = std::getenv("ASCEND_GLOBAL_LOG_LEVEL");
    if (text != nullptr && text[0] >= '0' && text[0] <= '3' && text[1] == '\0') {
        return static_cast<uint32_t>(text[0] - '0');
    }
    return LLDD_LOG_ERROR;
}

std::atomic<uint32_t> g_level{LevelFromEnvironment()};
std::atomic<int> g_fd{STDOUT_FILENO};

// One JSON object per line, for programs that collect logs.
const bool g_json = [] {
    const char *text = std::getenv("LLM_DATADIST_LOG");
    return text != nullptr && std::strcmp(text, "json") == 0;
}();

// As a JSON string; what is no ASCII text is written as its code, byte by byte.
std::string Quoted(const std::string &text) {
    std::string quoted = "\"";
    for (const char each : text) {
        const auto code = static_cast<unsigned char>(each);
        if (each == '"' || each == '\\') {
            quoted += '\\';
            quoted += each;
        } else if (code < 0x20 || code > 0x7E) {
            quoted += Format("\\u%04x", code);
        } else {
            quoted += each;
        }
    }
    return quoted + "\"";
}

const char *LevelName(uint32_t level) {
    switch (level) {
        case LLDD_LOG_DEBUG: return "DEBUG";
        case LLDD_LOG_INFO: return "INFO";
        case LLDD_LOG_WARNING: return "WARNING";
        default: return "ERROR";
    }
}

}  // namespace

bool LogEnabled(uint32_t level) { return level >= g_level.load(std::memory_order_relaxed); }

void SetLog(uint32_t level, int fd) {
    g_level.store(level, std::memory_order_relaxed);
    g_fd.store(fd, std::memory_order_relaxed);
}

void Log(uint32_t level, const char *format, ...) {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    tm local{};
    localtime_r(&now.tv_sec, &local);
    char time_text[32];
    strftime(time_text, sizeof time_text, "%Y-%m-%d %H:%M:%S", &local);
    va_list args;
    va_start(args, format);
    const std::string message = FormatV(format, args);
    va_end(args);
    const long ms = now.tv_nsec / 1000000;
    const long thread = syscall(SYS_gettid);
    const std::string line =
        g_json ? Format(
                     "{\"time\": %lld.%03ld, \"level\": \"%s\", \"logger\": \"LLM_DATADIST\", "
                     "\"process\": %d, \"thread\": %ld, \"message\": %s}\n",
                     static_cast<long long>(now.tv_sec), ms, LevelName(level), getpid(), thread,
                     Quoted(message).c_str())
               : Format("%s,%03ld LLM_DATADIST %s [%d:%ld] %s\n", time_text, ms, LevelName(level),
                        getpid(), thread, message.c_str());
    // One write per line, so that lines of several threads do not mix. There is no place to report
    // that a log cannot be written.
    if (write(g_fd.load(std::memory_order_relaxed), line.data(), line.size()) < 0) return;
}

}  // namespace lldd
