// The mock runtime: devices whose memory is host memory.
//
// SPDX-License-Identifier: Apache-2.0
#include "runtime/runtime.h"

#include "mock_runtime/control.h"
#include "mock_runtime/device.h"
#include "mock_runtime/environment.h"
#include "mock_runtime/faults.h"
#include "mock_runtime/process_vm.h"
#include "runtime/texts.h"

namespace lldd {
namespace {

using mock::Settings;

class MockRuntime final : public Runtime {
public:
    RuntimeDescription Describe() override {
        RuntimeDescription description;
        description.name = "mock";
        Settings settings;
        const Status read = ReadSettings(&settings);
        description.device_count = settings.devices;
        description.capabilities =
            LLDD_CAN_DEVICE_TO_DEVICE | LLDD_CAN_HOST_REMOTE | LLDD_CAN_INJECT_FAULTS;
        description.description = read.ok() ? DescribeTransports(settings) : read.text();
        return description;
    }

    Status OpenDevice(const DeviceOptions &options, std::unique_ptr<Device> *device) override {
        Settings settings;
        LLDD_RETURN_IF_ERROR(ReadSettings(&settings));
        if (options.device_id < 0 || static_cast<uint32_t>(options.device_id) >= settings.devices) {
            return NoSuchDevice(options.device_id, settings.devices);
        }
        Status faults = mock::UseFaultsOfEnvironment(settings.faults);
        if (!faults.ok()) return std::move(faults).WithPrefix("LLM_DATADIST_MOCK_FAULTS: ");
        LLDD_RETURN_IF_ERROR(mock::PassFaultPoint(mock::FaultPoint::kOpenDevice));
        return mock::MockDevice::Open(settings, options.device_id, device);
    }

    Status Control(const std::string &command, const std::string &argument,
                   std::string *answer) override {
        return mock::Control(command, argument, answer);
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
