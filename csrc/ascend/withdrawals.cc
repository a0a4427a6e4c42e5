// SPDX-License-Identifier: Apache-2.0
#include "ascend/withdrawals.h"

#include <algorithm>
#include <thread>
#include <utility>

namespace lldd::ascend {
namespace {

// HIXL writes error lines with each refusal.
constexpr uint64_t kAgainMs = 50;
// Of one call of HIXL, which does not wait for peers.
constexpr uint64_t kDeregisterMs = 10'000;

}  // namespace

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

// HIXL gives no notice when it lets go of the memory, so it is asked again and again.
Status Withdrawals::Finish(const OwnMemory::Withdrawn &withdrawn, const Deadline &deadline) {
    Status refused;  // by HIXL, the last time
    for (;;) {
        bool done = false;
        Status status = FinishOnce(withdrawn, deadline, &done);
        if (done && (status.ok() || refused.ok())) return status;
        if (!done) refused = std::move(status);
        const GonePeers::Left left = gone_.Look();
        // Nobody moves bytes over what is left: peers that have ended, and connections of this end
        // that are not used any more. The handle is given back when HIXL lets go of it.
        const bool over = left.unsure.empty() && (left.ended || engine_->has_abandoned());
        if (!done && over) {
            memory_->DeregisterLater(withdrawn, true);
            return Status::Ok();
        }
        if (done || deadline.passed()) {
            const std::string who = left.unsure.empty() ? "" : "; " + left.unsure;
            return Status(LLDD_TIMEOUT, refused.text() + who, refused.raw());
        }
        std::this_thread::sleep_until(deadline.OrAt(Deadline::InMs(kAgainMs).when()).when());
    }
}

// *done: there is nothing to be tried again.
Status Withdrawals::FinishOnce(const OwnMemory::Withdrawn &withdrawn, const Deadline &deadline,
                               bool *done) {
    // Before any peer is held up: one that does not answer must not cost the others their time.
    Status status = AskEverybody(
        Users(), [&](MemoryUser *user) { return user->Forget(withdrawn.id, deadline); });
    *done = !status.ok();
    if (*done) return Status(LLDD_TIMEOUT, status.text(), status.raw());
    if (withdrawn.in_use) {
        // HIXL keeps the memory for another range of it: only peers had to forget it.
        const GonePeers::Left left = gone_.Look();
        *done = left.unsure.empty();
        return *done ? status : Failure(LLDD_TIMEOUT, "HIXL keeps it for another registration");
    }
    Isolation isolation(this);
    status = isolation.Begin(deadline);
    *done = !status.ok();
    if (*done) return Status(LLDD_TIMEOUT, status.text(), status.raw());
    // If HIXL refuses, a peer has linked, and so connected, meanwhile, or is gone.
    const auto rest = static_cast<uint64_t>(Milliseconds(deadline));
    status = memory_->Deregister(withdrawn,
                                 Deadline::InMs(std::min(std::max(rest, kGraceMs), kDeregisterMs)));
    *done = status.ok();
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
