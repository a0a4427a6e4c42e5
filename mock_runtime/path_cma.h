// Moves bytes with process_vm_readv and process_vm_writev ("cross memory attach").
//
// A process id is not an identity: the peer may end and its number go to another process. So each
// read fetches the peer's cookie in the same call; before each write the cookie is read, and the
// race that remains is the time between two system calls.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include "mock_runtime/batch.h"
#include "mock_runtime/copy_pool.h"
#include "mock_runtime/process_vm.h"

namespace lldd::mock {

class CmaMove final : public ChunkedWork {
public:
    CmaMove(const Batch &batch, Direction direction, const Gate &gate, pid_t pid, pid_t self,
            const ProcessIdentity &peer)
        : batch_(batch), gate_(gate), direction_(direction), pid_(pid), self_(self), peer_(peer) {}
    MoveFailure MoveChunk(size_t chunk) override;

private:
    MoveFailure Explain(const VmResult &result, size_t chunk) const;
    MoveFailure CheckCookie() const;

    const Batch &batch_;
    const Gate &gate_;
    Direction direction_;
    pid_t pid_;
    pid_t self_;
    const ProcessIdentity &peer_;
};

}  // namespace lldd::mock
