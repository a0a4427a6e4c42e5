// Copies between two addresses of this process, one of which may be a peer's pool mapped here.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include "mock_runtime/batch.h"
#include "mock_runtime/copy_kernels.h"
#include "mock_runtime/copy_pool.h"
#include "mock_runtime/move.h"

namespace lldd::mock {

// Both sides are known to be mapped. Pieces whose two sides overlap are copied as if over a buffer.
class DirectCopy final : public ChunkedWork {
public:
    DirectCopy(const Batch &batch, Direction direction, const Gate &gate, const CopyKernel *large)
        : batch_(batch),
          gate_(gate),
          large_(batch.bytes() >= kWorthStreaming ? large : nullptr),
          read_(direction == Direction::kRead) {}
    MoveFailure MoveChunk(size_t chunk) override;

private:
    const Batch &batch_;
    const Gate &gate_;
    const CopyKernel *large_;
    bool read_;
};

// `here` may be anything that a client handed over: the kernel copies and tells what is not mapped.
class CheckedCopy final : public ChunkedWork {
public:
    // there_is_known: faults can only be of `here`.
    CheckedCopy(const Batch &batch, Direction direction, const Gate &gate, pid_t self,
                bool there_is_known)
        : batch_(batch),
          gate_(gate),
          direction_(direction),
          self_(self),
          there_is_known_(there_is_known) {}
    MoveFailure MoveChunk(size_t chunk) override;

private:
    MoveFailure MoveWithoutKernel(const Piece &piece) const;

    const Batch &batch_;
    const Gate &gate_;
    Direction direction_;
    pid_t self_;
    bool there_is_known_;
};

}  // namespace lldd::mock
