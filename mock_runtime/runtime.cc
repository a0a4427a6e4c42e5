// The mock runtime: devices whose memory is host memory.
//
// SPDX-License-Identifier: Apache-2.0
#include "engine/runtime.h"

#include <dirent.h>

#include <functional>
#include <map>

#include "mock_runtime/copy_kernels.h"
#include "mock_runtime/copy_pool.h"
#include "mock_runtime/device.h"
#include "mock_runtime/environment.h"
#include "mock_runtime/process_vm.h"

namespace lldd {
namespace {

using mock::Settings;

size_t CountEntries(const char *folder) {
    DIR *dir = opendir(folder);
    if (dir == nullptr) return 0;
    size_t count = 0;
    while (const dirent *entry = readdir(dir)) {
        if (entry->d_name[0] != '.') ++count;
    }
    closedir(dir);
    return count;
}

class MockRuntime final : public Runtime {
public:
    RuntimeDescription Describe() override {
        RuntimeDescription description;
        description.name = "mock";
        Settings settings;
        const Status read = ReadSettings(&settings);
        description.device_count = settings.devices;
        description.capabilities = LLDD_CAN_DEVICE_TO_DEVICE | LLDD_CAN_HOST_REMOTE;
        description.description = read.ok() ? DescribeTransports(settings) : read.text();
        return description;
    }

    Status OpenDevice(const DeviceOptions &options, std::unique_ptr<Device> *device) override {
        Settings settings;
        LLDD_RETURN_IF_ERROR(ReadSettings(&settings));
        if (options.device_id < 0 || static_cast<uint32_t>(options.device_id) >= settings.devices) {
            return Failure(LLDD_PARAM_INVALID, "no device %d: there are %u, numbered from 0",
                           options.device_id, settings.devices);
        }
        return mock::MockDevice::Open(settings, options.device_id, device);
    }

    Status Control(const std::string &command, const std::string &, std::string *answer) override {
        Settings settings;
        if (command == "help") {
            *answer =
                "help         this text\n"
                "environment  every variable that the runtime reads\n"
                "devices      open devices: pools, registrations, links\n"
                "kernel       copy kernels that this CPU can run, and the chosen one\n"
                "threads      copying threads that run, and how many may\n"
                "fds          open descriptors of this process\n";
        } else if (command == "environment") {
            *answer = mock::DescribeEnvironment();
        } else if (command == "devices") {
            *answer = mock::MockDevice::DescribeAll();
        } else if (command == "kernel") {
            LLDD_RETURN_IF_ERROR(ReadSettings(&settings));
            *answer = Format("usable: %s\nchosen: %s\n", mock::UsableCopyKernels().c_str(),
                             mock::FindCopyKernel(settings.kernel)->name);
        } else if (command == "threads") {
            LLDD_RETURN_IF_ERROR(ReadSettings(&settings));
            *answer = Format("helpers: %zu\nallowed: %u\n", mock::CopyPool::Acquire()->helpers(),
                             settings.threads);
        } else if (command == "fds") {
            *answer = Format("%zu\n", CountEntries("/proc/self/fd"));
        } else {
            return Failure(LLDD_PARAM_INVALID,
                           "the mock runtime has no command \"%s\"; try \"help\"", command.c_str());
        }
        return Status::Ok();
    }

private:
    static std::string DescribeTransports(const Settings &settings) {
        std::string text = "host memory; transports:";
        for (const mock::Transport transport : settings.transports) {
            text += std::string(" ") + mock::TransportName(transport);
        }
        if (settings.allows(mock::Transport::kCma) && !mock::VmWorksOnSelf()) {
            text += " (cma: process_vm_readv is refused in this process)";
        }
        return text;
    }
};

}  // namespace

Runtime &ThisRuntime() {
    static MockRuntime runtime;
    return runtime;
}

}  // namespace lldd
