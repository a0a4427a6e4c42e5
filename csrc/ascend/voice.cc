// SPDX-License-Identifier: Apache-2.0
#include "ascend/voice.h"

#include <chrono>

#include "runtime/texts.h"

namespace lldd::ascend {
namespace {

// A peer that was heard so recently need not be asked.
constexpr std::chrono::nanoseconds kJustHeard = std::chrono::milliseconds(100);
constexpr std::chrono::nanoseconds kParted = std::chrono::milliseconds(kAnswerMs);

}  // namespace

int64_t Voice::Now() { return Deadline::Clock::now().time_since_epoch().count(); }

Status Voice::Ask(const Deadline &deadline) {
    if (Now() - parted_.load() < kParted.count()) return Status::Ok();
    if (gone()) return PeerIsGone();
    if (Now() - heard_.load() < kJustHeard.count()) return Status::Ok();
    {
        MutexLock lock(mutex_);
        if (ended_) return PeerIsGone();
        ++asking_;
    }
    const Status asked = streams_->Ask(question_, deadline.OrAt(Deadline::InMs(kAnswerMs).when()));
    if (asked.ok()) Heard();
    {
        MutexLock lock(mutex_);
        --asking_;
        asked_.notify_all();
    }
    if (asked.ok()) return asked;
    if (asked.code() != LLDD_TIMEOUT) return PeerIsGone();
    return Failure(LLDD_TIMEOUT,
                   "the peer does not answer over its control connection (its process may be "
                   "stopped or hung), so HIXL is not called for it");
}

void Voice::End() {
    UniqueLock lock(mutex_);
    ended_ = true;
    asked_.wait(lock.native(), [this]() LLDD_REQUIRES(mutex_) { return asking_ == 0; });
}

}  // namespace lldd::ascend
