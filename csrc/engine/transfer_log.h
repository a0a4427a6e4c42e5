// Which transfers the log is told of: all at level DEBUG; those that took longer than
// LLM_DATADIST_SLOW_MS as warnings.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace lldd {

struct TransferRecord;

class TransferLog {
public:
    TransferLog();

    // Whether to call Tell at all; asked for each transfer.
    bool tells() const;
    void Tell(const TransferRecord &record) const;

private:
    const uint64_t slow_ms_;  // 0: none is slow
};

}  // namespace lldd
