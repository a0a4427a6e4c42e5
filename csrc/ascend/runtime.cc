// The runtime over CANN: ACL for devices, memory and copies, HIXL for transfers between devices.
//
// SPDX-License-Identifier: Apache-2.0
#include "runtime/runtime.h"

#include "ascend/cann.h"
#include "ascend/device.h"
#include "ascend/session.h"
#include "runtime/texts.h"

namespace lldd {
namespace {

class AscendRuntime final : public Runtime {
public:
    RuntimeDescription Describe() override {
        RuntimeDescription description;
        description.name = "ascend";
        // Which of them a pair of devices has depends on what connects the two: see docs/ascend.md.
        description.capabilities = LLDD_CAN_DEVICE_TO_DEVICE | LLDD_CAN_HOST_REMOTE;
        const Status counted =
            ascend::FromAcl(aclrtGetDeviceCount(&description.device_count), "count the devices");
        const char *soc = aclrtGetSocName();
        description.description =
            counted.ok() ? Format("CANN; %s; transports: hixl", soc == nullptr ? "no name" : soc)
                         : counted.text();
        return description;
    }

    Status OpenDevice(const DeviceOptions &options, std::unique_ptr<Device> *device) override {
        uint32_t count = 0;
        LLDD_RETURN_IF_ERROR(ascend::FromAcl(aclrtGetDeviceCount(&count), "count the devices"));
        if (options.device_id < 0 || static_cast<uint32_t>(options.device_id) >= count) {
            return NoSuchDevice(options.device_id, count);
        }
        return ascend::AscendDevice::Open(options, device);
    }

    Status Control(const std::string &command, const std::string &, std::string *answer) override {
        if (command == "calls") {
            *answer = ascend::HixlSession::Describe();
            return Status::Ok();
        }
        if (command != "help") {
            return Failure(LLDD_PARAM_INVALID,
                           "the Ascend runtime has no command \"%s\"; try \"help\"",
                           command.c_str());
        }
        *answer =
            "help   this text\n"
            "calls  per device: calls of HIXL that were late, and those that are under way\n";
        return Status::Ok();
    }
};

}  // namespace

Runtime &ThisRuntime() {
    static AscendRuntime runtime;
    return runtime;
}

}  // namespace lldd
