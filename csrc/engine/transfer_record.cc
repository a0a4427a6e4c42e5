// SPDX-License-Identifier: Apache-2.0
#include "engine/transfer_record.h"

#include <cassert>
#include <numeric>

#include "engine/cache_key.h"

namespace lldd {

uint64_t TransferRecord::blocks() const {
    uint64_t count = 0;
    for (const BlockRun &run : *pairs) count += run.count;
    return count;
}

uint64_t TransferRecord::bytes_moved() const {
    return std::accumulate(moved.begin(), moved.end(), uint64_t{0});
}

std::string TransferText(const TransferRecord &record) {
    const std::string &peer = record.link->peer_name();
    switch (record.kind) {
        case TransferKind::kPull: return "pull of " + KeyText(*record.key) + " from " + peer;
        case TransferKind::kPush:
            return Format("push of layer %u to %s of %s", record.layer,
                          KeyText(*record.key).c_str(), peer.c_str());
        case TransferKind::kToAddresses: break;
    }
    return Format("transfer of layer %u to %s", record.layer, peer.c_str());
}

std::string PathsText(const PathBytes &moved) {
    std::string text;
    for (size_t path = 0; path < kNumPaths; ++path) {
        if (moved[path] == 0) continue;
        if (!text.empty()) text += " and ";
        text += kPathNames[path];
    }
    return text.empty() ? "no path" : text;
}

void TransferObservers::Add(TransferObserver *observer, Wants wants, bool on) {
    assert(count_ < kMost);
    if (wants == Wants::kSteps) wants_steps_ |= 1U << count_;
    observers_[count_++] = observer;
    Switch(observer, on);
}

void TransferObservers::Switch(const TransferObserver *observer, bool on) {
    for (size_t i = 0; i < count_; ++i) {
        if (observers_[i] != observer) continue;
        if (on) {
            on_.fetch_or(1U << i, std::memory_order_relaxed);
        } else {
            on_.fetch_and(~(1U << i), std::memory_order_relaxed);
        }
    }
}

void TransferObservers::Tell(const TransferRecord &record) const {
    if (log_.tells()) log_.Tell(record);
    const uint32_t on = on_.load(std::memory_order_relaxed);
    for (size_t i = 0; i < count_; ++i) {
        if ((on & 1U << i) != 0) observers_[i]->OnTransfer(record);
    }
}

}  // namespace lldd
