// The control groups of this process: which ones bound it, and how much memory they leave.
//
// Files of the kernel are read below a root, "" for the real ones; tests give a folder that is laid
// out alike.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lldd {

struct ControlGroup {
    int version = 2;     // of control groups: 1 or 2
    std::string folder;  // with the root in front; it need not exist
};

// The groups that bound this process for a controller such as "memory" or "cpu": its own and every
// ancestor that is mounted here, in both versions. In a container the group's path may be one of
// the host's; then only those folders of it exist that the container sees.
std::vector<ControlGroup> ControlGroupsOf(const std::string &controller, const std::string &root);

struct AvailableMemory {
    uint64_t bytes = 0;
    // Whose limit that is: "on this machine", or "in the control group FOLDER".
    std::string where;
};

// Bytes that new memory may take without swapping: the least of the machine's MemAvailable and of
// what each control group leaves. Page cache that the kernel reclaims first (inactive_file) does
// not count as used.
AvailableMemory FindAvailableMemory(const std::string &root);

}  // namespace lldd
