// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/move.h"

#include "runtime/texts.h"

namespace lldd::mock {

Status Explain(const MoveFailure &failure, const std::string &peer) {
    const unsigned long long addr = Printable(failure.address);
    switch (failure.kind) {
        case MoveFailure::kNone: return Status::Ok();
        case MoveFailure::kTimeout: return NotDoneInTime();
        case MoveFailure::kPeerGone:
        case MoveFailure::kClosed: return PeerIsGone();
        case MoveFailure::kHostSilent: return HostIsSilent();
        case MoveFailure::kWithdrawn: return WithdrawnByOwner(peer, failure.address);
        case MoveFailure::kUnknown: return UnknownToLink(peer, failure.address);
        case MoveFailure::kLocalFault:
            return ErrnoFailure(
                LLDD_FAILED, failure.error,
                "the memory of this process at %#llx is not mapped for this transfer", addr);
        case MoveFailure::kRemoteFault:
            return ErrnoFailure(LLDD_FAILED, failure.error,
                                "the memory of %s at %#llx is not mapped for this transfer",
                                peer.c_str(), addr);
        case MoveFailure::kProtocol:
            return Failure(LLDD_FAILED, "the data stream of %s does not follow the protocol",
                           peer.c_str());
        case MoveFailure::kRefused:
        case MoveFailure::kSystem: break;
    }
    return ErrnoFailure(LLDD_FAILED, failure.error, "cannot move bytes to or from %s",
                        peer.c_str());
}

}  // namespace lldd::mock
