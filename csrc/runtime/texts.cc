// SPDX-License-Identifier: Apache-2.0
#include "runtime/texts.h"

namespace lldd {

const char kConnectionClosed[] = "connection closed (peer exited, finalized or unlinked)";

const char kEndConfirmed[] = "; the peer has confirmed that none of its bytes lands any more";
const char kEndNotConfirmed[] =
    "; the peer has not confirmed the end: bytes may still land there until it unlinks this "
    "cluster "
    "with force=True, or unregisters the memory";

Status PeerIsGone() { return Failure(LLDD_TIMEOUT, "%s", kConnectionClosed); }

Status HostIsSilent() {
    return Failure(LLDD_TIMEOUT,
                   "the peer's host has acknowledged nothing on the data stream for the time of "
                   "lldd.PeerTimeout");
}

Status NotDoneInTime() { return Failure(LLDD_TIMEOUT, "not done in time"); }

Status WithdrawnByOwner(const std::string &peer, uint64_t addr) {
    return Failure(
        LLDD_FAILED,
        "the memory of %s at %#llx was withdrawn by its owner (unregistered); what it has "
        "registered since is reached when this end unlinks and links again",
        peer.c_str(), Printable(addr));
}

Status UnknownToLink(const std::string &peer, uint64_t addr) {
    return Failure(
        LLDD_FAILED,
        "%#llx of %s is not in memory that the peer had registered when the link was "
        "made; memory registered after the link was made cannot be reached over it: unlink "
        "and link again",
        Printable(addr), peer.c_str());
}

Status NoSuchDevice(int32_t device_id, uint32_t device_count) {
    return Failure(LLDD_PARAM_INVALID, "no device %d: there are %u, numbered from 0", device_id,
                   device_count);
}

}  // namespace lldd
