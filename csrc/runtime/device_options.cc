// SPDX-License-Identifier: Apache-2.0
#include "runtime/runtime.h"

namespace lldd {
namespace {

std::string TextOf(const char *text) { return text == nullptr ? "" : text; }

}  // namespace

DeviceOptions DeviceOptions::Of(const lldd_config &config) {
    DeviceOptions options;
    options.device_id = config.device_id;
    options.local_comm_res = TextOf(config.local_comm_res);
    options.global_resource_config = TextOf(config.global_resource_config);
    options.rdma_traffic_class = config.rdma_traffic_class;
    options.rdma_service_level = config.rdma_service_level;
    options.buffer_pool = TextOf(config.buffer_pool);
    if (config.finalize_timeout_ms != 0) options.finalize_timeout_ms = config.finalize_timeout_ms;
    return options;
}

}  // namespace lldd
