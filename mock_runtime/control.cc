// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/control.h"

#include <dirent.h>

#include <algorithm>
#include <memory>
#include <sstream>
#include <vector>

#include "base/control_groups.h"
#include "mock_runtime/copy_kernels.h"
#include "mock_runtime/copy_pool.h"
#include "mock_runtime/device.h"
#include "mock_runtime/environment.h"
#include "mock_runtime/fabric.h"
#include "mock_runtime/faults.h"
#include "mock_runtime/host_cpus.h"

namespace lldd::mock {
namespace {

Status Kernel(const std::string &, std::string *answer) {
    Settings settings;
    LLDD_RETURN_IF_ERROR(ReadSettings(&settings));
    *answer = Format("usable: %s\nchosen: %s\n", UsableCopyKernels().c_str(),
                     FindCopyKernel(settings.kernel)->name);
    return Status::Ok();
}

Status Threads(const std::string &, std::string *answer) {
    Settings settings;
    LLDD_RETURN_IF_ERROR(ReadSettings(&settings));
    *answer =
        Format("helpers: %zu\nallowed: %u\n", CopyPool::Acquire()->helpers(), settings.threads);
    return Status::Ok();
}

Status Memory(const std::string &, std::string *answer) {
    const AvailableMemory available = FindAvailableMemory(HostRoot());
    *answer =
        Format("available: %llu\nwhere: %s\n", Printable(available.bytes), available.where.c_str());
    return Status::Ok();
}

Status Cpus(const std::string &, std::string *answer) {
    const UsableCpus usable = FindUsableCpus(HostRoot());
    *answer = Format("affinity: %u\n", usable.affinity);
    if (usable.quota != 0) *answer += Format("quota: %u\n", usable.quota);
    return Status::Ok();
}

Status Descriptors(const std::string &, std::string *answer) {
    DIR *dir = opendir("/proc/self/fd");
    if (dir == nullptr) return Failure(LLDD_FAILED, "/proc/self/fd cannot be read");
    size_t count = 0;
    while (const dirent *entry = readdir(dir)) {
        if (entry->d_name[0] != '.') ++count;
    }
    closedir(dir);
    *answer = Format("%zu\n", count);
    return Status::Ok();
}

Status AddRules(const std::string &script, std::string *answer) {
    std::vector<uint64_t> ids;
    LLDD_RETURN_IF_ERROR(AddFaults(script, &ids));
    for (const uint64_t id : ids) *answer += std::to_string(id) + (id == ids.back() ? "\n" : " ");
    return Status::Ok();
}

Status RemoveRules(const std::string &names, std::string *) {
    std::istringstream words(names);
    std::vector<uint64_t> ids;
    for (uint64_t id = 0; words >> id;) ids.push_back(id);
    if (!words.eof()) {
        return Failure(LLDD_PARAM_INVALID, "\"%s\" is no list of rules; faults.add names them",
                       names.c_str());
    }
    RemoveFaults(ids);
    return Status::Ok();
}

Status DescribeFabric(const std::string &words, std::string *answer) {
    std::istringstream read(words);
    std::string text;
    uint64_t block_bytes = 0;
    if (!(read >> text >> block_bytes) || block_bytes == 0) {
        return Failure(
            LLDD_PARAM_INVALID,
            "\"%s\" is not a fabric and the bytes of a block, such as \"roce-200g 65536\"",
            words.c_str());
    }
    std::shared_ptr<const Fabric> fabric;
    LLDD_RETURN_IF_ERROR(Fabric::Parse(text, &fabric));
    *answer = Format("latency %.9g\njitter %.9g\nport %.9g\n",
                     static_cast<double>(fabric->latency().count()) * 1e-9,
                     static_cast<double>(fabric->jitter().count()) * 1e-9,
                     fabric->port_bytes_per_second());
    for (size_t i = 0; i < kFabricDirectionCount; ++i) {
        *answer +=
            Format("%s %.9g\n", kFabricDirections[i], fabric->BytesPerSecond(i, block_bytes));
    }
    return Status::Ok();
}

struct Command {
    const char *name;
    const char *help;
    Status (*run)(const std::string &argument, std::string *answer);
};

Status Help(const std::string &, std::string *answer);

constexpr Command kCommands[] = {
    {"help", "this text", Help},
    {"environment", "every variable that the runtime reads",
     [](const std::string &, std::string *answer) {
         *answer = DescribeEnvironment();
         return Status::Ok();
     }},
    {"devices", "open devices: pools, registrations, links",
     [](const std::string &, std::string *answer) {
         *answer = MockDevice::DescribeAll();
         return Status::Ok();
     }},
    {"kernel", "copy kernels that this CPU can run, and the chosen one", Kernel},
    {"threads", "copying threads that run, and how many may", Threads},
    {"memory", "bytes that new memory may take, and whose limit that is", Memory},
    {"cpus", "CPUs that copies may use, by affinity and by control groups", Cpus},
    {"fds", "open descriptors of this process", Descriptors},
    {"fabric", "what a fabric does with blocks of a size: FABRIC BYTES", DescribeFabric},
    {"faults.set", "the rules of a script instead of all that there are",
     [](const std::string &script, std::string *) { return SetFaults(script); }},
    {"faults.add", "adds the rules of a script and names them", AddRules},
    {"faults.remove", "takes rules away by name", RemoveRules},
    {"faults.clear", "takes all rules away",
     [](const std::string &, std::string *) {
         ClearFaults();
         return Status::Ok();
     }},
    {"faults.counters", "calls of each point and rule, and how many of them fired",
     [](const std::string &, std::string *answer) {
         *answer = DescribeFaults();
         return Status::Ok();
     }},
};

Status Help(const std::string &, std::string *answer) {
    for (const Command &each : kCommands) *answer += Format("%-16s %s\n", each.name, each.help);
    return Status::Ok();
}

}  // namespace

Status Control(const std::string &command, const std::string &argument, std::string *answer) {
    answer->clear();
    const auto *found = std::find_if(std::begin(kCommands), std::end(kCommands),
                                     [&](const Command &each) { return command == each.name; });
    if (found != std::end(kCommands)) return found->run(argument, answer);
    return Failure(LLDD_PARAM_INVALID, "the mock runtime has no command \"%s\"; try \"help\"",
                   command.c_str());
}

}  // namespace lldd::mock
