// SPDX-License-Identifier: Apache-2.0
#include "ascend/threads.h"

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"

namespace lldd::ascend {
namespace {

// Idle threads that stay for the next task.
constexpr size_t kKeptIdle = 2;

}  // namespace

// Shared by the threads, since one whose task does not return outlives the Threads.
struct Threads::State : std::enable_shared_from_this<Threads::State> {
    explicit State(std::shared_ptr<Context> device_context) : context(std::move(device_context)) {}

    void StartLocked() LLDD_REQUIRES(mutex);
    void Run(uint64_t number);

    const std::shared_ptr<Context> context;
    Mutex mutex;
    std::condition_variable posted;
    std::condition_variable ended;
    std::deque<std::function<void()>> tasks LLDD_GUARDED_BY(mutex);
    std::map<uint64_t, std::thread> running LLDD_GUARDED_BY(mutex);  // or idle
    std::vector<std::thread> over LLDD_GUARDED_BY(mutex);            // to be joined
    uint64_t next_number LLDD_GUARDED_BY(mutex) = 0;
    size_t idle LLDD_GUARDED_BY(mutex) = 0;
    bool ending LLDD_GUARDED_BY(mutex) = false;
};

void Threads::State::StartLocked() {
    const uint64_t number = next_number++;
    running.emplace(number, StartThread("lldd-hixl", [self = shared_from_this(), number] {
                        self->Run(number);
                    }));
}

void Threads::State::Run(uint64_t number) {
    const Context::Scope in_context(*context);
    UniqueLock lock(mutex);
    for (;;) {
        if (tasks.empty()) {
            if (ending || idle >= kKeptIdle) break;
            ++idle;
            posted.wait(lock.native(),
                        [this]() LLDD_REQUIRES(mutex) { return ending || !tasks.empty(); });
            --idle;
            continue;
        }
        std::function<void()> task = std::move(tasks.front());
        tasks.pop_front();
        lock.Unlock();
        task();
        task = nullptr;
        lock.Lock();
    }
    const auto own = running.find(number);
    // A thread that was given up is not joined.
    if (own == running.end()) return;
    over.push_back(std::move(own->second));
    running.erase(own);
    ended.notify_all();
}

Threads::Threads(std::shared_ptr<Context> context)
    : state_(std::make_shared<State>(std::move(context))) {}

Threads::~Threads() { (void)Finish(Deadline::Passed()); }

void Threads::Post(std::function<void()> task) {
    std::vector<std::thread> over;
    {
        MutexLock lock(state_->mutex);
        if (state_->ending && state_->running.empty()) return;
        over.swap(state_->over);
        state_->tasks.push_back(std::move(task));
        // As many as stay, from the first task on; more while there are more tasks.
        if (state_->tasks.size() > state_->idle || state_->running.size() < kKeptIdle) {
            try {
                do state_->StartLocked();
                while (state_->running.size() < kKeptIdle);
            } catch (const std::system_error &) {
                // Then it waits for the thread of another task.
                if (state_->running.empty()) throw;
            }
        }
        state_->posted.notify_one();
    }
    for (std::thread &thread : over) thread.join();
}

bool Threads::Finish(const Deadline &deadline) {
    std::vector<std::thread> over;
    bool all = false;
    {
        UniqueLock lock(state_->mutex);
        state_->ending = true;
        state_->posted.notify_all();
        all = WaitUntil(state_->ended, lock.native(), deadline,
                        [this]() LLDD_REQUIRES(state_->mutex) { return state_->running.empty(); });
        over.swap(state_->over);
        for (auto &[number, thread] : state_->running) thread.detach();
        state_->running.clear();
    }
    for (std::thread &thread : over) thread.join();
    return all;
}

}  // namespace lldd::ascend
