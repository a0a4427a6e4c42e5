// SPDX-License-Identifier: Apache-2.0
#include "base/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <condition_variable>
#include <exception>
#include <stdexcept>
#include <string>

#include "base/fork.h"
#include "base/log.h"
#include "base/status.h"
#include "base/thread.h"

namespace lldd {
namespace {

constexpr EventLoop::Token kWakeToken = 1;
constexpr int kEventsPerWait = 64;

// The loop of the process.
struct Instance {
    Mutex mutex;
    std::weak_ptr<EventLoop> loop LLDD_GUARDED_BY(mutex);
};

[[noreturn]] void ThrowErrno(const char *what) {
    const int error = errno;
    throw std::runtime_error(std::string(what) + ": " + ErrorText(error));
}

// A handler that throws (memory is exhausted) must not take the process of the client with it.
template <typename Function>
void RunGuarded(const Function &function) {
    try {
        function();
    } catch (const std::exception &error) {
        Log(LLDD_LOG_ERROR, "the I/O thread caught: %s", error.what());
    }
}

}  // namespace

std::shared_ptr<EventLoop> EventLoop::Acquire() {
    Instance &instance = OfThisProcess<Instance>();
    MutexLock lock(instance.mutex);
    std::shared_ptr<EventLoop> loop = instance.loop.lock();
    if (loop == nullptr) {
        loop.reset(new EventLoop);
        instance.loop = loop;
    }
    return loop;
}

EventLoop::EventLoop()
    : epoll_(epoll_create1(EPOLL_CLOEXEC)), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = kWakeToken;
    if (!epoll_ || !wake_ || epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
        ThrowErrno("cannot start the I/O thread");
    }
    thread_ = StartThread("lldd-io", [this] { Run(); });
}

EventLoop::~EventLoop() {
    {
        MutexLock lock(mutex_);
        stopping_ = true;
    }
    Wake();
    thread_.join();
}

EventLoop::Token EventLoop::Watch(int fd, uint32_t events, Handler handler) {
    auto watched = std::make_shared<Watched>(Watched{fd, std::move(handler)});
    MutexLock lock(mutex_);
    const Token token = next_token_++;
    epoll_event event{};
    event.events = events;
    event.data.u64 = token;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
        ThrowErrno("cannot watch a descriptor");
    }
    watched_.emplace(token, std::move(watched));
    return token;
}

void EventLoop::Change(Token token, uint32_t events) {
    MutexLock lock(mutex_);
    const auto found = watched_.find(token);
    if (found == watched_.end()) return;
    epoll_event event{};
    event.events = events;
    event.data.u64 = token;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, found->second->fd, &event) != 0) {
        ThrowErrno("cannot watch a descriptor");
    }
}

void EventLoop::Remove(Token token) {
    const auto remove = [this, token] {
        std::shared_ptr<Watched> removed;  // its handler dies after the lock is released
        MutexLock lock(mutex_);
        const auto found = watched_.find(token);
        if (found == watched_.end()) return;
        epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second->fd, nullptr);
        removed = std::move(found->second);
        watched_.erase(found);
    };
    // On the I/O thread no handler can be running but the caller's own.
    RunAndWait(remove);
}

void EventLoop::Post(Task task) {
    {
        MutexLock lock(mutex_);
        tasks_.push_back(std::move(task));
    }
    Wake();
}

void EventLoop::RunAndWait(const Task &task) {
    if (OnLoopThread()) {
        task();
        return;
    }
    Mutex done_mutex;
    std::condition_variable done_changed;
    bool done = false;
    std::exception_ptr thrown;
    Post([&] {
        try {
            task();
        } catch (...) {
            thrown = std::current_exception();
        }
        MutexLock lock(done_mutex);
        done = true;
        done_changed.notify_one();
    });
    UniqueLock lock(done_mutex);
    done_changed.wait(lock.native(), [&] { return done; });
    if (thrown) std::rethrow_exception(thrown);
}

EventLoop::Token EventLoop::PostAt(const Deadline &when, Task task) {
    Token token;
    {
        MutexLock lock(mutex_);
        token = next_token_++;
        const TimerPlace place(when.when(), token);
        timer_places_.emplace(token, place);
        timers_.emplace(place, std::move(task));
    }
    Wake();
    return token;
}

void EventLoop::Cancel(Token timer) {
    MutexLock lock(mutex_);
    const auto place = timer_places_.find(timer);
    if (place == timer_places_.end()) return;
    timers_.erase(place->second);
    timer_places_.erase(place);
}

void EventLoop::Wake() {
    const uint64_t one = 1;
    // EAGAIN means that a wake-up is pending already.
    if (write(wake_.get(), &one, sizeof one) < 0 && errno != EAGAIN) {
        Log(LLDD_LOG_ERROR, "cannot wake the I/O thread: errno %d", errno);
    }
}

void EventLoop::RunTasks() {
    std::vector<Task> tasks;
    {
        MutexLock lock(mutex_);
        tasks.swap(tasks_);
    }
    for (Task &task : tasks) {
        RunGuarded(task);
        // What the task refers to is released before the next one runs: see RunAndWait.
        task = nullptr;
    }
}

// Runs what is due; milliseconds until the next timer, -1 without one. One at a time, because a
// task may cancel another.
int EventLoop::RunTimers() {
    for (;;) {
        Task due;
        {
            MutexLock lock(mutex_);
            if (timers_.empty()) return -1;
            const auto next = timers_.begin();
            const int left = Deadline::At(next->first.first).RemainingMs();
            if (left != 0) return left;
            due = std::move(next->second);
            timer_places_.erase(next->first.second);
            timers_.erase(next);
        }
        RunGuarded(due);
    }
}

void EventLoop::Run() {
    epoll_event events[kEventsPerWait];
    for (;;) {
        RunTasks();
        const int wait_ms = RunTimers();
        {
            MutexLock lock(mutex_);
            if (stopping_ && tasks_.empty()) return;
        }
        const int count = epoll_wait(epoll_.get(), events, kEventsPerWait, wait_ms);
        for (int i = 0; i < count; ++i) {
            const Token token = events[i].data.u64;
            if (token == kWakeToken) {
                uint64_t counted;
                if (read(wake_.get(), &counted, sizeof counted) < 0 && errno != EAGAIN) {
                    Log(LLDD_LOG_ERROR, "cannot read the wake-up counter: errno %d", errno);
                }
                continue;
            }
            std::shared_ptr<Watched> watched;
            {
                MutexLock lock(mutex_);
                const auto found = watched_.find(token);
                if (found != watched_.end()) watched = found->second;
            }
            // Removed by a handler that ran before it in this round.
            if (watched != nullptr) RunGuarded([&] { watched->handler(events[i].events); });
        }
    }
}

}  // namespace lldd
