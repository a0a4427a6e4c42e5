// A place in a list of ranges, from which bytes are sent or into which they are received.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

#include "base/address.h"

namespace lldd::mock {

// `Range`: anything with addr and length.
template <typename Range>
class RangeCursor {
public:
    RangeCursor() = default;
    RangeCursor(const Range *begin, const Range *end) : next_(begin), end_(end) {}

    bool done() const { return next_ == end_; }
    const Range *next() const { return next_; }
    uint64_t address() const { return next_->addr + offset_; }

    // Describes what comes next in up to `most` vectors and `bytes` bytes; how many vectors it
    // took.
    size_t Fill(iovec *vectors, size_t most, uint64_t bytes) const {
        size_t count = 0;
        uint64_t offset = offset_;
        for (const Range *range = next_; range != end_ && count < most && bytes > 0; ++range) {
            const uint64_t left = range->length - offset;
            const uint64_t now = left < bytes ? left : bytes;
            vectors[count++] = {Pointer(range->addr + offset), now};
            bytes -= now;
            offset = 0;
        }
        return count;
    }

    void Advance(uint64_t bytes) {
        while (bytes > 0) {
            const uint64_t left = next_->length - offset_;
            if (bytes < left) {
                offset_ += bytes;
                return;
            }
            bytes -= left;
            offset_ = 0;
            ++next_;
        }
    }

private:
    const Range *next_ = nullptr;
    const Range *end_ = nullptr;
    uint64_t offset_ = 0;
};

}  // namespace lldd::mock
