// How many CPUs this process may keep busy.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace lldd::mock {

// The least of what its affinity and the CPU quotas of its control groups allow, rounded down; at
// least one.
uint32_t UsableCpus();

// Whole CPUs that the quotas allow a process with these groups (the text of /proc/self/cgroup),
// with the hierarchies below `root`: versions 1 and 2. UINT32_MAX: there is no quota.
uint32_t CpusOfQuotas(const std::string &groups, const std::string &root);

}  // namespace lldd::mock
