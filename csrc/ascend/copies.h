// Copies between places of this process by ACL.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "ascend/cann.h"
#include "base/mutex.h"
#include "runtime/runtime.h"

namespace lldd::ascend {

// Thread-safe. Calls at the same time use a stream each, which later ones use again.
class Copies {
public:
    explicit Copies(std::shared_ptr<Context> context) : context_(std::move(context)) {}
    ~Copies();
    Copies(const Copies &) = delete;
    Copies &operator=(const Copies &) = delete;

    Status Move(const Run *runs, size_t count, Placement to, Placement from,
                const Deadline &deadline);

private:
    class Stream;

    const std::shared_ptr<Context> context_;
    Mutex mutex_;
    std::vector<aclrtStream> idle_ LLDD_GUARDED_BY(mutex_);
};

}  // namespace lldd::ascend
