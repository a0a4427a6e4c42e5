// Lines of the log about what comes and goes: links, caches, transfers. Both ends of a link call it
// by one number, so that what one end logs is found in the log of the other.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/box.h"
#include "base/deadline.h"
#include "base/status.h"
#include "engine/link.h"
#include "llm_datadist.h"

namespace lldd {

// The same at both ends; tells nothing of the nonce. Not 0.
uint32_t LinkNumber(const Link &link);

// INFO, and an event of the box, if there is one. Once the paths are decided.
void LogLinkMade(Box *box, const Link &link);
// The same; `how`: "unlinked by this end".
void LogLinkEnded(Box *box, const Link &link, const std::string &how);

// INFO; `how`: "allocated".
void LogCacheMade(const char *how, int64_t cache_id, const lldd_cache_desc &desc,
                  const std::vector<lldd_cache_key> &keys);

// Which transfers are told of: all at level DEBUG; those that took longer than LLM_DATADIST_SLOW_MS
// as warnings.
class TransferLog {
public:
    explicit TransferLog(uint32_t timeout_ms);

    // Whether to call Tell at all; asked for each transfer.
    bool tells() const;
    // `deadline` is the one that began with the call.
    void Tell(const Link &link, const std::string &what, uint64_t bytes, const Deadline &deadline,
              const Status &status) const;

private:
    const uint32_t timeout_ms_;
    const uint64_t slow_ms_;  // 0: none is slow
};

}  // namespace lldd
