// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/host_cpus.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <limits>

#include "base/control_groups.h"

namespace lldd::mock {
namespace {

constexpr uint32_t kNoQuota = 0;

// More threads than the quota pays for are stopped in the middle of a transfer until the next
// period, so half a CPU more counts for nothing.
uint32_t WholeCpus(int64_t quota, int64_t period) {
    if (quota <= 0 || period <= 0) return kNoQuota;
    constexpr int64_t kMost = std::numeric_limits<uint32_t>::max();
    return static_cast<uint32_t>(std::clamp<int64_t>(quota / period, 1, kMost));
}

// Version 2: "max 100000" or "150000 100000". Version 1: two files, where -1 means that there is no
// quota. A missing file means the same.
uint32_t QuotaOf(const ControlGroup &group) {
    int64_t quota = 0;
    int64_t period = 0;
    if (group.version == 2) {
        std::ifstream file(group.folder + "/cpu.max");
        if (!(file >> quota >> period)) return kNoQuota;
    } else {
        if (!(std::ifstream(group.folder + "/cpu.cfs_quota_us") >> quota)) return kNoQuota;
        if (!(std::ifstream(group.folder + "/cpu.cfs_period_us") >> period)) return kNoQuota;
    }
    return WholeCpus(quota, period);
}

}  // namespace

UsableCpus FindUsableCpus(const std::string &root) {
    UsableCpus usable;
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        usable.affinity = static_cast<uint32_t>(std::max(CPU_COUNT(&set), 1));
    }
    for (const ControlGroup &group : ControlGroupsOf("cpu", root)) {
        const uint32_t quota = QuotaOf(group);
        if (quota == kNoQuota) continue;
        usable.quota = usable.quota == kNoQuota ? quota : std::min(usable.quota, quota);
    }
    return usable;
}

}  // namespace lldd::mock
