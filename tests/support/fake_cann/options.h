// The options of the fake HIXL, as its version reads them.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>

#include "hixl/hixl_types.h"

namespace hixl {

struct Options {
    bool has_buffer_pool = true;  // what is staged goes through it
    bool comm_1_3 = false;        // LocalCommRes has version "1.3"

    static Status Read(const std::map<AscendString, AscendString> &given, Options *options);
};

}  // namespace hixl
