// SPDX-License-Identifier: Apache-2.0
#include "ascend/withdrawals.h"

#include <utility>

namespace lldd::ascend {

// While it lives, no peer that has answered is connected to this device, nor this device to any.
class Withdrawals::Isolation {
public:
    explicit Isolation(Withdrawals *owner) : owner_(owner), standstill_(owner->engine_) {}
    ~Isolation() {
        for (MemoryUser *user : asked_) {
            if (!owner_->BeginAsking(user)) continue;
            user->ComeBack();
            owner_->EndAsking(user);
        }
    }
    Isolation(const Isolation &) = delete;
    Isolation &operator=(const Isolation &) = delete;

    // LLDD_TIMEOUT: not all of them have disconnected.
    Status Begin(const Deadline &deadline) {
        asked_ = owner_->Users();
        LLDD_RETURN_IF_ERROR(owner_->AskEverybody(
            asked_, [&](MemoryUser *user) { return user->StayAway(deadline); }));
        return standstill_.Begin(deadline);
    }

private:
    Withdrawals *const owner_;
    HixlEngine::Standstill standstill_;
    std::vector<MemoryUser *> asked_;
};

Status Withdrawals::Finish(const OwnMemory::Withdrawn &withdrawn, const Deadline &deadline) {
    Status status;
    do {
        // Before any peer is held up: one that does not answer must not cost the others their time.
        status = AskEverybody(
            Users(), [&](MemoryUser *user) { return user->Forget(withdrawn.id, deadline); });
        if (!status.ok()) return Status(LLDD_TIMEOUT, status.text(), status.raw());
        Isolation isolation(this);
        status = isolation.Begin(deadline);
        if (!status.ok()) return Status(LLDD_TIMEOUT, status.text(), status.raw());
        status = memory_->Deregister(withdrawn);
        // If HIXL refuses, a peer has linked, and so connected, meanwhile: it is also asked.
    } while (!status.ok() && !deadline.passed());
    return status;
}

std::vector<MemoryUser *> Withdrawals::Users() {
    std::vector<MemoryUser *> users;
    MutexLock lock(mutex_);
    for (const auto &[user, asking] : users_) users.push_back(user);
    return users;
}

// Asks all of them, even when one has used up the time. Returns the first failure.
Status Withdrawals::AskEverybody(const std::vector<MemoryUser *> &users,
                                 const std::function<Status(MemoryUser *)> &ask) {
    Status status;
    for (MemoryUser *user : users) {
        if (!BeginAsking(user)) continue;
        Status asked = ask(user);
        EndAsking(user);
        if (status.ok()) status = std::move(asked);
    }
    return status;
}

bool Withdrawals::BeginAsking(MemoryUser *user) {
    MutexLock lock(mutex_);
    const auto found = users_.find(user);
    if (found == users_.end()) return false;
    ++found->second;
    return true;
}

void Withdrawals::EndAsking(MemoryUser *user) {
    MutexLock lock(mutex_);
    --users_.at(user);
    asked_.notify_all();
}

void Withdrawals::Add(MemoryUser *user) {
    MutexLock lock(mutex_);
    users_.emplace(user, 0);
}

void Withdrawals::Remove(MemoryUser *user) {
    UniqueLock lock(mutex_);
    // Its control connection is closed by now, so a thread that asks is answered at once.
    asked_.wait(lock.native(), [&]() LLDD_REQUIRES(mutex_) { return users_.at(user) == 0; });
    users_.erase(user);
}

}  // namespace lldd::ascend
