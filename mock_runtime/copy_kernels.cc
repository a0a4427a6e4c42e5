// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/copy_kernels.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace lldd::mock {
namespace {

void CopyMemcpy(void *dst, const void *src, size_t size) { std::memcpy(dst, src, size); }
void NothingToFinish() {}
bool Always() { return true; }

#if defined(__x86_64__)

// Below this a streaming copy's unaligned ends and its fence cost more than it saves.
constexpr size_t kSmallestStream = 1024;

void CopyMovsb(void *dst, const void *src, size_t size) {
    __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(size)::"memory");
}

// Copies what precedes the first 64-byte boundary of dst; how many bytes that were.
size_t AlignDestination(char *dst, const char *src) {
    const size_t head = (64 - (reinterpret_cast<uintptr_t>(dst) & 63)) & 63;
    if (head != 0) std::memcpy(dst, src, head);
    return head;
}

__attribute__((target("avx512f"))) void CopyAvx512(void *dst, const void *src, size_t size) {
    if (size < kSmallestStream) {
        std::memcpy(dst, src, size);
        return;
    }
    auto *to = static_cast<char *>(dst);
    const auto *from = static_cast<const char *>(src);
    const size_t head = AlignDestination(to, from);
    to += head;
    from += head;
    size -= head;
    for (; size >= 256; size -= 256, to += 256, from += 256) {
        const __m512i a = _mm512_loadu_si512(from);
        const __m512i b = _mm512_loadu_si512(from + 64);
        const __m512i c = _mm512_loadu_si512(from + 128);
        const __m512i d = _mm512_loadu_si512(from + 192);
        _mm512_stream_si512(reinterpret_cast<__m512i *>(to), a);
        _mm512_stream_si512(reinterpret_cast<__m512i *>(to + 64), b);
        _mm512_stream_si512(reinterpret_cast<__m512i *>(to + 128), c);
        _mm512_stream_si512(reinterpret_cast<__m512i *>(to + 192), d);
    }
    if (size != 0) std::memcpy(to, from, size);
}

__attribute__((target("avx2"))) void CopyAvx2(void *dst, const void *src, size_t size) {
    if (size < kSmallestStream) {
        std::memcpy(dst, src, size);
        return;
    }
    auto *to = static_cast<char *>(dst);
    const auto *from = static_cast<const char *>(src);
    const size_t head = AlignDestination(to, from);
    to += head;
    from += head;
    size -= head;
    for (; size >= 128; size -= 128, to += 128, from += 128) {
        const auto *in = reinterpret_cast<const __m256i *>(from);
        auto *out = reinterpret_cast<__m256i *>(to);
        const __m256i a = _mm256_loadu_si256(in);
        const __m256i b = _mm256_loadu_si256(in + 1);
        const __m256i c = _mm256_loadu_si256(in + 2);
        const __m256i d = _mm256_loadu_si256(in + 3);
        _mm256_stream_si256(out, a);
        _mm256_stream_si256(out + 1, b);
        _mm256_stream_si256(out + 2, c);
        _mm256_stream_si256(out + 3, d);
    }
    if (size != 0) std::memcpy(to, from, size);
}

void FinishStream() { _mm_sfence(); }

// Whether the CPU has a feature of leaf 7, and the kernel keeps the registers that it uses. Not by
// __builtin_cpu_supports, whose answer is always no in what zig c++ links.
bool Has(unsigned feature, unsigned registers) {
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    constexpr unsigned kOsXsave = 1U << 27;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & kOsXsave) == 0) return false;
    unsigned kept = 0;
    unsigned high = 0;
    __asm__ volatile("xgetbv" : "=a"(kept), "=d"(high) : "c"(0));
    if ((kept & registers) != registers) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & feature) != 0;
}

bool HasAvx512() { return Has(1U << 16, 0xe6); }
bool HasAvx2() { return Has(1U << 5, 0x06); }
// "Enhanced rep movsb": without it the instruction copies byte by byte.
bool HasErms() {
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & (1U << 9)) != 0;
}

#endif

#if defined(__aarch64__)

// Copies pairs of registers with the hint that these bytes will not be read soon. The hint changes
// no order that a release store or a barrier makes, so there is nothing to finish.
void CopyNeon(void *dst, const void *src, size_t size) {
    auto *to = static_cast<char *>(dst);
    const auto *from = static_cast<const char *>(src);
    for (; size >= 128; size -= 128) {
        __asm__ volatile(
            "ldp q0, q1, [%1]\n\t"
            "ldp q2, q3, [%1, #32]\n\t"
            "ldp q4, q5, [%1, #64]\n\t"
            "ldp q6, q7, [%1, #96]\n\t"
            "stnp q0, q1, [%0]\n\t"
            "stnp q2, q3, [%0, #32]\n\t"
            "stnp q4, q5, [%0, #64]\n\t"
            "stnp q6, q7, [%0, #96]"
            :
            : "r"(to), "r"(from)
            : "memory", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7");
        to += 128;
        from += 128;
    }
    if (size != 0) std::memcpy(to, from, size);
}

#endif

struct Candidate {
    CopyKernel kernel;
    bool (*usable)();
};

// The best first: on x86-64 in the order that was measured. On aarch64 neon has not been measured
// yet, so the C library's own copy, which is made for the CPU, comes first.
constexpr Candidate kCandidates[] = {
#if defined(__x86_64__)
    {{"avx512", CopyAvx512, FinishStream}, HasAvx512}, {{"avx2", CopyAvx2, FinishStream}, HasAvx2},
    {{"movsb", CopyMovsb, NothingToFinish}, HasErms},
#endif
    {{"memcpy", CopyMemcpy, NothingToFinish}, Always},
#if defined(__aarch64__)
    {{"neon", CopyNeon, NothingToFinish}, Always},
#endif
};

}  // namespace

void CopySmall(void *dst, const void *src, size_t size) { std::memcpy(dst, src, size); }

const CopyKernel *FindCopyKernel(const std::string &name) {
    for (const Candidate &candidate : kCandidates) {
        if ((name == "auto" || name == candidate.kernel.name) && candidate.usable()) {
            return &candidate.kernel;
        }
    }
    return nullptr;
}

std::string UsableCopyKernels() {
    std::string names;
    for (const Candidate &candidate : kCandidates) {
        if (!candidate.usable()) continue;
        if (!names.empty()) names += ' ';
        names += candidate.kernel.name;
    }
    return names;
}

}  // namespace lldd::mock
