// How long transfers take, and when the last one succeeded: for statistics. It needs a clock at the end
// of each.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/transfer_record.h"

namespace lldd {

class TrafficTimes final : public TransferObserver {
public:
    void OnTransfer(const TransferRecord &record) override {
        if (record.ok()) record.link->traffic().own.NoteTimes(record.times.entry, record.times.end);
    }
};

}  // namespace lldd
