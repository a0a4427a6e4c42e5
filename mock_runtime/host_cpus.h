// How many CPUs this process may keep busy.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace lldd::mock {

struct UsableCpus {
    uint32_t affinity = 1;  // that this thread may run on
    uint32_t quota = 0;     // whole CPUs that the control groups pay for; 0: there is no quota

    // The least of the two; at least one.
    uint32_t count() const { return quota == 0 || affinity < quota ? affinity : quota; }
};

// Args: root is where /proc and /sys are read, see base/control_groups.h.
UsableCpus FindUsableCpus(const std::string &root);

}  // namespace lldd::mock
