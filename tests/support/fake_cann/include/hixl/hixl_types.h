// The types of CANN's HIXL, as this project declares them for its tests. Made from the documented
// interface; no file of CANN's is here.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "graph/ascend_string.h"

namespace hixl {

using ge::AscendString;

using Status = uint32_t;

constexpr Status SUCCESS = 0;
constexpr Status PARAM_INVALID = 103900;
constexpr Status TIMEOUT = 103901;
constexpr Status NOT_CONNECTED = 103902;
constexpr Status ALREADY_CONNECTED = 103903;
constexpr Status NOTIFY_FAILED = 103904;
constexpr Status UNSUPPORTED = 103905;
constexpr Status RESOURCE_EXHAUSTED = 203900;
constexpr Status FAILED = 503900;

enum MemType { MEM_DEVICE = 0, MEM_HOST = 1 };
enum TransferOp { READ = 0, WRITE = 1 };

using MemHandle = void *;

struct MemDesc {
    uintptr_t addr;
    size_t len;
    uint8_t reserved[128] = {};
};

struct TransferOpDesc {
    uintptr_t local_addr;
    uintptr_t remote_addr;
    size_t len;
};

}  // namespace hixl
