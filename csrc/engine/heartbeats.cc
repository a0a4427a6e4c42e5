// SPDX-License-Identifier: Apache-2.0
#include "engine/heartbeats.h"

#include <algorithm>

#include "base/io_thread.h"
#include "engine/life_log.h"

namespace lldd {
namespace {

// A process must not be kept busy, whatever the time is.
constexpr uint32_t kShortestBeatMs = 50;

}  // namespace

void Heartbeats::Start() {
    if (timeout_ms_ == 0) return;
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        Schedule();
    });
}

void Heartbeats::Stop() {
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        loop_->Cancel(timer_);
        timer_ = 0;
    });
}

void Heartbeats::Schedule() {
    const uint32_t beat_ms = std::max(timeout_ms_ / Link::kBeatsUntilSilent, kShortestBeatMs);
    timer_ = loop_->PostAt(Deadline::InMs(beat_ms), [this] {
        LLDD_ON_IO_THREAD(*loop_);
        Beat();
    });
}

// What is counted is beats and not time, so that a link is not silent because this process itself
// was stopped.
void Heartbeats::Beat() {
    Schedule();
    for (const auto &link : directory_->Everything()) {
        const auto speaks_again = [box = box_](const Link &one) { LogLinkSpeaksAgain(box, one); };
        if (!link->Beat(speaks_again)) continue;
        directory_->CountSilent();
        LogLinkSilent(box_, *link, timeout_ms_);
    }
}

}  // namespace lldd
