// How calls of the fake HIXL end: with a text for aclGetRecentErrMsg.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "hixl/hixl_types.h"
#include "wire.h"

namespace hixl {

Status Refuse(Status status, const std::string &text);
// A thread without a context is refused; an ordered fault is given back. A fault at "POINT-hang"
// keeps the call for so many milliseconds, whatever its timeout.
Status Enter(const std::string &point);
Status StatusOf(fake_cann::Sent sent);
fake_cann::Clock::time_point In(int32_t ms);

}  // namespace hixl
