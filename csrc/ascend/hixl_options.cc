// SPDX-License-Identifier: Apache-2.0
#include "ascend/hixl_options.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>

#include "acl/acl.h"
#include "ascend/installed.h"

namespace lldd::ascend {
namespace {

// HIXL's buffers are for transfers of memory that is not registered, which this library does not
// begin; without them nothing is staged.
constexpr char kNoBufferPool[] = "0:0";
// HIXL 8.5 multiplies the timeout of a staged transfer by 1000, in 32 bits.
constexpr int32_t kLongestOf85 = 2'147'483;

bool IsJson(const std::string &text) {
    const size_t first = text.find_first_not_of(" \t\r\n");
    return first != std::string::npos && text[first] == '{';
}

bool IsAscend950(const char *soc) {
    const std::string name = soc == nullptr ? "" : soc;
    return name.compare(0, 12, "Ascend910_95") == 0 || name.compare(0, 9, "Ascend950") == 0;
}

}  // namespace

std::string BufferPoolOf(const DeviceOptions &options) {
    return options.buffer_pool.empty() ? kNoBufferPool : options.buffer_pool;
}

HixlOptions::HixlOptions(const DeviceOptions &options, const std::string &buffer_pool)
    : options_(options), buffer_pool_(buffer_pool) {}

int32_t HixlOptions::longest_ms() const {
    return InstalledHixl().IsAtLeast(9, 0) ? std::numeric_limits<int32_t>::max() : kLongestOf85;
}

Status HixlOptions::ForHixl(std::map<ge::AscendString, ge::AscendString> *given) {
    const HixlVersion &hixl = InstalledHixl();
    const char *soc = aclrtGetSocName();
    if (hixl.known && !hixl.IsAtLeast(9, 0) && IsAscend950(soc)) {
        return Failure(LLDD_PARAM_INVALID,
                       "HIXL %s does not support %s, which needs CANN 9.0.0 or later",
                       hixl.text.c_str(), soc);
    }
    const auto give = [given](const char *key, const std::string &value) {
        given->emplace(key, value.c_str());
    };
    give("BufferPool", buffer_pool_);
    if (options_.rdma_traffic_class != LLDD_UNSET)
        give("RdmaTrafficClass", std::to_string(options_.rdma_traffic_class));
    if (options_.rdma_service_level != LLDD_UNSET)
        give("RdmaServiceLevel", std::to_string(options_.rdma_service_level));
    if (!options_.local_comm_res.empty()) {
        if (hixl.known && !hixl.IsAtLeast(9, 0)) {
            options_.tell(Format("local_comm_res has no effect: HIXL %s does not know it",
                                 hixl.text.c_str()));
        } else {
            give("LocalCommRes", options_.local_comm_res);
            const std::string &resource = options_.local_comm_res;
            const bool older = resource.find("\"1.0\"") != std::string::npos ||
                               resource.find("\"1.2\"") != std::string::npos;
            if (hixl.known && older) {
                options_.tell(
                    Format("local_comm_res has no effect: of HIXL %s only version "
                           "\"1.3\" has one; Atlas A2 and A3 generate their own",
                           hixl.text.c_str()));
            }
        }
    }
    return options_.global_resource_config.empty() ? Status::Ok() : AddConfig(given);
}

// The client gives the text or the path of a file; HIXL wants the path until 8.5, then the text.
Status HixlOptions::AddConfig(std::map<ge::AscendString, ge::AscendString> *given) {
    const HixlVersion &hixl = InstalledHixl();
    std::string value = options_.global_resource_config;
    const bool is_json = IsJson(value);
    if (!hixl.known) {
        options_.tell(
            "which version of HIXL is installed is not known, so global_resource_config is handed "
            "on as it is: HIXL 8.5 wants the path of a file, later ones the JSON text");
    } else if (is_json && !hixl.IsAtLeast(9, 0)) {
        config_file_ = Fd(memfd_create("lldd-global-resource-config", MFD_CLOEXEC));
        if (config_file_.get() < 0 || write(config_file_.get(), value.data(), value.size()) !=
                                          static_cast<ssize_t>(value.size())) {
            return Failure(LLDD_FAILED, "global_resource_config cannot be written to a file: %s",
                           std::strerror(errno));
        }
        value = "/proc/self/fd/" + std::to_string(config_file_.get());
    } else if (!is_json && hixl.IsAtLeast(9, 0)) {
        std::ifstream file(value);
        if (!file) {
            return Failure(LLDD_PARAM_INVALID,
                           "GlobalResourceConfig (global_resource_config) is neither JSON nor a "
                           "file that can be read: %s",
                           value.c_str());
        }
        value.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    given->emplace("GlobalResourceConfig", value.c_str());
    return Status::Ok();
}

}  // namespace lldd::ascend
