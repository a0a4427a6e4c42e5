// SPDX-License-Identifier: Apache-2.0
#include "ascend/forked_exit.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>

namespace lldd::ascend {
namespace {

void EndAtOnce(int status, void *) {
    (void)std::fflush(nullptr);
    _exit(status);
}

// The last handler that is registered is the first that runs.
void InChild() { (void)on_exit(EndAtOnce, nullptr); }

}  // namespace

void SpareForkedChildren() {
    static const int registered = pthread_atfork(nullptr, nullptr, InChild);
    (void)registered;
}

}  // namespace lldd::ascend
