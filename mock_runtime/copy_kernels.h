// How bytes are copied: what this CPU does best, chosen at run time.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

namespace lldd::mock {

struct CopyKernel {
    const char *name;
    // Copies between ranges that do not overlap. For pieces of a large transfer: may go past the
    // caches; then other threads are sure to see the bytes only after finish().
    void (*copy)(void *dst, const void *src, size_t size);
    void (*finish)();
};

// For small transfers, whose bytes the reader wants in its cache.
void CopySmall(void *dst, const void *src, size_t size);

// By name, "auto" for the best; null: no such kernel, or this CPU lacks it.
const CopyKernel *FindCopyKernel(const std::string &name);

// The names that this CPU can run, separated by blanks.
std::string UsableCopyKernels();

}  // namespace lldd::mock
