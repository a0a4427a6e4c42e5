// The options of HIXL, as the version that is installed takes them.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/fd.h"
#include "base/status.h"
#include "hixl/hixl_types.h"
#include "runtime/runtime.h"

namespace lldd::ascend {

// The option of the client, or else the one that has no transfer staged.
std::string BufferPoolOf(const DeviceOptions &options);

class HixlOptions {
public:
    HixlOptions(const DeviceOptions &options, const std::string &buffer_pool);

    // LLDD_PARAM_INVALID: the version that is installed cannot do what is asked for.
    Status ForHixl(std::map<ge::AscendString, ge::AscendString> *given);
    // The longest timeout that HIXL is given, in milliseconds.
    int32_t longest_ms() const;

private:
    Status AddConfig(std::map<ge::AscendString, ge::AscendString> *given);

    const DeviceOptions options_;
    const std::string buffer_pool_;
    Fd config_file_;  // for a version that wants a path
};

}  // namespace lldd::ascend
