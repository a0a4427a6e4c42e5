// SPDX-License-Identifier: Apache-2.0
#include "base/control_groups.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>

namespace lldd {
namespace {

// ---- which groups ----

// One hierarchy of control groups, as a line of /proc/self/mountinfo shows it.
struct Mount {
    int version = 2;
    std::string controllers;  // of version 1: a comma list, with other options of the mount
    std::string group;        // what of the hierarchy is mounted; "/" is all of it
    std::string point;        // where
};

bool ListHas(const std::string &list, const std::string &word) {
    return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

// Spaces, tabs, newlines and backslashes stand in mountinfo as \ooo.
std::string Unescape(const std::string &text) {
    std::string plain;
    for (size_t i = 0; i < text.size(); ++i) {
        const auto octal = [&](size_t at) { return text[at] >= '0' && text[at] <= '7'; };
        if (text[i] == '\\' && i + 3 < text.size() && octal(i + 1) && octal(i + 2) &&
            octal(i + 3)) {
            plain += static_cast<char>(std::stoi(text.substr(i + 1, 3), nullptr, 8));
            i += 3;
        } else {
            plain += text[i];
        }
    }
    return plain;
}

// "ID PARENT DEVICE ROOT POINT OPTIONS [TAG...] - TYPE SOURCE SUPER_OPTIONS"
std::optional<Mount> ReadMount(const std::string &line) {
    std::istringstream words(line);
    std::string id;
    std::string parent;
    std::string device;
    std::string group;
    std::string point;
    if (!(words >> id >> parent >> device >> group >> point)) return std::nullopt;
    for (std::string tag; words >> tag && tag != "-";) {
    }
    std::string type;
    std::string source;
    std::string options;
    if (!(words >> type >> source >> options)) return std::nullopt;
    if (type != "cgroup" && type != "cgroup2") return std::nullopt;
    return Mount{type == "cgroup2" ? 2 : 1, options, Unescape(group), Unescape(point)};
}

// The part of a group's path that lies below what is mounted; the whole path if it lies elsewhere.
std::string BelowMount(const std::string &path, const std::string &mounted) {
    if (mounted == "/") return path;
    if (path == mounted) return "/";
    if (path.compare(0, mounted.size() + 1, mounted + "/") == 0) return path.substr(mounted.size());
    return path;
}

void AddWithAncestors(int version, const std::string &point, std::string path,
                      std::vector<ControlGroup> *groups) {
    while (!path.empty() && path != "/") {
        groups->push_back({version, point + path});
        path.erase(std::min(path.rfind('/'), path.size()));
    }
    groups->push_back({version, point});
}

// ---- memory ----

// What a version of control groups calls its files.
struct MemoryFiles {
    const char *limit;
    const char *used;
    const char *reclaimable;  // a line of memory.stat
};
constexpr MemoryFiles kVersion1{"/memory.limit_in_bytes", "/memory.usage_in_bytes",
                                "total_inactive_file"};
constexpr MemoryFiles kVersion2{"/memory.max", "/memory.current", "inactive_file"};

// A number in a file; nothing if it says "max" or is missing, as in the root of a hierarchy.
std::optional<uint64_t> NumberIn(const std::string &path) {
    uint64_t value = 0;
    if (std::ifstream(path) >> value) return value;
    return std::nullopt;
}

// The number behind a name in a file of lines "NAME NUMBER ...".
std::optional<uint64_t> NumberBehind(const std::string &name, const std::string &path) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string first;
        uint64_t value = 0;
        if (words >> first && first == name && words >> value) return value;
    }
    return std::nullopt;
}

std::optional<uint64_t> LeftIn(const ControlGroup &group) {
    const MemoryFiles &files = group.version == 2 ? kVersion2 : kVersion1;
    const std::optional<uint64_t> limit = NumberIn(group.folder + files.limit);
    const std::optional<uint64_t> used = NumberIn(group.folder + files.used);
    if (!limit || !used) return std::nullopt;
    const uint64_t reclaimable =
        NumberBehind(files.reclaimable, group.folder + "/memory.stat").value_or(0);
    const uint64_t kept = *used - std::min(*used, reclaimable);
    return *limit - std::min(*limit, kept);
}

uint64_t LeftOnMachine(const std::string &root) {
    const std::optional<uint64_t> kib = NumberBehind("MemAvailable:", root + "/proc/meminfo");
    if (kib) return *kib * 1024;
    // Without /proc: what the C library knows is too low rather than too high.
    return static_cast<uint64_t>(std::max(sysconf(_SC_AVPHYS_PAGES), 0L)) *
           static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

std::vector<ControlGroup> ControlGroupsOf(const std::string &controller, const std::string &root) {
    std::vector<Mount> mounts;
    std::ifstream mount_lines(root + "/proc/self/mountinfo");
    for (std::string line; std::getline(mount_lines, line);) {
        std::optional<Mount> mount = ReadMount(line);
        if (mount) mounts.push_back(*std::move(mount));
    }
    std::vector<ControlGroup> groups;
    std::ifstream group_lines(root + "/proc/self/cgroup");
    for (std::string line; std::getline(group_lines, line);) {
        // "HIERARCHY:CONTROLLERS:PATH", with an empty list of controllers in version 2.
        const size_t first = line.find(':');
        const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const std::string path = line.substr(second + 1);
        const int version = controllers.empty() ? 2 : 1;
        if (version == 1 && !ListHas(controllers, controller)) continue;
        for (const Mount &mount : mounts) {
            if (mount.version != version) continue;
            if (version == 1 && !ListHas(mount.controllers, controller)) continue;
            AddWithAncestors(version, root + mount.point, BelowMount(path, mount.group), &groups);
        }
    }
    return groups;
}

AvailableMemory FindAvailableMemory(const std::string &root) {
    AvailableMemory least{LeftOnMachine(root), "on this machine"};
    for (const ControlGroup &group : ControlGroupsOf("memory", root)) {
        const std::optional<uint64_t> left = LeftIn(group);
        if (left && *left < least.bytes) least = {*left, "in the control group " + group.folder};
    }
    return least;
}

}  // namespace lldd
