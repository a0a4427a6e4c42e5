// SPDX-License-Identifier: Apache-2.0
#include "engine/plan_pairs.h"

#include <algorithm>

namespace lldd {

bool BlockPairs::Read(const uint64_t *local, uint64_t local_count, const uint64_t *remote,
                      uint64_t length, uint64_t *bad_place, uint64_t *bad_value) {
    size_ = 0;
    max_remote_ = 0;
    if (runs_.size() < length) runs_.resize(length);
    BlockRun *next = runs_.data();
    BlockRun run{0, 0, 0};
    uint64_t max_remote = 0;
    for (uint64_t k = 0; k < length; ++k) {
        const uint64_t l = local != nullptr ? LoadOnce(local + k) : k;
        const uint64_t r = remote != nullptr ? LoadOnce(remote + k) : k;
        if (l >= local_count) {
            *bad_place = k;
            *bad_value = l;
            return false;
        }
        max_remote = std::max(max_remote, r);
        // A remote index after the largest number wraps; such a run is refused for its first index.
        if (run.count != 0 && l == run.local + run.count && r == run.remote + run.count) {
            ++run.count;
            continue;
        }
        if (run.count != 0) *next++ = run;
        run = {l, r, 1};
    }
    if (run.count != 0) *next++ = run;
    size_ = static_cast<size_t>(next - runs_.data());
    max_remote_ = max_remote;
    return true;
}

void BlockPairs::FirstRemoteFrom(uint64_t limit, uint64_t *place, uint64_t *value) const {
    uint64_t before = 0;
    for (const BlockRun &run : *this) {
        if (run.remote >= limit || run.count > limit - run.remote) {
            *value = std::max(run.remote, limit);
            *place = before + (*value - run.remote);
            return;
        }
        before += run.count;
    }
}

}  // namespace lldd
