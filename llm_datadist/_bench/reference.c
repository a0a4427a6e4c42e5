/* SPDX-License-Identifier: Apache-2.0
 *
 * What the machine allows: the copies that every figure of the benchmarks is compared with, measured in the same run.
 * Plain loops without any check of what they are asked for; each returns the nanoseconds it took, or -1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { PIECE = 1 << 20, READV_IOV = 256, STREAM_IOV = 1024, MAX_THREADS = 4 };
/* Fewer pieces than this are not worth a second thread. */
enum { MIN_SHARED_PIECES = 64 };

typedef void (*copy_fn)(void *, const void *, size_t);

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- copy kernels ---- */

static void copy_memcpy(void *dst, const void *src, size_t size) { memcpy(dst, src, size); }

#if defined(__x86_64__)

static void copy_movsb(void *dst, const void *src, size_t size) {
    __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(size)::"memory");
}

__attribute__((target("avx512f"))) static void copy_nt512(void *dst, const void *src, size_t size) {
    if (((uintptr_t)dst & 63) || (size & 255)) {
        memcpy(dst, src, size);
        return;
    }
    const char *from = src;
    char *to = dst;
    for (size_t i = 0; i < size; i += 256, from += 256, to += 256) {
        __m512i a = _mm512_loadu_si512(from), b = _mm512_loadu_si512(from + 64);
        __m512i c = _mm512_loadu_si512(from + 128), d = _mm512_loadu_si512(from + 192);
        _mm512_stream_si512((void *)to, a);
        _mm512_stream_si512((void *)(to + 64), b);
        _mm512_stream_si512((void *)(to + 128), c);
        _mm512_stream_si512((void *)(to + 192), d);
    }
    _mm_sfence();
}

/* Every x86-64 has this one. */
static void copy_nt128(void *dst, const void *src, size_t size) {
    if (((uintptr_t)dst & 15) || (size & 63)) {
        memcpy(dst, src, size);
        return;
    }
    const __m128i *from = src;
    __m128i *to = dst;
    for (size_t i = 0; i < size; i += 64, from += 4, to += 4) {
        __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
        __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
        _mm_stream_si128(to, a);
        _mm_stream_si128(to + 1, b);
        _mm_stream_si128(to + 2, c);
        _mm_stream_si128(to + 3, d);
    }
    _mm_sfence();
}

static copy_fn reference_kernel(void) { return copy_movsb; }
static copy_fn streaming_kernel(void) {
    return __builtin_cpu_supports("avx512f") ? copy_nt512 : copy_nt128;
}
const char *reference_kernel_name(void) { return "rep movsb"; }
const char *streaming_kernel_name(void) {
    return __builtin_cpu_supports("avx512f") ? "AVX-512 streaming stores" : "SSE2 streaming stores";
}

#else

static copy_fn reference_kernel(void) { return copy_memcpy; }
static copy_fn streaming_kernel(void) { return copy_memcpy; }
const char *reference_kernel_name(void) { return "memcpy"; }
const char *streaming_kernel_name(void) { return "memcpy"; }

#endif

/* ---- inside one process ---- */

int64_t copy_local(const uint64_t *src, const uint64_t *dst, uint64_t count, uint64_t size) {
    copy_fn copy = reference_kernel();
    int64_t start = now_ns();
    for (uint64_t i = 0; i < count; i++) copy((void *)dst[i], (const void *)src[i], size);
    return now_ns() - start;
}

/* ---- from another process's memory, by some threads ---- */

typedef struct {
    int pid; /* 0: src is mapped here */
    const uint64_t *src, *dst;
    size_t size, pieces_per_block, first, end;
    copy_fn copy;
    int failed;
} share;

static void *pull_share(void *arg) {
    share *s = arg;
    struct iovec local[READV_IOV], remote[READV_IOV];
    size_t count = 0, bytes = 0;
    for (size_t i = s->first; i < s->end; i++) {
        size_t block = i / s->pieces_per_block, offset = i % s->pieces_per_block * PIECE;
        size_t length = s->size - offset < PIECE ? s->size - offset : PIECE;
        void *to = (void *)(s->dst[block] + offset), *from = (void *)(s->src[block] + offset);
        if (s->pid == 0) {
            s->copy(to, from, length);
            continue;
        }
        local[count] = (struct iovec){to, length};
        remote[count++] = (struct iovec){from, length};
        bytes += length;
        if (count == READV_IOV || bytes >= PIECE || i + 1 == s->end) {
            if (process_vm_readv(s->pid, local, count, remote, count, 0) != (ssize_t)bytes)
                s->failed = 1;
            count = bytes = 0;
        }
    }
    return NULL;
}

static int64_t pull_shared(int pid, copy_fn copy, const uint64_t *src, const uint64_t *dst,
                           size_t count, size_t size, int threads) {
    int64_t start = now_ns();
    size_t pieces_per_block = (size + PIECE - 1) / PIECE, pieces = count * pieces_per_block;
    share shares[MAX_THREADS];
    pthread_t ids[MAX_THREADS];
    if (threads < 1 || threads > MAX_THREADS) return -1;
    if (pieces < MIN_SHARED_PIECES) threads = 1;
    int started = 1, failed = 0;
    for (int i = 0; i < threads; i++)
        shares[i] = (share){pid,
                            src,
                            dst,
                            size,
                            pieces_per_block,
                            pieces * i / threads,
                            pieces * (i + 1) / threads,
                            copy,
                            0};
    for (; started < threads; started++)
        if (pthread_create(&ids[started], NULL, pull_share, &shares[started]) != 0) break;
    if (started < threads) failed = 1;
    pull_share(&shares[0]);
    failed |= shares[0].failed;
    for (int i = 1; i < started; i++) {
        pthread_join(ids[i], NULL);
        failed |= shares[i].failed;
    }
    return failed ? -1 : now_ns() - start;
}

/* src: addresses in process pid. */
int64_t pull_readv(int pid, const uint64_t *src, const uint64_t *dst, uint64_t count, uint64_t size,
                   int threads) {
    return pull_shared(pid, copy_memcpy, src, dst, count, size, threads);
}

/* src: addresses here, of memory shared with the other process. */
int64_t pull_mapped(const uint64_t *src, const uint64_t *dst, uint64_t count, uint64_t size,
                    int threads) {
    return pull_shared(0, streaming_kernel(), src, dst, count, size, threads);
}

/* ---- over one blocking socket ---- */

/* The request is {count, size} and the source addresses; the answer is the blocks. */
static int move_all(int fd, struct iovec *v, int count, int writing) {
    while (count > 0) {
        ssize_t moved = writing ? writev(fd, v, count) : readv(fd, v, count);
        if (moved < 0 && errno == EINTR) continue;
        if (moved <= 0) return -1;
        while (count > 0 && moved >= (ssize_t)v->iov_len) {
            moved -= (ssize_t)v->iov_len;
            v++;
            count--;
        }
        if (count > 0) {
            v->iov_base = (char *)v->iov_base + moved;
            v->iov_len -= (size_t)moved;
        }
    }
    return 0;
}

static int move_blocks(int fd, const uint64_t *addrs, size_t count, size_t size, int writing) {
    struct iovec v[STREAM_IOV];
    for (size_t i = 0; i < count;) {
        int n = 0;
        for (; n < STREAM_IOV && i < count; n++, i++) v[n] = (struct iovec){(void *)addrs[i], size};
        if (move_all(fd, v, n, writing) != 0) return -1;
    }
    return 0;
}

/* Answers requests until the connection closes; addrs is room for the largest request. 0, or -1 for a request that is
 * too large or cut off. */
int serve_stream(int fd, uint64_t *addrs, uint64_t capacity) {
    for (;;) {
        uint64_t head[2];
        struct iovec v = {head, sizeof head};
        if (move_all(fd, &v, 1, 0) != 0) return v.iov_len == sizeof head ? 0 : -1;
        if (head[0] > capacity) return -1;
        v = (struct iovec){addrs, head[0] * sizeof *addrs};
        if (move_all(fd, &v, 1, 0) != 0) return -1;
        if (move_blocks(fd, addrs, head[0], head[1], 1) != 0) return -1;
    }
}

int64_t pull_stream(int fd, const uint64_t *src, const uint64_t *dst, uint64_t count,
                    uint64_t size) {
    int64_t start = now_ns();
    uint64_t head[2] = {count, size};
    struct iovec v[2] = {{head, sizeof head}, {(void *)src, count * sizeof *src}};
    if (move_all(fd, v, 2, 1) != 0 || move_blocks(fd, dst, count, size, 0) != 0) return -1;
    return now_ns() - start;
}
