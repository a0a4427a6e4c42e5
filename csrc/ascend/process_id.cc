// SPDX-License-Identifier: Apache-2.0
#include "ascend/process_id.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <iterator>
#include <sstream>

#include "base/fd.h"

namespace lldd::ascend {
namespace {

std::string ReadFile(const std::string &path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string ThisHost() {
    std::string boot = ReadFile("/proc/sys/kernel/random/boot_id");
    while (!boot.empty() && boot.back() == '\n') boot.pop_back();
    char space[64];
    const ssize_t size = readlink("/proc/self/ns/pid", space, sizeof space);
    if (boot.empty() || size <= 0) return "";
    return boot + " " + std::string(space, static_cast<size_t>(size));
}

// Field 22 of /proc/PID/stat, and its state, field 3; false: there is no such process.
bool ReadStat(int32_t pid, uint64_t *started, char *state) {
    const std::string stat = ReadFile("/proc/" + std::to_string(pid) + "/stat");
    // The name, in parentheses, may have anything in it.
    const size_t end = stat.rfind(')');
    if (end == std::string::npos) return false;
    std::istringstream rest(stat.substr(end + 1));
    rest >> *state;
    std::string skipped;
    for (int i = 4; i < 22; ++i) rest >> skipped;
    return static_cast<bool>(rest >> *started);
}

// Whether the process behind the pid has ended, all of its threads included; `otherwise` where the
// kernel does not say.
bool PidfdSaysEnded(int32_t pid, bool otherwise) {
#ifdef SYS_pidfd_open
    Fd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    if (process.get() < 0) return errno == ESRCH || otherwise;
    pollfd ended{process.get(), POLLIN, 0};
    return poll(&ended, 1, 0) == 1;
#else
    return otherwise;
#endif
}

}  // namespace

ProcessId ProcessId::Own() {
    ProcessId own;
    char state = 0;
    own.host = ThisHost();
    own.pid = getpid();
    if (!ReadStat(own.pid, &own.started, &state)) own.host.clear();
    return own;
}

bool ProcessId::IsHere() const { return !host.empty() && host == ThisHost(); }

bool ProcessId::HasEnded() const {
    if (pid <= 0 || !IsHere()) return false;
    uint64_t now_started = 0;
    char state = 0;
    if (!ReadStat(pid, &now_started, &state)) return access("/proc/self/stat", R_OK) == 0;
    if (now_started != started) return true;
    return PidfdSaysEnded(pid, state == 'Z' || state == 'X');
}

}  // namespace lldd::ascend
