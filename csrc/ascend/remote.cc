// SPDX-License-Identifier: Apache-2.0
#include "ascend/remote.h"

#include <algorithm>

#include "base/log.h"
#include "runtime/texts.h"

namespace lldd::ascend {
namespace {

// How often a disconnect is tried that HIXL refuses.
constexpr int kDropTries = 5;

}  // namespace

// The thread that has it may use the connection; others wait. A thread that ends the connection goes
// before those that transfer, which may make one call after the other.
class LLDD_SCOPED_CAPABILITY Remote::Turn {
public:
    // kPromisedEnd: an end that is counted among the waiting ones already.
    enum class For { kUse, kEnd, kPromisedEnd };

    // The turn is the thread's if Check says so.
    Turn(Remote *remote, const Deadline &deadline, For what) LLDD_ACQUIRE(remote->turn_)
        : remote_(remote) {
        UniqueLock lock(remote_->mutex_);
        const bool ends = what != For::kUse;
        if (what == For::kEnd) ++remote_->ends_waiting_;
        taken_ = WaitUntil(remote_->free_, lock.native(), deadline,
                           [&]() LLDD_REQUIRES(remote_->mutex_) {
                               if (remote_->busy_) return false;
                               return ends || (remote_->ends_waiting_ == 0 && remote_->holds_ == 0);
                           });
        held_ = remote_->holds_ != 0;
        if (ends) --remote_->ends_waiting_;
        if (taken_) remote_->busy_ = true;
        // Without it the others need not wait for the end any more.
        if (!taken_) remote_->free_.notify_all();
    }
    ~Turn() LLDD_RELEASE() {
        if (!taken_) return;
        std::vector<std::function<void()>> due;
        {
            MutexLock lock(remote_->mutex_);
            remote_->busy_ = false;
            due.swap(remote_->after_turn_);
            remote_->free_.notify_all();
        }
        for (auto &task : due) remote_->session_->threads().Post(std::move(task));
    }
    Turn(const Turn &) = delete;
    Turn &operator=(const Turn &) = delete;

    Status Check() const {
        if (taken_) return Status::Ok();
        return Failure(LLDD_TIMEOUT, "the HIXL connection to %s %s", remote_->engine_.c_str(),
                       held_ ? "waits for memory that is being withdrawn"
                             : "is in use by another transfer, or is being made");
    }

private:
    Remote *const remote_;
    bool taken_ = false;
    bool held_ = false;
};

// The thread that has the turn posts the task, so that no thread waits for a transfer; from now on no
// thread begins another one.
void Remote::WhenFree(std::function<void()> task) {
    auto in_turn = [self = shared_from_this(), task = std::move(task)] {
        bool taken = false;
        std::shared_ptr<HixlCall> under_way;
        {
            const Turn turn(self.get(), Deadline::Passed(), Turn::For::kPromisedEnd);
            taken = turn.Check().ok();
            if (taken && !self->SettleInTurn(Deadline::Passed()).ok()) under_way = self->under_way_;
            if (taken && under_way == nullptr) task();
        }
        // HIXL has not returned from something, which costs no thread of this library.
        if (under_way != nullptr) {
            under_way->Then([self, task] { self->WhenFree(task); });
        } else if (!taken) {
            // Another end came first.
            self->WhenFree(task);
        }
    };
    {
        MutexLock lock(mutex_);
        ++ends_waiting_;
        if (busy_) {
            after_turn_.push_back(std::move(in_turn));
            return;
        }
    }
    session_->threads().Post(std::move(in_turn));
}

void Remote::AfterTransfer(std::function<void()> then) { WhenFree(std::move(then)); }

void Remote::DropSoon(std::function<void()> dropped) { TryToDrop(std::move(dropped), kDropTries); }

void Remote::TryToDrop(std::function<void()> dropped, int tries) {
    WhenFree([this, dropped = std::move(dropped), tries]() LLDD_REQUIRES(turn_) {
        if (DisconnectInTurn(Deadline::InMs(kDisconnectMs)).ok()) {
            dropped();
        } else if (tries > 1) {
            TryToDrop(dropped, tries - 1);
        }
    });
}

void Remote::Hold() {
    MutexLock lock(mutex_);
    ++holds_;
}

void Remote::GoOn() {
    MutexLock lock(mutex_);
    --holds_;
    free_.notify_all();
}

void Remote::AddUser(std::shared_ptr<Voice> voice) {
    MutexLock lock(mutex_);
    users_.push_back(std::move(voice));
    stale_ = true;
}

bool Remote::RemoveUser(const std::shared_ptr<Voice> &voice) {
    MutexLock lock(mutex_);
    const auto found = std::find(users_.begin(), users_.end(), voice);
    if (found != users_.end()) users_.erase(found);
    if (users_.empty()) last_user_ = voice;
    return !users_.empty();
}

bool Remote::in_use() const {
    MutexLock lock(mutex_);
    return !users_.empty();
}

Status Remote::End(const Deadline &deadline, const std::function<void()> &ended) {
    const Turn turn(this, deadline, Turn::For::kEnd);
    LLDD_RETURN_IF_ERROR(turn.Check());
    EndInTurn(deadline, ended);
    return Status::Ok();
}

void Remote::EndSoon(std::function<void()> ended) {
    WhenFree([this, ended = std::move(ended)]() LLDD_REQUIRES(turn_) {
        const Deadline deadline = Deadline::InMs(kDisconnectMs);
        EndInTurn(deadline, ended);
    });
}

// A new link may have come meanwhile, or come now: it finds what is left, and connects anew.
void Remote::EndInTurn(const Deadline &deadline, const std::function<void()> &ended) {
    if (!in_use() && DisconnectInTurn(deadline).ok()) ended();
}

Status Remote::Connect(const Deadline &deadline) {
    const Turn turn(this, deadline, Turn::For::kUse);
    LLDD_RETURN_IF_ERROR(turn.Check());
    return ConnectInTurn(0, deadline);
}

void Remote::ConnectSoon() {
    session_->threads().Post([self = shared_from_this()] {
        const Status status = self->Connect(Deadline::InMs(kConnectMs));
        if (!status.ok() && self->in_use()) LLDD_LOG(LLDD_LOG_WARNING, "%s", status.text().c_str());
    });
}

// The links of this engine ask their peers, which are one and the same; the last one was closed a
// moment ago, perhaps.
Status Remote::PeerAnswers(const Deadline &deadline) {
    std::vector<std::shared_ptr<Voice>> voices;
    {
        MutexLock lock(mutex_);
        voices = users_;
        if (voices.empty() && last_user_ != nullptr) voices.push_back(last_user_);
    }
    Status status = PeerIsGone();
    for (const auto &voice : voices) {
        status = voice->Ask(deadline);
        if (status.ok()) return status;
    }
    return Status(status.code(), "HIXL engine " + engine_ + ": " + status.text());
}

int32_t Remote::ForHixl(uint64_t ms) const {
    return static_cast<int32_t>(std::min(ms, static_cast<uint64_t>(longest_ms_)));
}

Status Remote::CallInTurn(Doing doing, const std::string &what, const Deadline &deadline,
                          HixlSession::Body body, bool *returned) {
    doing_ = doing;
    under_way_ = session_->Start(what, std::move(body));
    *returned = under_way_->Wait(deadline);
    if (!*returned) return under_way_->NotReturned();
    const std::shared_ptr<HixlCall> call = under_way_;
    (void)SettleInTurn(deadline);
    return call->status();
}

Status Remote::SettleInTurn(const Deadline &deadline) {
    if (under_way_ == nullptr) return Status::Ok();
    if (!under_way_->Wait(deadline)) return under_way_->NotReturned();
    const hixl::Status number = under_way_->number();
    under_way_ = nullptr;
    switch (doing_) {
        case Doing::kConnect:
            // One that is connected already was thought lost; it is as old as that.
            connected_ = number == hixl::SUCCESS || number == hixl::ALREADY_CONNECTED;
            lost_ = number == hixl::ALREADY_CONNECTED;
            knows_ = will_know_;
            break;
        case Doing::kDisconnect:
            connected_ = number != hixl::SUCCESS && number != hixl::NOT_CONNECTED;
            break;
        case Doing::kTransfer: lost_ = lost_ || !ConnectionSurvives(number); break;
    }
    return Status::Ok();
}

// A connect goes on when the deadline has passed, with a patience of its own: the next transfer finds
// what has come of it.
Status Remote::ConnectInTurn(uint64_t newest, const Deadline &deadline) {
    LLDD_RETURN_IF_ERROR(SettleInTurn(deadline));
    bool stale = false;
    {
        MutexLock lock(mutex_);
        stale = std::exchange(stale_, false);
    }
    if (connected_ && !lost_ && !stale && newest < knows_) return Status::Ok();
    lost_ = true;
    LLDD_RETURN_IF_ERROR(DisconnectInTurn(deadline));
    {
        // Once the last user has gone, the connection is not made any more: its end waits for the
        // turn.
        MutexLock lock(mutex_);
        if (users_.empty())
            return Failure(LLDD_FAILED, "no link to HIXL engine %s is left", engine_.c_str());
    }
    const std::string what = "connect to HIXL engine " + engine_;
    // HIXL may have a connection that was thought lost: it is ended, once.
    for (const bool again : {true, false}) {
        LLDD_RETURN_IF_ERROR(PeerAnswers(deadline));
        if (Milliseconds(deadline) == 0)
            return Failure(LLDD_TIMEOUT, "%s: no time is left", what.c_str());
        will_know_ = next_region_->load();
        const auto left = static_cast<uint64_t>(Milliseconds(deadline));
        const int32_t ms = ForHixl(std::max<uint64_t>(kConnectMs, left));
        bool returned = false;
        const auto body = [engine = engine_, ms](hixl::Hixl &hixl) {
            return hixl.Connect(engine.c_str(), ms);
        };
        Status status = CallInTurn(Doing::kConnect, what, deadline, body, &returned);
        if (!returned || !connected_ || !lost_ || !again) return status;
        LLDD_RETURN_IF_ERROR(DisconnectInTurn(deadline));
    }
    return Status::Ok();
}

// What HIXL refuses to end is there as before; so is what the peer is silent about.
Status Remote::DisconnectInTurn(const Deadline &deadline) {
    LLDD_RETURN_IF_ERROR(SettleInTurn(deadline));
    if (!connected_) return Status::Ok();
    Status answers = PeerAnswers(deadline);
    if (!answers.ok()) {
        lost_ = true;
        return answers;
    }
    const Deadline until = deadline.OrAt(Deadline::InMs(kDisconnectMs).when());
    const int32_t ms = std::max(1, ForHixl(static_cast<uint64_t>(Milliseconds(until))));
    const auto body = [engine = engine_, ms](hixl::Hixl &hixl) {
        return hixl.Disconnect(engine.c_str(), ms);
    };
    const Deadline patience = Deadline::InMs(static_cast<uint64_t>(ms) + kGraceMs);
    bool returned = false;
    Status status = CallInTurn(Doing::kDisconnect, "disconnect from HIXL engine " + engine_,
                               patience, body, &returned);
    if (!returned) session_->CountLate(under_way_);
    if (!connected_) return Status::Ok();
    LLDD_LOG(LLDD_LOG_WARNING, "%s", status.text().c_str());
    return status;
}

Status Remote::Transfer(hixl::TransferOp operation, const std::shared_ptr<const TransferOps> &descs,
                        uint64_t newest, const std::function<Status()> &may_begin,
                        const Deadline &deadline) {
    const Turn turn(this, deadline, Turn::For::kUse);
    LLDD_RETURN_IF_ERROR(turn.Check());
    LLDD_RETURN_IF_ERROR(ConnectInTurn(newest, deadline));
    LLDD_RETURN_IF_ERROR(may_begin());
    const int32_t ms = ForHixl(static_cast<uint64_t>(Milliseconds(deadline)));
    if (ms == 0) return NotDoneInTime();
    const auto body = [engine = engine_, operation, descs, ms](hixl::Hixl &hixl) {
        return hixl.TransferSync(engine.c_str(), operation, *descs, ms);
    };
    // HIXL cannot be interrupted: whatever the caller wants, bytes move until it returns.
    const Deadline until = Deadline::InMs(static_cast<uint64_t>(ms) + kGraceMs);
    bool returned = false;
    Status result = CallInTurn(Doing::kTransfer,
                               (operation == hixl::READ ? "read from " : "write to ") + engine_,
                               until, body, &returned);
    if (!returned) {
        session_->CountLate(under_way_);
        return Status(LLDD_TIMEOUT,
                      result.text() + "; until it does, bytes may still move, on both ends");
    }
    if (!lost_) return result;
    // What is lost with the connection must not come late, and the next transfer finds a new one.
    const Status ended = DisconnectInTurn(Deadline::InMs(kDisconnectMs));
    if (ended.ok()) {
        ConnectSoon();
        return result;
    }
    return Status(result.code(), result.text() + "; " + ended.text(), result.raw());
}

Status Remote::Drop(const Deadline &deadline) {
    const Turn turn(this, deadline, Turn::For::kEnd);
    LLDD_RETURN_IF_ERROR(turn.Check());
    LLDD_RETURN_IF_ERROR(SettleInTurn(deadline));
    if (!in_use()) return Status::Ok();
    return DisconnectInTurn(deadline);
}

}  // namespace lldd::ascend
