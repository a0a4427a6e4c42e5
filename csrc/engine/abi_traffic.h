// How links and their traffic are written for callers of the ABI.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/link.h"
#include "llm_datadist.h"

namespace lldd::abi {

// LLDD_LINK_*.
uint32_t StateOf(const Link &link);
lldd_link_info InfoOf(const Link &link);

}  // namespace lldd::abi
