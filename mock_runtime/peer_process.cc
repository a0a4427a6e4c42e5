// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/peer_process.h"

#include <fstream>
#include <sstream>
#include <string>

namespace lldd::mock {
namespace {

struct ProcessStat {
    char state = 0;
    uint64_t threads = 0;
    uint64_t began = 0;
};

// Of /proc/PID/stat, see proc(5). False: there is no such process, or this one may not see it.
bool ReadStat(pid_t pid, ProcessStat *stat) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string line;
    if (!std::getline(file, line, '\0')) return false;
    // The name, in parentheses, may contain anything.
    const size_t name_end = line.rfind(')');
    if (name_end == std::string::npos) return false;
    std::istringstream fields(line.substr(name_end + 1));
    std::string skipped;
    fields >> stat->state;
    for (int field = 4; field < 20; ++field) fields >> skipped;
    fields >> stat->threads >> skipped >> stat->began;
    return !fields.fail();
}

}  // namespace

PeerProcess::PeerProcess(pid_t pid) : pid_(pid) {
    ProcessStat stat;
    if (pid > 0 && ReadStat(pid, &stat)) began_ = stat.began;
}

bool PeerProcess::HasEnded() const {
    ProcessStat stat;
    if (began_ == 0 || !ReadStat(pid_, &stat) || stat.began != began_) return true;
    // The first thread of a process may end before the others.
    return (stat.state == 'Z' || stat.state == 'X') && stat.threads <= 1;
}

}  // namespace lldd::mock
