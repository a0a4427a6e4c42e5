// HIXL as it was begun for a device, and the calls of it that are under way.
//
// Deadlines hold whatever HIXL does: each call runs on a thread that waits for nothing else, and the
// caller waits for the call until its own deadline. What HIXL does not return from keeps that thread,
// the HIXL object, and the device.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ascend/cann.h"
#include "ascend/threads.h"
#include "base/deadline.h"
#include "base/mutex.h"
#include "base/status.h"
#include "hixl/hixl.h"

namespace lldd::ascend {

// How much longer a caller waits for HIXL than the time that HIXL was given.
constexpr uint64_t kGraceMs = 300;

// One call of HIXL. Thread-safe.
class HixlCall {
public:
    explicit HixlCall(std::string what) : what_(std::move(what)) {}

    // False: it has not returned by the deadline.
    bool Wait(const Deadline &deadline);
    bool returned() const;
    // Once it has returned: HIXL's number, and what that means.
    hixl::Status number() const;
    Status status() const;
    // Runs when it has returned: now, or on the thread of the call. Does not block.
    void Then(std::function<void()> then);
    // LLDD_TIMEOUT: for how long HIXL has not returned from what.
    Status NotReturned() const;

private:
    friend class HixlSession;
    void Return(hixl::Status number, Status status);

    const std::string what_;
    const Deadline::Clock::time_point began_ = Deadline::Clock::now();
    mutable Mutex mutex_;
    std::condition_variable changed_;
    bool returned_ LLDD_GUARDED_BY(mutex_) = false;
    hixl::Status number_ LLDD_GUARDED_BY(mutex_) = hixl::SUCCESS;
    Status status_ LLDD_GUARDED_BY(mutex_);
    std::vector<std::function<void()>> then_ LLDD_GUARDED_BY(mutex_);
};

// Thread-safe.
class HixlSession : public std::enable_shared_from_this<HixlSession> {
public:
    using Body = std::function<hixl::Status(hixl::Hixl &)>;

    HixlSession(std::shared_ptr<Context> context, int32_t device_id);
    // An object of HIXL's that did not end, or did not begin, is never destroyed.
    ~HixlSession();
    HixlSession(const HixlSession &) = delete;
    HixlSession &operator=(const HixlSession &) = delete;

    // Begins a call, which `what` names in texts: "connect to HIXL engine 10.0.0.1:26001". The body
    // owns what it uses.
    std::shared_ptr<HixlCall> Start(std::string what, Body body);
    // Begins a call and waits for it. LLDD_TIMEOUT: it has not returned by the deadline.
    Status Run(std::string what, const Deadline &deadline, Body body);
    // Counts a call that has not returned in time, and says so in the log.
    void CountLate(const std::shared_ptr<HixlCall> &call);

    // Tasks of this library around the calls.
    Threads &threads() { return threads_; }

    // Initialize has succeeded, so Finalize belongs to it.
    void SetBegun();
    // Finalize, once every call has returned. LLDD_TIMEOUT: one has not, so the object stays.
    Status End(const Deadline &deadline);

    // Of all devices of this process, one line each: calls that were late, and those that still are.
    static std::string Describe();

private:
    Status WaitForAll(const Deadline &deadline);
    std::string DescribeOne() const;

    const std::shared_ptr<Context> context_;
    const int32_t device_id_;
    std::unique_ptr<hixl::Hixl> hixl_ = std::make_unique<hixl::Hixl>();
    mutable Mutex mutex_;
    std::vector<std::shared_ptr<HixlCall>> calls_ LLDD_GUARDED_BY(mutex_);  // under way
    uint64_t late_ LLDD_GUARDED_BY(mutex_) = 0;
    bool begun_ LLDD_GUARDED_BY(mutex_) = false;
    bool finalized_ LLDD_GUARDED_BY(mutex_) = false;
    Threads threads_;
};

}  // namespace lldd::ascend
