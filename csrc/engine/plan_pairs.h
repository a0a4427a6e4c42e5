// From pairs of blocks, or whole pieces of tensors, to runs of addresses: what every plan of a
// transfer is made of.
//
// A plan says which bytes a transfer moves: from shapes, block lists, batch indices and layer
// ranges to runs of addresses. Plans are pure functions: no lock, no I/O. Every bound is checked
// (plan_checks.h), also against what a peer told. All failures are LLDD_PARAM_INVALID.
//
// The caller's block lists may change while they are read, so each element is read exactly once:
// into BlockPairs, from which everything else follows. Runs are merged where consecutive list
// elements are adjacent on both sides, and never across tensors, which may be registered one by
// one.
//
// BlockPairs and the vector of runs keep their memory: reuse them.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/runtime.h"

namespace lldd {

// `count` blocks in a row on both sides. In a contiguous cache a "block" is a piece of a batch
// entry.
struct BlockRun {
    uint64_t local;
    uint64_t remote;
    uint64_t count;
};

// Reads an element of a caller's list, which may change meanwhile: the compiler must not read it a
// second time.
inline uint64_t LoadOnce(const uint64_t *place) { return __atomic_load_n(place, __ATOMIC_RELAXED); }

// The pairs of two block lists, in the order of the lists, merged.
class BlockPairs {
public:
    const BlockRun *begin() const { return runs_.data(); }
    const BlockRun *end() const { return runs_.data() + size_; }
    size_t size() const { return size_; }
    void clear() { size_ = 0; }

    // Reads local[k] (must be below local_count, see the failure text) and remote[k], any value; a
    // null list stands for 0, 1, 2, ... Returns false at the first bad local index, with its place
    // and value.
    bool Read(const uint64_t *local, uint64_t local_count, const uint64_t *remote, uint64_t length,
              uint64_t *bad_place, uint64_t *bad_value);

    // The largest remote index; 0 without pairs.
    uint64_t max_remote() const { return max_remote_; }
    // The first pair with a remote index of at least `limit`; there is one.
    void FirstRemoteFrom(uint64_t limit, uint64_t *place, uint64_t *value) const;

private:
    std::vector<BlockRun> runs_;  // the first size_ of them count
    size_t size_ = 0;
    uint64_t max_remote_ = 0;
};

// Both sides of a transfer and the tensors of either that take part. Offsets are from the start of
// each tensor. No tensor reaches past the end of the address space.
struct Selection {
    const uint64_t *local_addrs;
    const uint64_t *remote_addrs;
    uint64_t num_tensors;
    uint64_t local_offset;
    uint64_t remote_offset;
};

// Into how many pieces these bytes fall.
inline uint64_t CeilDivide(uint64_t bytes, uint64_t piece) {
    return bytes / piece + (bytes % piece != 0 ? 1 : 0);
}

// Fills in the runs of all tensors but the first: its runs, shifted.
void ShiftToOtherTensors(const uint64_t *local_addrs, const uint64_t *remote_addrs,
                         uint64_t num_tensors, size_t runs_per_tensor, Run *runs);

// The runs of block pairs of `block_bytes` each. `short_by`: what the last block is short of that.
void PlanPairs(const Selection &selection, const BlockPairs &pairs, uint64_t block_bytes,
               uint64_t short_by, std::vector<Run> *runs);

// The same `length` bytes of every tensor.
void PlanWhole(const Selection &selection, uint64_t length, std::vector<Run> *runs);

}  // namespace lldd
