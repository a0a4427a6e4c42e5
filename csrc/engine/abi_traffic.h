// How links and their traffic are written for callers of the ABI.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/link.h"
#include "engine/traffic.h"
#include "llm_datadist.h"

namespace lldd::abi {

// A moment of this process's clock as microseconds since 1970; 0: never.
uint64_t WallUs(TrafficNumbers::Point at);
// LLDD_LINK_*.
uint32_t StateOf(const Link &link);
lldd_link_info InfoOf(const Link &link);

}  // namespace lldd::abi
