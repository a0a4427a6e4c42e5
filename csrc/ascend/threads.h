// Threads for what may block and must not be done on the I/O thread: a task never waits for another
// one, however long that one takes.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>

#include "ascend/cann.h"
#include "base/deadline.h"

namespace lldd::ascend {

class Threads {
public:
    // Tasks run in the device's context.
    explicit Threads(std::shared_ptr<Context> context);
    // What still runs then goes on without it.
    ~Threads();
    Threads(const Threads &) = delete;
    Threads &operator=(const Threads &) = delete;

    // Any thread; does not block. The task gets a thread that no other task has; one is started if
    // none is idle. Throws std::system_error if there is none at all.
    void Post(std::function<void()> task);
    // Runs what was posted, and what that posts, then ends the threads; what is posted later does not
    // run. False: a task has not returned by the deadline, and keeps its thread.
    bool Finish(const Deadline &deadline);

private:
    struct State;

    const std::shared_ptr<State> state_;
};

}  // namespace lldd::ascend
