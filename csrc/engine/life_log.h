// Lines of the log about what comes and goes: links and caches. Both ends of a link call it
// by one number, so that what one end logs is found in the log of the other.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/box.h"
#include "engine/link.h"
#include "llm_datadist.h"

namespace lldd {

// "link 3fa2b1c0": the same at both ends.
std::string LinkText(const Link &link);

// INFO, and an event of the box, if there is one. Once the paths are decided.
void LogLinkMade(Box *box, const Link &link);
// The same; `how`: "unlinked by this end".
void LogLinkEnded(Box *box, const Link &link, const std::string &how);
// WARNING, and an event: its peer is asked in vain, and the link stays; and then the peer answers.
void LogLinkSilent(Box *box, const Link &link, uint32_t timeout_ms);
void LogLinkSpeaksAgain(Box *box, const Link &link);

// INFO; `how`: "allocated".
void LogCacheMade(const char *how, int64_t cache_id, const lldd_cache_desc &desc,
                  const std::vector<lldd_cache_key> &keys);

}  // namespace lldd
