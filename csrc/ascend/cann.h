// CANN's numbers as statuses, and the context that its calls need.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "acl/acl.h"
#include "base/deadline.h"
#include "base/status.h"
#include "hixl/hixl_types.h"

namespace lldd::ascend {

// What a call of ACL or HIXL that is named in `what` gave back. The number is kept as the raw one;
// the text ends with what CANN says of its last error on this thread.
Status FromAcl(aclError error, const std::string &what);
Status FromHixl(hixl::Status status, const std::string &what);

// Whether a connection over which a transfer ended like this can be used again as it is.
bool ConnectionSurvives(hixl::Status status);

// The rest of a deadline in the form that CANN's calls take; 0: it has passed.
int32_t Milliseconds(const Deadline &deadline);

// A device that is set in this process, and its context. One for all engines on the device, so that
// the last of them resets it; a device that the client had set before is left to the client.
class Context {
public:
    static Status Acquire(int32_t device_id, std::shared_ptr<Context> *context);
    ~Context();
    Context(const Context &) = delete;
    Context &operator=(const Context &) = delete;

    // Makes it the calling thread's while it lives, as a thread needs before any call of CANN, and
    // gives the thread its own one back.
    class Scope {
    public:
        explicit Scope(const Context &context);
        ~Scope();
        Scope(const Scope &) = delete;
        Scope &operator=(const Scope &) = delete;

    private:
        aclrtContext before_ = nullptr;
        bool changed_ = false;
    };

private:
    Context() = default;

    int32_t device_id_ = 0;
    aclrtContext context_ = nullptr;
    bool was_set_here_ = false;
};

}  // namespace lldd::ascend
