// The I/O thread of the process: one, however many engines and links there are.
//
// It runs while an engine or a device holds the loop, and is joined when the last one releases it.
// Handlers must not block: they run one after the other, and every engine of the process waits for
// them.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/deadline.h"
#include "base/fd.h"
#include "base/mutex.h"

namespace lldd {

// As a capability (base/mutex.h) it is its thread's: see base/io_thread.h.
class LLDD_CAPABILITY("I/O thread") EventLoop {
public:
    // Gets the EPOLL* bits that are set.
    using Handler = std::function<void(uint32_t events)>;
    using Task = std::function<void()>;
    // Names one registration; never reused, so a late event of a closed descriptor reaches no
    // handler. 0: none.
    using Token = uint64_t;

    // The loop of this process. Throws std::runtime_error (no descriptors) or std::system_error (no
    // thread) if it cannot be started. The last reference must not be released on the I/O thread.
    static std::shared_ptr<EventLoop> Acquire();

    ~EventLoop();
    EventLoop(const EventLoop &) = delete;
    EventLoop &operator=(const EventLoop &) = delete;

    // Watches a descriptor (level-triggered; `events` may be 0: only errors and hang-ups). The
    // caller keeps owning it and removes it before closing it.
    Token Watch(int fd, uint32_t events, Handler handler);
    void Change(Token token, uint32_t events);
    // Afterwards the handler neither runs nor will run, unless the call comes from that handler
    // itself.
    void Remove(Token token);

    // Runs a task on the I/O thread, in the order of posting.
    void Post(Task task);
    // The same, and waits for it; on the I/O thread runs it at once. What was posted before is over
    // then, and what it referred to is released. Throws what the task throws.
    void RunAndWait(const Task &task);
    // Runs a task on the I/O thread at that time, unless cancelled before.
    Token PostAt(const Deadline &when, Task task);
    void Cancel(Token timer);

    bool OnLoopThread() const { return std::this_thread::get_id() == thread_.get_id(); }

private:
    struct Watched {
        int fd;
        Handler handler;
    };
    using TimerPlace = std::pair<Deadline::Clock::time_point, Token>;

    EventLoop();
    void Run();
    void Wake();
    void RunTasks();
    int RunTimers();

    Fd epoll_;
    Fd wake_;
    Mutex mutex_;
    std::unordered_map<Token, std::shared_ptr<Watched>> watched_ LLDD_GUARDED_BY(mutex_);
    // The next one first.
    std::map<TimerPlace, Task> timers_ LLDD_GUARDED_BY(mutex_);
    std::unordered_map<Token, TimerPlace> timer_places_ LLDD_GUARDED_BY(mutex_);
    std::vector<Task> tasks_ LLDD_GUARDED_BY(mutex_);
    Token next_token_ LLDD_GUARDED_BY(mutex_) = 2;
    bool stopping_ LLDD_GUARDED_BY(mutex_) = false;
    std::thread thread_;
};

}  // namespace lldd
