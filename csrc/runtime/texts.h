// What every runtime, and in part the engine, reports in the same words.
//
// `peer` is how the text names the peer: "the peer", "the peer (pid 17)".
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace lldd {

// What every failure that comes from a closed connection says.
extern const char kConnectionClosed[];

// What a failed push adds when the owner of the memory has said that nothing of it lands any more,
// and when it has not.
extern const char kEndConfirmed[];
extern const char kEndNotConfirmed[];

// LLDD_TIMEOUT with kConnectionClosed: what a transfer reports of a peer that is gone.
Status PeerIsGone();
// LLDD_TIMEOUT of a transfer whose data stream the kernel has ended, see WatchPeerHost.
Status HostIsSilent();
// LLDD_TIMEOUT of a transfer to a peer that is there.
Status NotDoneInTime();
// LLDD_FAILED: the peer's memory at this address was reachable and is not any more.
Status WithdrawnByOwner(const std::string &peer, uint64_t addr);
// LLDD_FAILED: the peer's memory at this address was never reachable over the link.
Status UnknownToLink(const std::string &peer, uint64_t addr);
// LLDD_PARAM_INVALID: a device id that is not below the number of devices.
Status NoSuchDevice(int32_t device_id, uint32_t device_count);

}  // namespace lldd
