// Devices that an engine could not give back, since HIXL has not returned from a call.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "ascend/session.h"
#include "base/deadline.h"
#include "base/status.h"

namespace lldd::ascend {

// Keeps what the call may use. `free` is called when it has returned and HIXL has ended.
void KeepTaken(int32_t device_id, std::shared_ptr<HixlSession> session, std::function<void()> free);
// Before a device is opened: ends what has been kept for it. LLDD_FAILED: a call has still not
// returned.
Status TakeBack(int32_t device_id, const Deadline &deadline);

}  // namespace lldd::ascend
