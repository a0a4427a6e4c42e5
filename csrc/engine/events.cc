// SPDX-License-Identifier: Apache-2.0
#include "engine/events.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "engine/greeting.h"
#include "engine/wire.h"

namespace lldd {
namespace {

// A peer that does not read what it is told loses events, not this process its memory.
constexpr size_t kMostUntold = 4U << 20;
constexpr char kOn = 1;
constexpr char kOff = 0;

size_t BytesOf(const TransferEvent &event) { return event.runs.size() * sizeof(BlockRun); }

// An eventfd that is not blocking takes a 1 and gives it back, whatever it had.
void Raise(const Fd &fd) {
    const uint64_t one = 1;
    if (fd && write(fd.get(), &one, sizeof one) < 0) return;
}

void Lower(const Fd &fd) {
    uint64_t number = 0;
    if (fd && read(fd.get(), &number, sizeof number) < 0) return;
}

}  // namespace

Events::Events(LinkDirectory *directory, TransferObservers *observers)
    : directory_(directory), observers_(observers) {
    const LinkNonce random = RandomNonce();
    std::memcpy(&id_prefix_, random.data(), sizeof id_prefix_);
    observers_->Add(this, TransferObservers::Wants::kEnd, false);
}

Status Events::Open(uint32_t capacity, const Deadline &deadline, int *fd) {
    {
        MutexLock lock(mutex_);
        if (open_.load()) {
            return Failure(
                LLDD_FAILED,
                "events are listened to already: one stream at a time, close the other one");
        }
        Fd readable(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!readable) return ErrnoFailure(LLDD_FAILED, errno, "eventfd");
        const int copy = fcntl(readable.get(), F_DUPFD_CLOEXEC, 0);
        if (copy < 0) return ErrnoFailure(LLDD_FAILED, errno, "fcntl");
        readable_ = std::move(readable);
        capacity_ = capacity;
        lost_ = 0;
        open_.store(true);
        *fd = copy;
    }
    Refresh();
    for (const auto &link : directory_->Everything()) {
        if (link->silent()) {
            AskOnly(link.get());
        } else {
            AskAndWait(link.get(), deadline);
        }
    }
    return Status::Ok();
}

void Events::Close() {
    {
        MutexLock lock(mutex_);
        if (!open_.exchange(false)) return;
        waiting_.clear();
        bytes_ = 0;
        Raise(readable_);
        readable_.Close();
    }
    Refresh();
    for (const auto &link : directory_->Everything()) {
        if (Understands(*link)) link->channel().Tell(wire::kEventsWanted, {&kOff, 1});
    }
}

void Events::Shut() {
    MutexLock lock(mutex_);
    Raise(readable_);
}

Status Events::First(std::shared_ptr<const TransferEvent> *event) {
    MutexLock lock(mutex_);
    if (!open_.load())
        return Failure(LLDD_PARAM_INVALID, "events are not listened to: open them first");
    *event = waiting_.empty() ? nullptr : waiting_.front();
    return Status::Ok();
}

void Events::Drop(const std::shared_ptr<const TransferEvent> &event) {
    MutexLock lock(mutex_);
    if (waiting_.empty() || waiting_.front() != event) return;
    bytes_ -= BytesOf(*event);
    waiting_.pop_front();
    if (waiting_.empty()) Lower(readable_);
}

void Events::Add(TransferEvent event) {
    MutexLock lock(mutex_);
    if (!open_.load()) return;
    const size_t bytes = BytesOf(event);
    event.lost += std::exchange(lost_, 0);
    while (!waiting_.empty() && (waiting_.size() >= capacity_ || bytes_ + bytes > kMostBytes)) {
        bytes_ -= BytesOf(*waiting_.front());
        const uint64_t gone = waiting_.front()->lost + 1;
        waiting_.pop_front();
        // The next one that the client sees tells of them.
        (waiting_.empty() ? event.lost : waiting_.front()->lost) += gone;
    }
    if (waiting_.empty()) Raise(readable_);
    bytes_ += bytes;
    waiting_.push_back(std::make_shared<TransferEvent>(std::move(event)));
}

void Events::OnTransfer(const TransferRecord &record) {
    const bool peer_wants = record.link->events_wanted.load();
    if (!open_.load() && !peer_wants) return;
    TransferEvent event = TransferEvent::Of(record);
    if (event.id == TransferId()) GiveId(&event.id);
    if (peer_wants) TellPeer(record.link, event);
    if (open_.load()) Add(std::move(event));
}

void Events::TellPeer(Link *link, TransferEvent event) const {
    event.lost = link->events_lost.load();
    if (link->channel().TellIfRoom(wire::kEvent, event.Encode(), kMostUntold)) {
        link->events_lost.fetch_sub(event.lost);
    } else {
        link->events_lost.fetch_add(1);
    }
}

void Events::GiveId(TransferId *id) {
    const uint64_t number = last_id_.fetch_add(1) + 1;
    std::memcpy(id->data(), &id_prefix_, sizeof id_prefix_);
    std::memcpy(id->data() + sizeof id_prefix_, &number, sizeof number);
}

bool Events::Understands(const Link &link) {
    return (link.identity().peer_features & wire::kFeatureEvents) != 0 && link.established() &&
           !link.peer_gone();
}

void Events::AskOnly(Link *link) const {
    if (open_.load() && Understands(*link)) link->channel().Tell(wire::kEventsWanted, {&kOn, 1});
}

// A peer that does not answer in time is asked all the same.
void Events::AskAndWait(Link *link, const Deadline &deadline) const {
    if (!open_.load() || !Understands(*link)) return;
    std::string answer;
    (void)link->channel().Call(wire::kEventsWanted, {&kOn, 1}, deadline, &answer);
}

bool Events::TakeWanted(Link *link, uint32_t request_id, std::string_view body) {
    if (body.size() != 1 || (body[0] != kOn && body[0] != kOff)) return false;
    link->events_wanted.store(body[0] == kOn);
    Refresh();
    link->channel().Answer(wire::kEventsWanted, request_id, {});
    return true;
}

bool Events::TakeEvent(Link *link, std::string_view body) {
    TransferEvent event;
    if (!event.Decode(body)) return false;
    event.by_peer = true;
    event.peer = link->peer();
    event.link = link->number();
    event.key.cluster_id = link->identity().own_cluster_id;
    event.end = Deadline::Clock::now();
    // It may have been on its way when the client stopped listening.
    Add(std::move(event));
    return true;
}

void Events::Refresh() {
    const std::vector<LinkDirectory::LinkPtr> links = directory_->Everything();
    MutexLock lock(mutex_);
    const bool wanted = std::any_of(links.begin(), links.end(), [](const auto &link) {
        return link->events_wanted.load() && !link->peer_gone();
    });
    observers_->Switch(this, wanted || open_.load());
}

}  // namespace lldd
