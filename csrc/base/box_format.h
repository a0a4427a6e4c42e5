// What lies in a box: the file in which an engine keeps what it was asked, for those who look when its
// process is gone. llm_datadist/_box/layout.py reads it.
//
// A header, then rings of slots of one size. Numbers are those of the machine, little-endian. A slot
// is whole when its state is even and not 0; it is odd while the slot is being written. Ticket t goes
// to slot t modulo the number of slots, and makes its state 2 * t + 1, then 2 * t + 2.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace lldd::box {

constexpr char kMagic[8] = {'L', 'L', 'D', 'D', 'B', 'O', 'X', '\0'};
// It grows with each change of what follows.
constexpr uint32_t kFormat = 1;
constexpr size_t kSlotBytes = 256;

static_assert(std::atomic<uint64_t>::is_always_lock_free && sizeof(std::atomic<uint64_t>) == 8);

enum Ring : uint32_t {
    kCalls,   // Record: the transfers and copies that this engine was asked for
    kPeers,   // Record: what peers have told of theirs with this engine
    kEvents,  // Text: everything else that it was asked, and what became of its links
    kTexts,   // Text: of calls that failed
};
constexpr uint32_t kRings = 4;

struct RingHead {
    uint64_t offset;  // of its first slot, from the start of the file
    uint64_t slots;   // a power of two
    uint64_t reserved[6];
    alignas(64) std::atomic<uint64_t> next;  // ticket
    std::atomic<uint64_t> skipped;           // tickets whose slot another thread was writing
    std::atomic<uint64_t> lost;              // what found no slot at all
    uint64_t more_reserved[5];
};

struct Header {
    char magic[8];
    uint32_t format;
    uint32_t slot_bytes;
    uint64_t cluster_id;
    uint32_t pid;
    uint32_t reserved;
    uint64_t process_start;  // of the pid, in clock ticks since boot: field 22 of /proc/PID/stat
    uint64_t boot_id[2];     // whose CLOCK_MONOTONIC the times are
    int64_t opened_ns;       // CLOCK_MONOTONIC, as all times
    int64_t opened_realtime_ns;
    std::atomic<int64_t> closed_ns;  // 0: never
    uint64_t ids;                    // the first half of the ids that this engine gives
    char host[64];
    char runtime[16];
    uint64_t time_namespace;  // the same: 0 if it cannot be told
    uint64_t more_reserved[10];
    RingHead rings[kRings];
};
constexpr size_t kHeaderBytes = 4096;
static_assert(sizeof(RingHead) == 128 && offsetof(RingHead, next) == 64);
static_assert(offsetof(Header, host) == 88 && offsetof(Header, rings) == 256);
static_assert(sizeof(Header) <= kHeaderBytes);

enum Kind : uint32_t {
    kPull = 1,
    kPush = 2,
    kLayer = 3,
    kCopyCache = 4,
    kCopyBlocks = 5,
    kSwapBlocks = 6,
};

// Blocks in a row on both sides. What does not fit 32 bits is UINT32_MAX.
struct Blocks {
    uint32_t own;
    uint32_t peers;
    uint32_t count;
};
constexpr size_t kFirstBlocks = 3;

// What there is of one call. In the ring of peers times are those of the peer's clock.
struct Call {
    int64_t entry_ns;
    uint64_t id_high, id_low;  // of the transfer
    uint64_t parent;           // the client's span; 0: none
    uint64_t peer;             // its cluster id; of a copy 0
    uint32_t kind;             // Kind
    uint32_t thread;
    int64_t cache_id;  // of this engine
    uint64_t key_model, key_req, key_prefix;
    int64_t key_cache_id;  // of a copy: the source
    uint32_t key_kind;     // 0: none
    uint32_t key_batch;
    uint32_t batch;  // of the own cache
    uint32_t tensors_per_layer;
    uint32_t src_layer, dst_layer;    // the first ones
    uint32_t src_layers, dst_layers;  // counts, as they were given
    uint32_t num_src, num_dst;        // blocks that were given
    int64_t size;                     // as it was given
    // In the ring of peers: when it came.
    int64_t told_ns;

    uint32_t status;
    uint32_t link;                           // see life_log.h; 0: it came to none
    int64_t turn_ns, first_byte_ns, end_ns;  // 0: it did not get there
    uint64_t bytes;                          // that were moved
    uint64_t digest;                         // of all pairs of blocks, if not all are below
    uint32_t num_blocks;                     // in a row, see Blocks
    uint32_t paths;                          // by which bytes were moved: a bit for each Path
    Blocks blocks[kFirstBlocks];             // the first ones
};
constexpr size_t kCallBytes = kSlotBytes - 16;
static_assert(sizeof(Call) == kCallBytes && offsetof(Call, status) == 144);

// What is above `status` is there from the beginning on, if `begun` is the ticket plus 1, also while
// the call is under way. In the ring of peers `begun` is that of the peer's own record.
struct Record {
    std::atomic<uint64_t> state;
    std::atomic<uint64_t> begun;
    Call call;
};
static_assert(sizeof(Record) == kSlotBytes);

// A text of UTF-8, or a piece of one. Pieces have tickets in a row.
struct Text {
    std::atomic<uint64_t> state;
    int64_t time_ns;
    uint64_t about;  // the ticket of a call plus 1; 0: of none
    uint32_t part;   // from 0
    uint32_t parts;
    uint32_t length;  // of this one
    uint32_t reserved;
    char text[kSlotBytes - 40];
};
static_assert(sizeof(Text) == kSlotBytes);

}  // namespace lldd::box
