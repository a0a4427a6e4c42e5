// SPDX-License-Identifier: Apache-2.0
#include "base/strangers.h"

#include <sys/resource.h>

#include <algorithm>

#include "base/io_thread.h"
#include "base/log.h"

namespace lldd {
namespace {

constexpr size_t kFewest = 16;

Strangers::Limits WithinDescriptors(Strangers::Limits limits) {
    rlimit files{};
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY)
        limits.most = std::min(limits.most, std::max<size_t>(files.rlim_cur / 4, kFewest));
    return limits;
}

}  // namespace

void Strangers::Place::Leave() {
    Strangers *const strangers = std::exchange(strangers_, nullptr);
    if (strangers == nullptr) return;
    LLDD_ON_IO_THREAD(*strangers->loop_);
    strangers->Forget(id_);
}

void Strangers::Place::SetEnding(Ending ending) {
    if (strangers_ == nullptr) return;
    LLDD_ON_IO_THREAD(*strangers_->loop_);
    const auto found = strangers_->entries_.find(id_);
    if (found != strangers_->entries_.end()) found->second.ending = std::move(ending);
}

void Strangers::Place::Hold(size_t bytes) {
    if (strangers_ == nullptr) return;
    LLDD_ON_IO_THREAD(*strangers_->loop_);
    strangers_->Hold(id_, bytes);
}

Strangers::Strangers(EventLoop *loop, const char *what, const Limits &limits)
    : loop_(loop), what_(what), limits_(WithinDescriptors(limits)) {}

Strangers::~Strangers() {
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        loop_->Cancel(timer_);
    });
}

Strangers::Place Strangers::Admit(uint64_t origin, Ending ending) {
    LLDD_ON_IO_THREAD(*loop_);
    if (entries_.size() >= limits_.most) {
        Say("all places are taken");
        End(WhoMakesRoom(), "made room for another one");
    } else if (entries_.size() < limits_.most / 2) {
        crowded_ = false;
    }
    const uint64_t id = ++last_id_;
    entries_.emplace(id, Entry{origin, Deadline::InMs(limits_.ms), 0, std::move(ending)});
    ++origins_[origin];
    if (timer_ == 0) SetTimer();
    return Place(this, id);
}

Strangers::Entries::iterator Strangers::WhoMakesRoom() {
    size_t most = 0;
    for (const auto &origin : origins_) most = std::max(most, origin.second);
    return std::find_if(entries_.begin(), entries_.end(), [&](const auto &entry) {
        LLDD_ON_IO_THREAD(*loop_);
        return origins_[entry.second.origin] == most;
    });
}

void Strangers::Forget(uint64_t id) {
    const auto found = entries_.find(id);
    if (found == entries_.end()) return;
    bytes_ -= found->second.bytes;
    const auto origin = origins_.find(found->second.origin);
    if (--origin->second == 0) origins_.erase(origin);
    entries_.erase(found);
}

void Strangers::End(Entries::iterator entry, const char *why) {
    const Ending ending = std::move(entry->second.ending);
    Forget(entry->first);
    ending(why);
}

// Of those that hold more than their share, the one that came first.
void Strangers::Hold(uint64_t id, size_t bytes) {
    const auto holder = entries_.find(id);
    if (holder == entries_.end()) return;
    bytes_ = bytes_ - holder->second.bytes + bytes;
    holder->second.bytes = bytes;
    const size_t share = limits_.bytes / limits_.most;
    while (bytes_ > limits_.bytes) {
        Say("all memory for unfinished messages is taken");
        End(std::find_if(entries_.begin(), entries_.end(),
                         [&](const auto &entry) { return entry.second.bytes > share; }),
            "made room for others");
    }
}

void Strangers::SetTimer() {
    timer_ = loop_->PostAt(entries_.begin()->second.deadline, [this] {
        LLDD_ON_IO_THREAD(*loop_);
        EndLate();
    });
}

void Strangers::EndLate() {
    timer_ = 0;
    while (!entries_.empty() && entries_.begin()->second.deadline.passed())
        End(entries_.begin(), "took too long");
    if (timer_ == 0 && !entries_.empty()) SetTimer();
}

void Strangers::Say(const char *why) {
    if (std::exchange(crowded_, true)) return;
    LLDD_LOG(LLDD_LOG_WARNING, "%s: %s by %zu that have proved nothing; the first make room", what_,
             why, entries_.size());
}

}  // namespace lldd
