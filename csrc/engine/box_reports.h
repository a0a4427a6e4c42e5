// Tells peers that have a box of the calls of this end over their links, and measures how their clocks
// stand to this one. Only where this engine has a box.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "base/box.h"
#include "base/event_loop.h"
#include "base/mutex.h"
#include "engine/link.h"
#include "engine/link_directory.h"
#include "engine/wire_box.h"

namespace lldd {

// A transfer costs nothing for it: a timer reads the ring of calls.
class BoxReports {
public:
    // Between two looks at the ring.
    static constexpr uint32_t kReportMs = 100;
    // A clock is asked for again, so that it may drift.
    static constexpr int64_t kClockNs = 10'000'000'000;

    // `box` null: there is none, and no function does anything.
    BoxReports(EventLoop *loop, LinkDirectory *directory, Box *box)
        : loop_(loop), directory_(directory), box_(box) {}
    ~BoxReports() { Stop(); }
    BoxReports(const BoxReports &) = delete;
    BoxReports &operator=(const BoxReports &) = delete;

    void Start();
    void Stop();
    // Tells what has not been told yet, before a link ends. Not on the I/O thread.
    void Flush();
    // The same on the I/O thread.
    void Tell();

    // What peers send. False: it cannot be read, or the peer has no reason to send it. On the I/O
    // thread.
    bool TakeCalls(Link *link, std::string_view body);
    bool TakeClock(Link *link, std::string_view body);

private:
    // Of one link, by its number.
    struct Peer {
        int64_t sent_ns = 0;      // of the last message, 0: its answer has come
        int64_t measured_ns = 0;  // when an event told of the clock; 0: none has
        int64_t error_ns = 0;     // of that
        int64_t second_ns = 0;    // since when `taken` counts
        uint64_t taken = 0;
    };

    void Schedule() LLDD_REQUIRES(*loop_);
    std::vector<wire::BoxCalls::One> NewCalls() LLDD_REQUIRES(*loop_);

    EventLoop *const loop_;
    LinkDirectory *const directory_;
    Box *const box_;
    EventLoop::Token timer_ LLDD_GUARDED_BY(*loop_) = 0;
    uint64_t next_ LLDD_GUARDED_BY(*loop_) = 0;  // the first ticket that was not looked at
    // Tickets before it whose calls were under way.
    std::vector<uint64_t> under_way_ LLDD_GUARDED_BY(*loop_);
    std::map<uint32_t, Peer> peers_ LLDD_GUARDED_BY(*loop_);
};

}  // namespace lldd
