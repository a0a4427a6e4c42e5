// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/path_mapped.h"

#include <cerrno>
#include <cstring>

#include "base/address.h"
#include "mock_runtime/host_memory.h"
#include "mock_runtime/process_vm.h"

namespace lldd::mock {
namespace {

bool Overlap(uint64_t a, uint64_t b, uint64_t length) {
    return a < b ? b - a < length : a - b < length;
}

}  // namespace

MoveFailure DirectCopy::MoveChunk(size_t chunk) {
    const MoveFailure stop = gate_.Check();
    if (stop.failed()) return stop;
    const Piece *end = batch_.end(chunk);
    for (const Piece *piece = batch_.begin(chunk); piece != end; ++piece) {
        void *dst = Pointer(read_ ? piece->here : piece->there);
        const void *src = Pointer(read_ ? piece->there : piece->here);
        if (Overlap(piece->here, piece->there, piece->length)) {
            std::memmove(dst, src, piece->length);
        } else if (large_ != nullptr) {
            large_->copy(dst, src, piece->length);
        } else {
            CopySmall(dst, src, piece->length);
        }
    }
    if (large_ != nullptr) large_->finish();
    return {};
}

MoveFailure CheckedCopy::MoveChunk(size_t chunk) {
    const MoveFailure stop = gate_.Check();
    if (stop.failed()) return stop;
    // The kernel checks what is passed to it as the other process's. With both sides unknown it
    // checks both, whichever way round they are passed.
    iovec here[kMostPiecesPerChunk];
    iovec there[kMostPiecesPerChunk];
    const Piece *begin = batch_.begin(chunk);
    const Piece *end = batch_.end(chunk);
    size_t count = 0;
    uint64_t bytes = 0;
    for (const Piece *piece = begin; piece != end; ++piece, ++count) {
        here[count] = {Pointer(piece->here), piece->length};
        there[count] = {Pointer(piece->there), piece->length};
        bytes += piece->length;
    }
    const VmResult result = direction_ == Direction::kRead
                                ? VmWrite(self_, there, here, count, bytes)
                                : VmRead(self_, there, here, count, bytes);
    if (result.error == 0) return {};
    if (result.error != EFAULT) {
        for (const Piece *piece = begin; piece != end; ++piece) {
            const MoveFailure failure = MoveWithoutKernel(*piece);
            if (failure.failed()) return failure;
        }
        return {};
    }
    uint64_t moved = result.moved;
    const Piece *piece = begin;
    for (; piece + 1 != end && moved >= piece->length; ++piece) moved -= piece->length;
    const bool there_faults = !there_is_known_ && !VmReadable(self_, piece->there + moved);
    return {MoveFailure::kLocalFault, EFAULT, (there_faults ? piece->there : piece->here) + moved};
}

// Where the process may not use the calls on itself, what is mapped is looked up. The client may
// unmap it in between, which is an error of the client.
MoveFailure CheckedCopy::MoveWithoutKernel(const Piece &piece) const {
    const bool read = direction_ == Direction::kRead;
    if (!IsMapped(piece.here, piece.length, read)) {
        return {MoveFailure::kLocalFault, EFAULT, piece.here};
    }
    if (!there_is_known_ && !IsMapped(piece.there, piece.length, !read)) {
        return {MoveFailure::kLocalFault, EFAULT, piece.there};
    }
    std::memmove(Pointer(read ? piece.here : piece.there), Pointer(read ? piece.there : piece.here),
                 piece.length);
    return {};
}

}  // namespace lldd::mock
