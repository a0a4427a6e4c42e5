/* SPDX-License-Identifier: Apache-2.0
 *
 * Counts what one thread asks of the allocator and of the kernel while it calls a function. Preloaded, so that the
 * allocator's functions below are everybody's. System calls are counted by the kernel's own "syscall user dispatch":
 * each one becomes a SIGSYS, whose handler counts it and makes it, so that none is missed, wherever it comes from.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { MOST_SYSCALLS = 512 };

static __thread volatile int counting __attribute__((tls_model("initial-exec")));
static uint64_t allocations;
static uint64_t syscalls[MOST_SYSCALLS];

/* ---- the allocator ---- */

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void __libc_free(void *);

static void note(void) {
    if (counting) allocations++;
}

void *malloc(size_t size) {
    note();
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    note();
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    note();
    return __libc_realloc(old, size);
}

void free(void *old) {
    if (old != NULL) note();
    __libc_free(old);
}

/* ---- the kernel ---- */

typedef int (*function)(void *, void *);

#if defined(__x86_64__)

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif
enum { DISPATCH_OFF = 0, DISPATCH_ON = 1 };

static volatile char selector; /* 0: system calls go to the kernel, 1: to the handler */

/* The end of the handler is a system call itself: the one place that may always make one. */
__asm__(
    ".text\n"
    "always_allowed:\n"
    "    mov $15, %eax\n" /* rt_sigreturn */
    "    syscall\n"
    "    nop\n"
    "always_allowed_end:\n");
extern char always_allowed[], always_allowed_end[];

static long make(long number, const greg_t *registers) {
    register long r10 __asm__("r10") = registers[REG_R10];
    register long r8 __asm__("r8") = registers[REG_R8];
    register long r9 __asm__("r9") = registers[REG_R9];
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(registers[REG_RDI]), "S"(registers[REG_RSI]),
                       "d"(registers[REG_RDX]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static void on_syscall(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    long number = registers[REG_RAX];
    (void)signal;
    (void)info;
    selector = 0;
    if (number >= 0 && number < MOST_SYSCALLS) syscalls[number]++;
    registers[REG_RAX] = make(number, registers);
    selector = 1;
}

/* As the kernel has it: the C library's sigaction() would bring a restorer of its own. */
struct kernel_sigaction {
    void (*handler)(int, siginfo_t *, void *);
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

static int dispatch_on(void) {
    struct kernel_sigaction action = {on_syscall, SA_SIGINFO | 0x04000000 /* SA_RESTORER */,
                                      always_allowed, 0};
    if (syscall(SYS_rt_sigaction, SIGSYS, &action, NULL, sizeof action.mask) != 0) return -errno;
    if (prctl(PR_SET_SYSCALL_USER_DISPATCH, DISPATCH_ON, always_allowed,
              always_allowed_end - always_allowed + 1, &selector) != 0)
        return -errno;
    return 0;
}

static void dispatch_off(void) { prctl(PR_SET_SYSCALL_USER_DISPATCH, DISPATCH_OFF, 0, 0, 0); }

#else

static volatile char selector;
static int dispatch_on(void) { return -ENOSYS; }
static void dispatch_off(void) {}

#endif

/* Calls `called(a, b)` so many times. 0; -ENOSYS or -EINVAL where system calls cannot be counted; or what the
 * function answered, if that was not 0. */
int64_t count_calls(function called, void *a, void *b, int64_t times) {
    int64_t answer = dispatch_on();
    if (answer != 0) return answer;
    memset(syscalls, 0, sizeof syscalls);
    allocations = 0;
    counting = 1;
    selector = 1;
    for (int64_t i = 0; i < times && answer == 0; i++) answer = called(a, b);
    selector = 0;
    counting = 0;
    dispatch_off();
    return answer;
}

uint64_t counted_allocations(void) { return allocations; }
uint64_t counted_syscalls(int number) { return syscalls[number]; }
int most_syscalls(void) { return MOST_SYSCALLS; }
