// Whether the peer of a link is there: it answers over the link's control connection.
//
// HIXL's Connect and Disconnect never return while the process at the other end is stopped or hung,
// so neither is called for a peer that has not just answered.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <string>

#include "base/deadline.h"
#include "base/mutex.h"
#include "base/status.h"
#include "runtime/runtime.h"

namespace lldd::ascend {

// How long a peer has to answer; one that takes longer is silent.
constexpr uint64_t kAnswerMs = 1000;

// Thread-safe. Shared by the connection of a link and by the HIXL connection that it uses.
class Voice {
public:
    // The peer has just answered: the link is being made. `question` is a message that the peer's
    // runtime answers at once.
    Voice(StreamProvider *streams, std::string question)
        : streams_(streams), question_(std::move(question)) {
        Heard();
    }

    // The peer has just said something.
    void Heard() { heard_.store(Now()); }
    // The peer has agreed to end the link, so its control connection closes: for kAnswerMs it counts as
    // one that answers.
    void Part() { parted_.store(Now()); }
    // The control connection is closed: the peer does not answer any more.
    void Gone() { gone_.store(true); }
    bool gone() const { return gone_.load(); }

    // Asks, unless the peer has just been heard. Not on the I/O thread. LLDD_TIMEOUT: it is silent, or
    // gone.
    Status Ask(const Deadline &deadline);
    // Nothing is asked any more; waits for what is. The control connection is closed by then.
    void End();

private:
    static int64_t Now();

    StreamProvider *const streams_;
    const std::string question_;
    std::atomic<int64_t> heard_{0};
    std::atomic<int64_t> parted_{0};
    std::atomic<bool> gone_{false};

    Mutex mutex_;
    std::condition_variable asked_;
    uint64_t asking_ LLDD_GUARDED_BY(mutex_) = 0;
    bool ended_ LLDD_GUARDED_BY(mutex_) = false;
};

}  // namespace lldd::ascend
