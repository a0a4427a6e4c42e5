// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/host_cpus.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>

namespace lldd::mock {
namespace {

constexpr uint32_t kNoQuota = std::numeric_limits<uint32_t>::max();

// More threads than the quota pays for are stopped in the middle of a transfer until the next
// period, so half a CPU more is none.
uint32_t WholeCpus(int64_t quota, int64_t period) {
    if (quota <= 0 || period <= 0) return kNoQuota;
    return static_cast<uint32_t>(std::clamp<int64_t>(quota / period, 1, kNoQuota));
}

// "max 100000" or "150000 100000"; a missing file is no quota.
uint32_t QuotaOfVersion2(const std::string &folder) {
    std::ifstream file(folder + "/cpu.max");
    int64_t quota = 0;
    int64_t period = 0;
    if (!(file >> quota >> period)) return kNoQuota;
    return WholeCpus(quota, period);
}

// -1 is no quota.
uint32_t QuotaOfVersion1(const std::string &folder) {
    int64_t quota = 0;
    int64_t period = 0;
    if (!(std::ifstream(folder + "/cpu.cfs_quota_us") >> quota)) return kNoQuota;
    if (!(std::ifstream(folder + "/cpu.cfs_period_us") >> period)) return kNoQuota;
    return WholeCpus(quota, period);
}

// A group's quota binds those below it, too. In a container the path may be one of the host's, of
// which only the end of the walk exists.
template <typename Quota>
uint32_t LeastUpwards(const std::string &root, std::string path, const Quota &quota) {
    uint32_t least = quota(root);
    while (!path.empty() && path != "/") {
        least = std::min(least, quota(root + path));
        path.erase(std::min(path.rfind('/'), path.size()));
    }
    return least;
}

}  // namespace

uint32_t CpusOfQuotas(const std::string &groups, const std::string &root) {
    uint32_t least = kNoQuota;
    std::istringstream lines(groups);
    for (std::string line; std::getline(lines, line);) {
        // hierarchy:controllers:path, with an empty list of controllers in version 2
        const size_t first = line.find(':');
        const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const std::string path = line.substr(second + 1);
        if (controllers.empty()) {
            least = std::min(least, LeastUpwards(root, path, QuotaOfVersion2));
        } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
            // Mounted under its full name, often with a link "cpu" to it.
            for (const std::string &name : {controllers, std::string("cpu")}) {
                least = std::min(least, LeastUpwards(root + "/" + name, path, QuotaOfVersion1));
            }
        }
    }
    return least;
}

uint32_t UsableCpus() {
    uint32_t allowed = 1;
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        allowed = static_cast<uint32_t>(std::max(CPU_COUNT(&set), 1));
    }
    std::ifstream file("/proc/self/cgroup");
    const std::string groups{std::istreambuf_iterator<char>(file), {}};
    return std::min(allowed, CpusOfQuotas(groups, "/sys/fs/cgroup"));
}

}  // namespace lldd::mock
