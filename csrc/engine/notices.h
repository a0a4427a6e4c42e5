// What the client is told at its next call.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <string>

#include "base/mutex.h"

namespace lldd {

// Thread-safe. Nothing here blocks. Each notice is also logged.
class Notices {
public:
    Notices() = default;
    Notices(const Notices &) = delete;
    Notices &operator=(const Notices &) = delete;

    // The oldest is dropped when there are too many.
    void Add(std::string text);
    // Takes the oldest; false if there is none.
    bool Next(std::string *text);

private:
    Mutex mutex_;
    std::deque<std::string> notices_ LLDD_GUARDED_BY(mutex_);
};

}  // namespace lldd
