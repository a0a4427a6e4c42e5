// SPDX-License-Identifier: Apache-2.0
#include "engine/tensor.h"

#include <limits>

namespace lldd {
namespace {

constexpr uint64_t kMaxBytes = std::numeric_limits<int64_t>::max();

}  // namespace

uint64_t ElementBytes(uint32_t data_type) {
    switch (data_type) {
        case LLDD_TYPE_INT8:
        case LLDD_TYPE_UINT8:
        case LLDD_TYPE_BOOL: return 1;
        case LLDD_TYPE_FLOAT16:
        case LLDD_TYPE_BF16:
        case LLDD_TYPE_INT16:
        case LLDD_TYPE_UINT16: return 2;
        case LLDD_TYPE_FLOAT:
        case LLDD_TYPE_INT32:
        case LLDD_TYPE_UINT32: return 4;
        case LLDD_TYPE_INT64:
        case LLDD_TYPE_UINT64:
        case LLDD_TYPE_DOUBLE: return 8;
        case LLDD_TYPE_STRING: return 16;
        default: return 0;
    }
}

Status CheckDesc(const lldd_cache_desc &desc) {
    if (desc.num_tensors == 0) {
        return Failure(LLDD_PARAM_INVALID, "num_tensors is 0, a cache has at least one tensor");
    }
    if (desc.layout != LLDD_LAYOUT_CONTIGUOUS && desc.layout != LLDD_LAYOUT_BLOCKS) {
        return Failure(LLDD_PARAM_INVALID,
                       "layout is %u, allowed are %d (contiguous) and %d (blocks)", desc.layout,
                       LLDD_LAYOUT_CONTIGUOUS, LLDD_LAYOUT_BLOCKS);
    }
    if (desc.placement != LLDD_PLACEMENT_HOST && desc.placement != LLDD_PLACEMENT_DEVICE) {
        return Failure(LLDD_PARAM_INVALID, "placement is %u, allowed are %d (host) and %d (device)",
                       desc.placement, LLDD_PLACEMENT_HOST, LLDD_PLACEMENT_DEVICE);
    }
    if (desc.num_dims < 1 || desc.num_dims > kMaxDims) {
        return Failure(LLDD_PARAM_INVALID, "the shape has %u dims, allowed are 1 to %u",
                       desc.num_dims, kMaxDims);
    }
    if (desc.batch_dim_index >= desc.num_dims) {
        return Failure(LLDD_PARAM_INVALID, "batch_dim_index is %u, it must be below num_dims, %u",
                       desc.batch_dim_index, desc.num_dims);
    }
    if (desc.dims == nullptr) return Failure(LLDD_PARAM_INVALID, "dims is null");
    return Status::Ok();
}

Status ShapeOf(const lldd_cache_desc &desc, CacheShape *shape, std::vector<int64_t> *dims) {
    LLDD_RETURN_IF_ERROR(CheckDesc(desc));
    uint64_t bytes = ElementBytes(desc.data_type);
    if (bytes == 0) {
        return Failure(LLDD_PARAM_INVALID, "data_type is %u, which is none of LLDD_TYPE_*",
                       desc.data_type);
    }
    uint64_t count = 0;
    dims->clear();
    dims->reserve(desc.num_dims);
    for (uint32_t i = 0; i < desc.num_dims; ++i) {
        const int64_t dim = desc.dims[i];
        if (dim <= 0) {
            return Failure(LLDD_PARAM_INVALID, "dims[%u] is %lld, a dim must be positive", i,
                           Printable(dim));
        }
        const auto size = static_cast<uint64_t>(dim);
        if (bytes > kMaxBytes / size) {
            return Failure(LLDD_PARAM_INVALID,
                           "the bytes of one tensor do not fit int64: dims[0..%u] of data_type %u "
                           "give more than %llu",
                           i, desc.data_type, Printable(kMaxBytes));
        }
        bytes *= size;
        dims->push_back(dim);
        if (i == 0) count = size;
    }
    shape->num_tensors = desc.num_tensors;
    shape->blocks = desc.layout == LLDD_LAYOUT_BLOCKS;
    shape->placement = static_cast<Placement>(desc.placement);
    shape->data_type = desc.data_type;
    shape->tensor_bytes = bytes;
    shape->count = count;
    return Status::Ok();
}

Status CheckShape(const CacheShape &shape) {
    const uint64_t element = ElementBytes(shape.data_type);
    const bool placed =
        shape.placement == Placement::kHost || shape.placement == Placement::kDevice;
    if (shape.num_tensors == 0 || shape.count == 0 || shape.tensor_bytes == 0 || element == 0 ||
        !placed || shape.tensor_bytes > kMaxBytes || shape.tensor_bytes % shape.count != 0 ||
        shape.stride() % element != 0) {
        return Failure(LLDD_PARAM_INVALID,
                       "no cache has this shape: %u tensors of %llu bytes in %llu %s, data_type "
                       "%u, placement %u",
                       shape.num_tensors, Printable(shape.tensor_bytes), Printable(shape.count),
                       shape.count_noun(), shape.data_type, static_cast<uint32_t>(shape.placement));
    }
    return Status::Ok();
}

}  // namespace lldd
