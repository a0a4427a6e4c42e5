// SPDX-License-Identifier: Apache-2.0
#include "ascend/session.h"

#include <algorithm>
#include <list>
#include <utility>

#include "base/log.h"

namespace lldd::ascend {
namespace {

// For introspection.
struct OpenSessions {
    Mutex mutex;
    std::list<HixlSession *> all LLDD_GUARDED_BY(mutex);

    // Never destroyed: sessions may outlive static destructors.
    static OpenSessions &Get() {
        static auto *sessions = new OpenSessions;
        return *sessions;
    }
};

}  // namespace

// ---- one call ----

bool HixlCall::Wait(const Deadline &deadline) {
    UniqueLock lock(mutex_);
    return WaitUntil(changed_, lock.native(), deadline,
                     [this]() LLDD_REQUIRES(mutex_) { return returned_; });
}

bool HixlCall::returned() const {
    MutexLock lock(mutex_);
    return returned_;
}

hixl::Status HixlCall::number() const {
    MutexLock lock(mutex_);
    return number_;
}

Status HixlCall::status() const {
    MutexLock lock(mutex_);
    return status_;
}

void HixlCall::Then(std::function<void()> then) {
    {
        MutexLock lock(mutex_);
        if (!returned_) {
            then_.push_back(std::move(then));
            return;
        }
    }
    then();
}

Status HixlCall::NotReturned() const {
    const auto since =
        std::chrono::duration_cast<std::chrono::milliseconds>(Deadline::Clock::now() - began_);
    return Failure(LLDD_TIMEOUT, "%s: HIXL has not returned for %lld ms", what_.c_str(),
                   static_cast<long long>(since.count()));
}

void HixlCall::Return(hixl::Status number, Status status) {
    std::vector<std::function<void()>> due;
    {
        MutexLock lock(mutex_);
        number_ = number;
        status_ = std::move(status);
        returned_ = true;
        due.swap(then_);
        changed_.notify_all();
    }
    for (const auto &then : due) then();
}

// ---- all of them ----

HixlSession::HixlSession(std::shared_ptr<Context> context, int32_t device_id)
    : context_(std::move(context)), device_id_(device_id), threads_(context_) {
    OpenSessions &open = OpenSessions::Get();
    MutexLock lock(open.mutex);
    open.all.push_back(this);
}

HixlSession::~HixlSession() {
    {
        OpenSessions &open = OpenSessions::Get();
        MutexLock lock(open.mutex);
        open.all.remove(this);
    }
    MutexLock lock(mutex_);
    // HIXL 8.5.0 ends the process with an object whose Initialize has failed.
    if (!finalized_) (void)hixl_.release();
}

std::shared_ptr<HixlCall> HixlSession::Start(std::string what, Body body) {
    auto call = std::make_shared<HixlCall>(what);
    {
        MutexLock lock(mutex_);
        calls_.push_back(call);
    }
    threads_.Post(
        [self = shared_from_this(), call, what = std::move(what), body = std::move(body)] {
            const hixl::Status number = body(*self->hixl_);
            Status status = FromHixl(number, what);
            {
                MutexLock lock(self->mutex_);
                self->calls_.erase(std::find(self->calls_.begin(), self->calls_.end(), call));
            }
            call->Return(number, std::move(status));
        });
    return call;
}

Status HixlSession::Run(std::string what, const Deadline &deadline, Body body) {
    const std::shared_ptr<HixlCall> call = Start(std::move(what), std::move(body));
    if (call->Wait(deadline)) return call->status();
    CountLate(call);
    return call->NotReturned();
}

void HixlSession::CountLate(const std::shared_ptr<HixlCall> &call) {
    {
        MutexLock lock(mutex_);
        ++late_;
    }
    LLDD_LOG(LLDD_LOG_WARNING, "device %d: %s", device_id_, call->NotReturned().text().c_str());
}

void HixlSession::SetBegun() {
    MutexLock lock(mutex_);
    begun_ = true;
}

Status HixlSession::WaitForAll(const Deadline &deadline) {
    for (;;) {
        std::shared_ptr<HixlCall> call;
        {
            MutexLock lock(mutex_);
            if (calls_.empty()) return Status::Ok();
            call = calls_.front();
        }
        if (!call->Wait(deadline)) return call->NotReturned();
        // It is off the list before it has returned.
    }
}

// What has not been finalized because a call was under way may be later.
Status HixlSession::End(const Deadline &deadline) {
    LLDD_RETURN_IF_ERROR(WaitForAll(deadline));
    bool finalize = false;
    {
        MutexLock lock(mutex_);
        finalize = begun_ && !finalized_;
    }
    if (finalize) {
        const auto body = [](hixl::Hixl &hixl) -> hixl::Status {
            hixl.Finalize();
            return hixl::SUCCESS;
        };
        LLDD_RETURN_IF_ERROR(Run("finalize", deadline, body));
        MutexLock lock(mutex_);
        finalized_ = true;
    }
    if (threads_.Finish(deadline)) return Status::Ok();
    return Failure(LLDD_TIMEOUT, "a task around a call of HIXL has not returned");
}

std::string HixlSession::Describe() {
    OpenSessions &open = OpenSessions::Get();
    MutexLock lock(open.mutex);
    std::string text;
    for (const HixlSession *session : open.all) text += session->DescribeOne();
    return text;
}

std::string HixlSession::DescribeOne() const {
    MutexLock lock(mutex_);
    std::string text = Format("device %d: late calls of HIXL %llu, under way %zu\n", device_id_,
                              Printable(late_), calls_.size());
    for (const auto &call : calls_) text += "  " + call->NotReturned().text() + "\n";
    return text;
}

}  // namespace lldd::ascend
