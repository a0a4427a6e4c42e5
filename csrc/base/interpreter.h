// The Python interpreter that this library may be loaded into.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace lldd {

// Whether this is the thread that runs the interpreter's handlers of signals. Takes system calls once
// per thread.
bool OnMainThread();

// Whether Ctrl-C came while the main thread of the interpreter waits in a call of this library; the
// interpreter runs its handler when the call has returned. Only that thread is told, since only
// that one runs handlers. Takes the interpreter's lock: no lock may be held. False without an
// interpreter.
bool CallerInterrupted();

}  // namespace lldd
