// SPDX-License-Identifier: Apache-2.0
#include "ascend/remote.h"

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
        for (auto &task : due) remote_->worker_->Post(std::move(task));
    }
    Turn(const Turn &) = delete;
    Turn &operator=(const Turn &) = delete;

    Status Check() const {
        if (taken_) return Status::Ok();
        return Failure(
            LLDD_TIMEOUT, "the HIXL connection to %s %s", remote_->engine_.c_str(),
            held_ ? "waits for memory that is being withdrawn" : "is in use by another transfer");
    }

private:
    Remote *const remote_;
    bool taken_ = false;
    bool held_ = false;
};

// The thread that has the turn posts the task, so that the worker never waits for a transfer; from
// now on no thread begins another one.
void Remote::WhenFree(std::function<void()> task) {
    auto in_turn = [self = shared_from_this(), task = std::move(task)] {
        bool taken = false;
        {
            const Turn turn(self.get(), Deadline::Passed(), Turn::For::kPromisedEnd);
            taken = turn.Check().ok();
            if (taken) task();
        }
        // Another end came first.
        if (!taken) self->WhenFree(task);
    };
    {
        MutexLock lock(mutex_);
        ++ends_waiting_;
        if (busy_) {
            after_turn_.push_back(std::move(in_turn));
            return;
        }
    }
    worker_->Post(std::move(in_turn));
}

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

void Remote::AddUser() {
    MutexLock lock(mutex_);
    ++users_;
    stale_ = true;
}

bool Remote::RemoveUser() {
    MutexLock lock(mutex_);
    return --users_ != 0;
}

bool Remote::in_use() const {
    MutexLock lock(mutex_);
    return users_ != 0;
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

Status Remote::ConnectInTurn(uint64_t newest, const Deadline &deadline) {
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
        if (users_ == 0)
            return Failure(LLDD_FAILED, "no link to HIXL engine %s is left", engine_.c_str());
        knows_ = next_region_->load();
    }
    const std::string what = "connect to HIXL engine " + engine_;
    const auto connect = [&]() -> hixl::Status {
        const int32_t ms = Milliseconds(deadline);
        return ms == 0 ? hixl::TIMEOUT : hixl_->Connect(engine_.c_str(), ms);
    };
    hixl::Status status = connect();
    if (status == hixl::ALREADY_CONNECTED) {
        // A connection that was thought lost; it is as old as that.
        connected_ = true;
        LLDD_RETURN_IF_ERROR(DisconnectInTurn(deadline));
        status = connect();
    }
    connected_ = status == hixl::SUCCESS;
    lost_ = false;
    return FromHixl(status, what);
}

// What HIXL refuses to end is there as before.
Status Remote::DisconnectInTurn(const Deadline &deadline) {
    if (!connected_) return Status::Ok();
    const int32_t ms = Milliseconds(deadline);
    const hixl::Status status = hixl_->Disconnect(engine_.c_str(), ms > 0 ? ms : 1);
    connected_ = status != hixl::SUCCESS && status != hixl::NOT_CONNECTED;
    if (!connected_) return Status::Ok();
    Status failed = FromHixl(status, "disconnect from HIXL engine " + engine_);
    LLDD_LOG(LLDD_LOG_WARNING, "%s", failed.text().c_str());
    return failed;
}

Status Remote::Transfer(hixl::TransferOp operation, const std::vector<hixl::TransferOpDesc> &descs,
                        uint64_t newest, const std::function<Status()> &may_begin,
                        const Deadline &deadline) {
    const Turn turn(this, deadline, Turn::For::kUse);
    LLDD_RETURN_IF_ERROR(turn.Check());
    LLDD_RETURN_IF_ERROR(ConnectInTurn(newest, deadline));
    LLDD_RETURN_IF_ERROR(may_begin());
    const int32_t ms = Milliseconds(deadline);
    if (ms == 0) return NotDoneInTime();
    const hixl::Status status = hixl_->TransferSync(engine_.c_str(), operation, descs, ms);
    Status result =
        FromHixl(status, operation == hixl::READ ? "read from " + engine_ : "write to " + engine_);
    if (ConnectionSurvives(status)) return result;
    // What is lost with the connection must not come late, and the next transfer finds a new one.
    lost_ = true;
    const Status ended = DisconnectInTurn(Deadline::InMs(kDisconnectMs));
    if (ended.ok()) return result;
    return Status(result.code(), result.text() + "; " + ended.text(), result.raw());
}

Status Remote::Drop(const Deadline &deadline) {
    const Turn turn(this, deadline, Turn::For::kEnd);
    LLDD_RETURN_IF_ERROR(turn.Check());
    return DisconnectInTurn(deadline);
}

}  // namespace lldd::ascend
