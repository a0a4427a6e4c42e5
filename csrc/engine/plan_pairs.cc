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

void ShiftToOtherTensors(const uint64_t *local_addrs, const uint64_t *remote_addrs,
                         uint64_t num_tensors, size_t runs_per_tensor, Run *runs) {
    Run *next = runs + runs_per_tensor;
    for (uint64_t tensor = 1; tensor < num_tensors; ++tensor) {
        // Differences may be negative: they wrap, and so do the sums, to the right address.
        const uint64_t local_shift = local_addrs[tensor] - local_addrs[0];
        const uint64_t remote_shift = remote_addrs[tensor] - remote_addrs[0];
        for (size_t i = 0; i < runs_per_tensor; ++i) {
            const auto [local, remote, length] = runs[i];
            *next++ = {local + local_shift, remote + remote_shift, length};
        }
    }
}

void PlanPairs(const Selection &selection, const BlockPairs &pairs, uint64_t block_bytes,
               uint64_t short_by, std::vector<Run> *runs) {
    const size_t per_tensor = pairs.size();
    // No clear() before: growing from nothing would write every element twice.
    runs->resize(per_tensor * selection.num_tensors);
    if (runs->empty()) return;
    const uint64_t local_base = selection.local_addrs[0] + selection.local_offset;
    const uint64_t remote_base = selection.remote_addrs[0] + selection.remote_offset;
    Run *next = runs->data();
    for (const BlockRun &pair : pairs) {
        *next++ = {local_base + pair.local * block_bytes, remote_base + pair.remote * block_bytes,
                   pair.count * block_bytes};
    }
    next[-1].length -= short_by;
    ShiftToOtherTensors(selection.local_addrs, selection.remote_addrs, selection.num_tensors,
                        per_tensor, runs->data());
}

void PlanWhole(const Selection &selection, uint64_t length, std::vector<Run> *runs) {
    runs->resize(selection.num_tensors);
    if (runs->empty()) return;
    runs->front() = {selection.local_addrs[0] + selection.local_offset,
                     selection.remote_addrs[0] + selection.remote_offset, length};
    ShiftToOtherTensors(selection.local_addrs, selection.remote_addrs, selection.num_tensors, 1,
                        runs->data());
}

}  // namespace lldd
