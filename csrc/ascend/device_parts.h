// What the connections of a device are given: the device outlives them.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "ascend/cann.h"
#include "ascend/hixl_engine.h"
#include "ascend/own_memory.h"
#include "ascend/withdrawals.h"

namespace lldd::ascend {

struct DeviceParts {
    int32_t device_id = 0;
    std::shared_ptr<Context> context;
    std::unique_ptr<HixlEngine> engine;
    std::unique_ptr<OwnMemory> memory;
    std::unique_ptr<Withdrawals> withdrawals;
};

}  // namespace lldd::ascend
