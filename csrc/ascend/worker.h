// One thread for what may block and must not be done on the I/O thread.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include "ascend/cann.h"
#include "base/mutex.h"

namespace lldd::ascend {

class Worker {
public:
    // Tasks run in the device's context. Throws std::system_error.
    explicit Worker(std::shared_ptr<Context> context);
    ~Worker();
    Worker(const Worker &) = delete;
    Worker &operator=(const Worker &) = delete;

    // Any thread; does not block. Tasks run one after the other.
    void Post(std::function<void()> task);
    // Runs what was posted, and what that posts, then ends. What is posted later does not run.
    void Finish();

private:
    void Run();

    const std::shared_ptr<Context> context_;
    Mutex mutex_;
    std::condition_variable posted_;
    std::deque<std::function<void()>> tasks_ LLDD_GUARDED_BY(mutex_);
    bool ending_ LLDD_GUARDED_BY(mutex_) = false;
    std::thread thread_;
};

}  // namespace lldd::ascend
