// Ports whose bandwidth is shared by the transfers that are under way through them.
//
// Nothing is moved here: a flow says when the bytes of a transfer would have passed its ports. Each
// flow has a rate of its own at most, each port a capacity; what there is, is shared out max-min
// fairly. Ports belong to a process: flows of other processes are not known.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <functional>
#include <list>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/mutex.h"

namespace lldd::mock {

// Of two flows that give a port different capacities, the smaller one counts while both are under way.
struct Port {
    std::string name;
    double bytes_per_second = 0;
};

class Ports {
public:
    using Time = Deadline::Clock::time_point;

    static Ports &OfThisProcess();

    // One transfer. It takes part from its construction until its bytes have passed or it is
    // destroyed.
    class Flow {
    public:
        // most: bytes per second that it takes at most, more than 0.
        Flow(std::vector<Port> through, double bytes, double most);
        ~Flow();
        Flow(const Flow &) = delete;
        Flow &operator=(const Flow &) = delete;

        // Waits until its bytes have passed; *end: when that was. False: the deadline has passed, or
        // `ended()`, which is asked with the lock of the ports held and after each WakeAll.
        bool Await(const Deadline &deadline, const std::function<bool()> &ended, Time *end);

    private:
        friend class Ports;
        const std::vector<Port> through_;
        const double most_;
        // Guarded by Ports::mutex_.
        double left_;
        double rate_ = 0;
        bool done_ = false;
        Time end_;
    };

    // Waits until that time, and ends as Flow::Await does.
    bool AwaitTime(Time when, const Deadline &deadline, const std::function<bool()> &ended);

    // Waits look again at what may end them.
    void WakeAll();

private:
    void EnterLocked(Flow *flow) LLDD_REQUIRES(mutex_);
    void LeaveLocked(const Flow *flow) LLDD_REQUIRES(mutex_);
    // What has passed until now, flow by flow as they end.
    void AdvanceLocked(Time now) LLDD_REQUIRES(mutex_);
    void ShareOutLocked() LLDD_REQUIRES(mutex_);

    Mutex mutex_;
    std::condition_variable changed_;
    std::list<Flow *> flows_ LLDD_GUARDED_BY(mutex_);  // that are under way
    Time now_ LLDD_GUARDED_BY(mutex_);                 // until when everything is advanced
    uint64_t version_ LLDD_GUARDED_BY(mutex_) = 0;     // of the rates
};

}  // namespace lldd::mock
