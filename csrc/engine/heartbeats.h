// Asks quiet peers whether they are there. One that does not answer makes its link silent.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/box.h"
#include "base/event_loop.h"
#include "base/mutex.h"
#include "engine/link_directory.h"

namespace lldd {

// One timer for all links of an engine; nothing is done for a transfer.
class Heartbeats {
public:
    // A link is silent when nothing came over its control connection for `timeout_ms` after it was
    // asked; 0: none is asked. `box` is told of it, unless it is null.
    Heartbeats(EventLoop *loop, LinkDirectory *directory, Box *box, uint32_t timeout_ms)
        : loop_(loop), directory_(directory), box_(box), timeout_ms_(timeout_ms) {}
    ~Heartbeats() { Stop(); }
    Heartbeats(const Heartbeats &) = delete;
    Heartbeats &operator=(const Heartbeats &) = delete;

    void Start();
    void Stop();

private:
    void Schedule() LLDD_REQUIRES(*loop_);
    void Beat() LLDD_REQUIRES(*loop_);

    EventLoop *const loop_;
    LinkDirectory *const directory_;
    Box *const box_;
    const uint32_t timeout_ms_;
    EventLoop::Token timer_ LLDD_GUARDED_BY(*loop_) = 0;
};

}  // namespace lldd
