// The shape of a cache and the bytes that follow from it.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "runtime/runtime.h"

namespace lldd {

// Instead of an LLDD_TYPE_*, of which 0 is one: caches of different types lie at one place.
constexpr uint32_t kSeveralTypes = UINT32_MAX;

// Bytes of one element; 0: no such data type.
uint64_t ElementBytes(uint32_t data_type);

// A cache: `num_tensors` tensors of `tensor_bytes` each, divided into `count` equal strides. A
// stride is a block (`blocks`) or a batch entry. No member is 0, and count divides tensor_bytes: see
// ShapeOf and CheckShape.
struct CacheShape {
    uint32_t num_tensors = 0;
    bool blocks = false;
    Placement placement = Placement::kHost;
    uint32_t data_type = 0;
    uint64_t tensor_bytes = 0;
    uint64_t count = 0;

    uint64_t stride() const { return tensor_bytes / count; }
    // How many values a batch index may take: all blocks together are one entry.
    uint64_t batch_size() const { return blocks ? 1 : count; }
    const char *count_noun() const { return blocks ? "blocks" : "batch entries"; }
};

// The part of a descriptor that is checked before a call takes a cache id: LLDD_PARAM_INVALID for
// the layout, the placement, no tensors, a number of dims outside 1..31, or a batch dim past them.
Status CheckDesc(const lldd_cache_desc &desc);

constexpr uint32_t kMaxDims = 31;

// The shape that a descriptor means; all of CheckDesc, then LLDD_PARAM_INVALID for an unknown data
// type, a dim that is not positive, or bytes that do not fit int64. Reads each dim once, and leaves
// them in `dims`.
Status ShapeOf(const lldd_cache_desc &desc, CacheShape *shape, std::vector<int64_t> *dims);

// For a shape that came from a peer: LLDD_PARAM_INVALID if no descriptor could have given it.
Status CheckShape(const CacheShape &shape);

}  // namespace lldd
