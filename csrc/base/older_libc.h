// The system calls that glibc wraps since 2.25 and 2.27, for a library that is built for hosts with
// an older one (a manylinux_2_17 wheel). Every other C library declares them itself.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <features.h>
#include <sys/mman.h>

#if defined(__GLIBC__) && __GLIBC__ == 2 && __GLIBC_MINOR__ < 27
#define LLDD_NO_MEMFD_CREATE
#endif
#if defined(__GLIBC__) && __GLIBC__ == 2 && __GLIBC_MINOR__ < 25
#define LLDD_NO_GETRANDOM
#else
#include <sys/random.h>
#endif

#ifdef LLDD_NO_MEMFD_CREATE

#include <linux/memfd.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace lldd {

inline int memfd_create(const char *name, unsigned flags) {
    return static_cast<int>(syscall(SYS_memfd_create, name, flags));
}

#ifdef LLDD_NO_GETRANDOM
inline ssize_t getrandom(void *buffer, size_t size, unsigned flags) {
    return syscall(SYS_getrandom, buffer, size, flags);
}
#endif

}  // namespace lldd

#endif
