// SPDX-License-Identifier: Apache-2.0
#include "engine/box_reports.h"

#include <algorithm>
#include <utility>

#include "base/io_thread.h"
#include "engine/box_events.h"
#include "engine/wire.h"

namespace lldd {
namespace {

// Of a peer, in a second. No more are told by an end of this code while its ring has its usual size.
constexpr uint64_t kMostPerSecond = 8192;
constexpr int64_t kSecondNs = 1'000'000'000;

bool Understands(const Link &link) {
    return (link.identity().peer_features & wire::kFeatureBox) != 0 && link.established() &&
           !link.peer_gone();
}

}  // namespace

void BoxReports::Start() {
    if (box_ == nullptr) return;
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        Schedule();
    });
}

void BoxReports::Stop() {
    if (box_ == nullptr) return;
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        loop_->Cancel(timer_);
        timer_ = 0;
    });
}

void BoxReports::Schedule() {
    timer_ = loop_->PostAt(Deadline::InMs(kReportMs), [this] {
        LLDD_ON_IO_THREAD(*loop_);
        Schedule();
        Tell();
    });
}

void BoxReports::Flush() {
    if (box_ == nullptr) return;
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        Tell();
    });
}

// The calls that have ended since the last look. What the ring has lost meanwhile is lost here, too.
std::vector<wire::BoxCalls::One> BoxReports::NewCalls() {
    const uint64_t end = box_->Begun(box::kCalls);
    const uint64_t slots = box_->header().rings[box::kCalls].slots;
    std::vector<uint64_t> tickets = std::exchange(under_way_, {});
    next_ = std::max(next_, end > slots ? end - slots : 0);
    for (; next_ < end; ++next_) tickets.push_back(next_);
    std::vector<wire::BoxCalls::One> calls;
    for (const uint64_t ticket : tickets) {
        wire::BoxCalls::One one;
        switch (box_->Read(box::kCalls, ticket, &one.call)) {
            case Box::Slot::kWhole:
                one.number = ticket + 1;
                if (one.call.link != 0) calls.push_back(one);
                break;
            case Box::Slot::kUnderWay: under_way_.push_back(ticket); break;
            case Box::Slot::kLost: break;
        }
    }
    return calls;
}

void BoxReports::Tell() {
    LLDD_ON_IO_THREAD(*loop_);
    if (box_ == nullptr) return;
    std::map<uint32_t, std::vector<wire::BoxCalls::One>> by_link;
    for (const auto &one : NewCalls()) by_link[one.call.link].push_back(one);
    std::map<uint32_t, Peer> still_there;
    const int64_t now = MonotonicNs();
    for (const auto &link : directory_->Everything()) {
        if (!Understands(*link)) continue;
        Peer &peer = still_there[link->number()] = peers_[link->number()];
        const auto &calls = by_link[link->number()];
        const bool clock_is_due = now - peer.measured_ns >= kClockNs && peer.sent_ns == 0;
        for (size_t begin = 0; begin < calls.size() || (begin == 0 && clock_is_due);
             begin += wire::BoxCalls::kMost) {
            wire::BoxCalls message;
            const size_t end = std::min(calls.size(), begin + wire::BoxCalls::kMost);
            message.calls.assign(calls.begin() + static_cast<std::ptrdiff_t>(begin),
                                 calls.begin() + static_cast<std::ptrdiff_t>(end));
            message.sent_ns = peer.sent_ns = MonotonicNs();
            link->channel().Tell(wire::kBoxCalls, message.Encode());
        }
    }
    peers_ = std::move(still_there);
}

bool BoxReports::TakeCalls(Link *link, std::string_view body) {
    LLDD_ON_IO_THREAD(*loop_);
    const int64_t now = MonotonicNs();
    wire::BoxCalls message;
    if (box_ == nullptr || !message.Decode(body)) return false;
    link->channel().Tell(wire::kBoxClock, wire::BoxClock{message.sent_ns, now}.Encode());
    Peer &peer = peers_[link->number()];
    if (now - peer.second_ns >= kSecondNs) {
        peer.second_ns = now;
        peer.taken = 0;
    }
    for (const auto &one : message.calls) {
        if (++peer.taken > kMostPerSecond) break;
        box::Record *const record = box_->Begin(box::kPeers);
        if (record == nullptr) break;
        record->begun.store(one.number, std::memory_order_relaxed);
        record->call = one.call;
        // Who it was is known here, whatever it says.
        record->call.peer = link->peer();
        record->call.link = link->number();
        record->call.told_ns = now;
        Box::Commit(record);
    }
    return true;
}

bool BoxReports::TakeClock(Link *link, std::string_view body) {
    LLDD_ON_IO_THREAD(*loop_);
    const int64_t now = MonotonicNs();
    wire::BoxClock message;
    if (box_ == nullptr || !message.Decode(body)) return false;
    Peer &peer = peers_[link->number()];
    // An answer to another message, or to one that was answered, measures nothing.
    if (peer.sent_ns == 0 || message.sent_ns != peer.sent_ns) return true;
    const int64_t half = (now - std::exchange(peer.sent_ns, 0)) / 2 + 1;
    const bool is_better = half < peer.error_ns - peer.error_ns / 4;
    if (peer.measured_ns != 0 && !is_better && now - peer.measured_ns < kClockNs) return true;
    peer.measured_ns = now;
    peer.error_ns = half;
    JsonObject event;
    event.Text("what", "clock").Number("peer", link->peer()).Number("link", link->number());
    event.Signed("offset_ns", message.clock_ns - (now - half)).Signed("error_ns", half);
    box_->Tell(box::kEvents, event.Done());
    return true;
}

}  // namespace lldd
