// SPDX-License-Identifier: Apache-2.0
#include "ascend/worker.h"

#include <utility>

#include "base/thread.h"

namespace lldd::ascend {

Worker::Worker(std::shared_ptr<Context> context) : context_(std::move(context)) {
    thread_ = StartThread("lldd-hixl", [this] { Run(); });
}

Worker::~Worker() { Finish(); }

void Worker::Finish() {
    {
        MutexLock lock(mutex_);
        ending_ = true;
        posted_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
}

void Worker::Post(std::function<void()> task) {
    MutexLock lock(mutex_);
    tasks_.push_back(std::move(task));
    posted_.notify_all();
}

void Worker::Run() {
    const Context::Scope in_context(*context_);
    UniqueLock lock(mutex_);
    for (;;) {
        posted_.wait(lock.native(),
                     [this]() LLDD_REQUIRES(mutex_) { return ending_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        const std::function<void()> task = std::move(tasks_.front());
        tasks_.pop_front();
        lock.Unlock();
        task();
        lock.Lock();
    }
}

}  // namespace lldd::ascend
