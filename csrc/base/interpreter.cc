// SPDX-License-Identifier: Apache-2.0
#include "base/interpreter.h"

#include <unistd.h>

#include <sys/syscall.h>

#include "base/fork.h"

// Of the interpreter's stable functions, those needed here. Null in a process without one.
extern "C" {
__attribute__((weak)) int Py_IsInitialized(void);
__attribute__((weak)) int PyGILState_Ensure(void);
__attribute__((weak)) void PyGILState_Release(int state);
__attribute__((weak)) int PyOS_InterruptOccurred(void);
__attribute__((weak)) void PyErr_SetInterrupt(void);
}

namespace lldd {

bool OnMainThread() {
    struct Known {
        unsigned generation;  // in a child another thread may be the main one
        bool is_main;
    };
    static thread_local Known known{ForkGeneration() - 1, false};
    if (known.generation != ForkGeneration())
        known = {ForkGeneration(), syscall(SYS_gettid) == getpid()};
    return known.is_main;
}

bool CallerInterrupted() {
    if (Py_IsInitialized == nullptr || PyGILState_Ensure == nullptr ||
        PyGILState_Release == nullptr || PyOS_InterruptOccurred == nullptr ||
        PyErr_SetInterrupt == nullptr) {
        return false;
    }
    if (!OnMainThread() || Py_IsInitialized() == 0) return false;
    const int state = PyGILState_Ensure();
    const bool interrupted = PyOS_InterruptOccurred() != 0;
    // Asking has cleared it. No bytecode runs here, so the handler waits for the end of the call.
    if (interrupted) PyErr_SetInterrupt();
    PyGILState_Release(state);
    return interrupted;
}

}  // namespace lldd
