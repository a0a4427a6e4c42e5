// SPDX-License-Identifier: Apache-2.0
#include "base/io_thread.h"

#include <cstdio>
#include <cstdlib>

namespace lldd {

void EndOnWrongThread(const char *what, const char *file, int line) {
    std::fprintf(stderr, "%s:%d: this %s\n", file, line, what);
    std::abort();
}

}  // namespace lldd
