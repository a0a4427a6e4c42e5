// Tells peers what the transfers of this end over their links have come to.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "base/event_loop.h"
#include "base/mutex.h"
#include "engine/link.h"
#include "engine/link_directory.h"

namespace lldd {

// Over a link whose peer understands it, if a transfer has ended since the last report. Any thread;
// never blocks.
void SendReport(Link *link);
// What the peer of the link sends; failures that are new are logged. False: it cannot be read. On the I/O
// thread.
bool TakeReport(Link *link, std::string_view body);

// One timer for all links of an engine compares numbers, so that a transfer costs nothing for it. A
// link whose transfers go on is reported every kReportMs; what ends after a rest, within kRestMs.
class Reports {
public:
    static constexpr uint32_t kReportMs = 100;
    static constexpr uint32_t kRestMs = 500;

    Reports(EventLoop *loop, LinkDirectory *directory) : loop_(loop), directory_(directory) {}
    ~Reports() { Stop(); }
    Reports(const Reports &) = delete;
    Reports &operator=(const Reports &) = delete;

    void Start();
    void Stop();

private:
    void Schedule(uint32_t ms) LLDD_REQUIRES(*loop_);
    void Tell() LLDD_REQUIRES(*loop_);

    EventLoop *const loop_;
    LinkDirectory *const directory_;
    EventLoop::Token timer_ LLDD_GUARDED_BY(*loop_) = 0;
};

}  // namespace lldd
