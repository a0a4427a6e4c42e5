// SPDX-License-Identifier: Apache-2.0
// A forked child inherits its parent's engines, which it must neither use nor free. LeakSanitizer
// would call them leaks when the child leaves through exit(), so there it is told not to look.
// Every other process is looked at.
#include <pthread.h>

namespace {

bool in_forked_child = false;

__attribute__((constructor)) void WatchForks() {
    pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });
}

}  // namespace

extern "C" int __lsan_is_turned_off() { return in_forked_child; }
