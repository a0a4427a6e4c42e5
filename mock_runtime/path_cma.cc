// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/path_cma.h"

#include <cerrno>

#include "base/address.h"

namespace lldd::mock {
namespace {

constexpr MoveFailure kGone{MoveFailure::kPeerGone, 0, 0};

// What the kernel answers where it does not let this process use the calls at all: Yama and
// capabilities EPERM, filters of containers and policies any of these.
bool IsRefusal(int error) { return error == EPERM || error == EACCES || error == ENOSYS; }

}  // namespace

MoveFailure CmaMove::MoveChunk(size_t chunk) {
    const MoveFailure stop = gate_.Check();
    if (stop.failed()) return stop;
    Cookie cookie{};
    iovec here[kMostPiecesPerChunk + 1];
    iovec there[kMostPiecesPerChunk + 1];
    here[0] = {cookie.data(), cookie.size()};
    there[0] = {Pointer(peer_.cookie_addr), cookie.size()};
    size_t count = 1;
    uint64_t bytes = 0;
    const Piece *end = batch_.end(chunk);
    for (const Piece *piece = batch_.begin(chunk); piece != end; ++piece, ++count) {
        here[count] = {Pointer(piece->here), piece->length};
        there[count] = {Pointer(piece->there), piece->length};
        bytes += piece->length;
    }
    if (direction_ == Direction::kWrite) {
        const MoveFailure failure = CheckCookie();
        if (failure.failed()) return failure;
        const VmResult result = VmWrite(pid_, here + 1, there + 1, count - 1, bytes);
        return result.error == 0 ? MoveFailure{} : Explain(result, chunk);
    }
    VmResult result = VmRead(pid_, here, there, count, cookie.size() + bytes);
    if (result.moved >= cookie.size()) {
        if (cookie != peer_.cookie) return kGone;
        if (result.error == 0) return {};
        result.moved -= cookie.size();
        return Explain(result, chunk);
    }
    // The cookie lies in memory that the peer has for as long as it is the peer.
    if (result.error == EFAULT) return kGone;
    return Explain(result, chunk);
}

MoveFailure CmaMove::CheckCookie() const {
    Cookie cookie{};
    const iovec here{cookie.data(), cookie.size()};
    const iovec there{Pointer(peer_.cookie_addr), cookie.size()};
    const VmResult result = VmRead(pid_, &here, &there, 1, cookie.size());
    if (IsRefusal(result.error)) return {MoveFailure::kRefused, result.error, 0};
    if (result.error != 0 || cookie != peer_.cookie) return kGone;
    return {};
}

MoveFailure CmaMove::Explain(const VmResult &result, size_t chunk) const {
    if (result.error == ESRCH) return kGone;
    if (IsRefusal(result.error)) return {MoveFailure::kRefused, result.error, 0};
    if (result.error != EFAULT) return {MoveFailure::kSystem, result.error, 0};
    uint64_t moved = result.moved;
    const Piece *piece = batch_.begin(chunk);
    for (; piece + 1 != batch_.end(chunk) && moved >= piece->length; ++piece)
        moved -= piece->length;
    const uint64_t here = piece->here + moved;
    const uint64_t there = piece->there + moved;
    // Which side faulted? One byte of each is read. A local byte that cannot be read has faulted; so
    // has one that a read should write, if the remote byte can be read. Otherwise the remote side
    // has; a peer that exited meanwhile is reported as gone.
    if (!VmReadable(self_, here)) return {MoveFailure::kLocalFault, EFAULT, here};
    const MoveFailure identity = CheckCookie();
    if (identity.failed()) return identity;
    if (direction_ == Direction::kRead && VmReadable(pid_, there)) {
        return {MoveFailure::kLocalFault, EFAULT, here};
    }
    return {MoveFailure::kRemoteFault, EFAULT, there};
}

}  // namespace lldd::mock
