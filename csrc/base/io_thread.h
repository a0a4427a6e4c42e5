// Which thread runs something: checked by the compiler (see base/mutex.h), and by assertions where
// LLDD_CHECK_THREADS is defined, as it is for the sanitizers. Elsewhere the assertions are nothing.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/event_loop.h"
#include "base/mutex.h"

namespace lldd {

#ifdef LLDD_CHECK_THREADS
constexpr bool kChecksThreads = true;
#else
constexpr bool kChecksThreads = false;
#endif

// Ends the process; `what` the thread must do, at that place.
[[noreturn]] void EndOnWrongThread(const char *what, const char *file, int line);

inline void AssertOnIoThread(const EventLoop &loop, const char *file, int line)
    LLDD_ASSERT_HELD(loop) {
    if (kChecksThreads && !loop.OnLoopThread()) {
        EndOnWrongThread("must run on the I/O thread", file, line);
    }
}

inline void AssertOffIoThread(const EventLoop &loop, const char *file, int line)
    LLDD_EXCLUDES(loop) {
    if (kChecksThreads && loop.OnLoopThread()) {
        EndOnWrongThread("must not run on the I/O thread, which it would block", file, line);
    }
}

}  // namespace lldd

// The rest of the function runs on the thread of this loop.
#define LLDD_ON_IO_THREAD(loop) ::lldd::AssertOnIoThread(loop, __FILE__, __LINE__)
// It blocks, so it runs on any other thread.
#define LLDD_OFF_IO_THREAD(loop) ::lldd::AssertOffIoThread(loop, __FILE__, __LINE__)
