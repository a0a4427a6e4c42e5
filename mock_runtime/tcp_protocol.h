// What the two ends of a TCP stream say: the asking end requests, the owner of the memory answers
// in order.
//
//   request  TcpRequest, TcpRun[run_count], and for a write the bytes of all runs
//   answer   TcpAnswer with `bytes` announced (0 for a write, or a refusal); if bytes > 0 that many
//            bytes of the runs, then a second TcpAnswer with bytes 0 which says how it ended. What
//            could not be read in the middle is zeros, so that the stream stays in step.
//
// All numbers are little-endian. Each field is checked before anything is allocated for it.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the mock runtime's messages are little-endian"
#endif

namespace lldd::mock {

constexpr uint32_t kTcpRequestMagic = 0x51524D4C;  // "LMRQ"
constexpr uint32_t kTcpAnswerMagic = 0x4E414D4C;   // "LMAN"
constexpr uint32_t kTcpFenceMagic = 0x4E464D4C;    // "LMFN"
constexpr uint32_t kTcpRead = 1;
constexpr uint32_t kTcpWrite = 2;
constexpr uint32_t kMostTcpRuns = 4096;
constexpr uint64_t kMostTcpBytes = 4U << 20;

constexpr uint32_t kTcpDone = 0;
constexpr uint32_t kTcpWithdrawn = 1;
constexpr uint32_t kTcpUnknown = 2;
constexpr uint32_t kTcpFault = 3;

struct TcpRequest {
    uint32_t magic;
    uint32_t operation;
    uint32_t id;
    uint32_t run_count;
    uint64_t bytes;  // of all runs
};
static_assert(sizeof(TcpRequest) == 24, "no padding");

struct TcpRun {
    uint32_t slot;
    uint32_t generation;
    uint64_t addr;
    uint64_t length;
};
static_assert(sizeof(TcpRun) == 24, "no padding");

struct TcpAnswer {
    uint32_t magic;
    uint32_t id;
    uint32_t status;
    uint32_t reserved;
    uint64_t addr;  // where it failed
    uint64_t bytes;
};
static_assert(sizeof(TcpAnswer) == 32, "no padding");

// Over the control connection (StreamProvider::Ask) when a push has failed: requests with earlier
// ids than this one are over. Once the owner has answered, none of their bytes lands.
struct TcpFence {
    uint32_t magic;
    uint32_t next_id;
};
static_assert(sizeof(TcpFence) == 8, "no padding");

}  // namespace lldd::mock
