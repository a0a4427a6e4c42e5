// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/tcp_server.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/io_thread.h"

namespace lldd::mock {
namespace {

// After kTurnBytes other handlers of the I/O thread run.
constexpr uint64_t kTurnBytes = 1U << 20;
// What a request counts besides its bytes, so that many small requests also end a turn.
constexpr uint64_t kRequestCost = 4096;
constexpr size_t kMostVectors = 512;
constexpr size_t kScratchBytes = 64U << 10;

// Sent in place of memory that cannot be read.
const char kZeros[kScratchBytes] = {};

ssize_t SendVectors(int fd, iovec *vectors, size_t count) {
    msghdr message{};
    message.msg_iov = vectors;
    message.msg_iovlen = count;
    return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

bool WouldBlock(ssize_t result) { return result < 0 && (errno == EAGAIN || errno == EINTR); }

}  // namespace

TcpServer::TcpServer(std::shared_ptr<EventLoop> loop, const Owner &owner, Fd stream)
    : loop_(std::move(loop)), owner_(owner), stream_(std::move(stream)) {
    token_ = loop_->Watch(stream_.get(), EPOLLIN, [this](uint32_t events) { OnEvent(events); });
    watched_events_ = EPOLLIN;
}

TcpServer::~TcpServer() {
    if (token_ != 0) loop_->Remove(token_);
}

void TcpServer::WatchFor(uint32_t events) {
    if (events == watched_events_) return;
    loop_->Change(token_, events);
    watched_events_ = events;
}

void TcpServer::WatchForPhase() {
    if (mute_) return WatchFor(0);
    WatchFor(phase_ == Phase::kBytesOut || phase_ == Phase::kAnswer ? EPOLLOUT : EPOLLIN);
}

void TcpServer::Mute(bool mute) {
    LLDD_ON_IO_THREAD(*loop_);
    mute_ = mute;
    if (phase_ != Phase::kClosed) WatchForPhase();
}

void TcpServer::OnEvent(uint32_t events) {
    LLDD_ON_IO_THREAD(*loop_);
    // A stream that both ends have ended is not of use to anybody.
    if (mute_ && (events & (EPOLLHUP | EPOLLERR)) == 0) return;
    turn_ = 0;
    Step step = Step::kGoOn;
    while (step == Step::kGoOn && turn_ < kTurnBytes) step = Advance();
    if (step == Step::kClose) {
        phase_ = Phase::kClosed;
        loop_->Remove(token_);
        token_ = 0;
        stream_.Close();
        return;
    }
    WatchForPhase();
}

TcpServer::Step TcpServer::Advance() {
    switch (phase_) {
        case Phase::kHead: return ReadHead();
        case Phase::kRuns: return ReadRuns();
        case Phase::kBytesIn: return ReceiveBytes();
        case Phase::kBytesOut: return SendBytes();
        case Phase::kAnswer: return SendAnswer();
        case Phase::kClosed: break;
    }
    return Step::kClose;
}

TcpServer::Step TcpServer::ReadHead() {
    const ssize_t size = recv(stream_.get(), reinterpret_cast<char *>(&head_) + taken_,
                              sizeof head_ - taken_, MSG_DONTWAIT);
    if (WouldBlock(size)) return Step::kBlocked;
    if (size <= 0) return Step::kClose;
    taken_ += static_cast<uint64_t>(size);
    if (taken_ < sizeof head_) return Step::kGoOn;
    const TcpRequest &request = head_.request;
    if (request.magic != kTcpRequestMagic ||
        (request.operation != kTcpRead && request.operation != kTcpWrite) ||
        request.run_count == 0 || request.run_count > kMostTcpRuns || request.bytes == 0 ||
        request.bytes > kMostTcpBytes) {
        return Step::kClose;
    }
    runs_.resize(request.run_count);
    runs_[0] = head_.first_run;
    taken_ = sizeof(TcpRun);
    phase_ = Phase::kRuns;
    return ReadRuns();
}

TcpServer::Step TcpServer::ReadRuns() {
    const uint64_t all = runs_.size() * sizeof(TcpRun);
    if (taken_ < all) {
        const ssize_t size = recv(stream_.get(), reinterpret_cast<char *>(runs_.data()) + taken_,
                                  all - taken_, MSG_DONTWAIT);
        if (WouldBlock(size)) return Step::kBlocked;
        if (size <= 0) return Step::kClose;
        taken_ += static_cast<uint64_t>(size);
        if (taken_ < all) return Step::kGoOn;
    }
    return BeginRequest();
}

TcpServer::Step TcpServer::BeginRequest() {
    const TcpRequest &request = head_.request;
    uint64_t sum = 0;
    for (const TcpRun &run : runs_) {
        if (run.length == 0 || run.length > request.bytes - sum) return Step::kClose;
        sum += run.length;
    }
    if (sum != request.bytes) return Step::kClose;
    if (!owner_.order->Begin(request.id)) return Step::kClose;
    turn_ += kRequestCost;
    taken_ = 0;
    answered_ = 0;
    announced_ = 0;
    answer_ = {kTcpAnswerMagic, request.id, kTcpDone, 0, 0, 0};
    cursor_ = {runs_.data(), runs_.data() + runs_.size()};
    bytes_left_ = request.bytes;
    for (TcpRun &run : runs_) {
        const uint32_t status = StatusOfRun(&run);
        if (status == kTcpDone) continue;
        Refuse(status, run.addr);
        break;
    }
    if (request.operation == kTcpWrite) {
        phase_ = Phase::kBytesIn;
    } else if (answer_.status != kTcpDone) {
        phase_ = Phase::kAnswer;
    } else {
        announcement_ = answer_;
        announcement_.bytes = request.bytes;
        phase_ = Phase::kBytesOut;
    }
    return Step::kGoOn;
}

void TcpServer::Refuse(uint32_t status, uint64_t addr) {
    answer_.status = status;
    answer_.addr = addr;
}

uint32_t TcpServer::StatusOfRun(TcpRun *run) const {
    RegionName name{run->slot, run->generation};
    const OwnMemory::Claim claim = owner_.memory->Check(owner_.mark, run->addr, run->length, &name);
    run->slot = name.slot;
    run->generation = name.generation;
    switch (claim) {
        case OwnMemory::Claim::kAllowed: return kTcpDone;
        case OwnMemory::Claim::kWithdrawn: return kTcpWithdrawn;
        case OwnMemory::Claim::kUnknown: return kTcpUnknown;
    }
    return kTcpUnknown;
}

// Whether the next runs may still be touched; under the serve lock. If not, the request has failed.
bool TcpServer::LiveUpTo(size_t runs) {
    for (const TcpRun *run = cursor_.next(); run != cursor_.next() + runs; ++run) {
        if (owner_.memory->IsLive({run->slot, run->generation})) continue;
        Refuse(kTcpWithdrawn, run->addr);
        return false;
    }
    return true;
}

// A push that failed says so over the control connection, and so does, by its end, a peer that went:
// that is looked at before bytes are taken that may lie here for long.
TcpServer::Step TcpServer::MayReceive() const {
    if (IsOver() || owner_.peer_gone->load()) return Step::kClose;
    return owner_.streams->Quiet() ? Step::kGoOn : Step::kBlocked;
}

TcpServer::Step TcpServer::ReceiveBytes() {
    const Step allowed = MayReceive();
    if (allowed != Step::kGoOn) return allowed;
    ssize_t size = 0;
    bool direct = false;
    if (answer_.status == kTcpDone) {
        iovec vectors[kMostVectors];
        MutexLock serving(*owner_.serve_lock);
        const size_t count = cursor_.Fill(vectors, kMostVectors, kTurnBytes - turn_);
        direct = LiveUpTo(count);
        if (direct) {
            msghdr message{};
            message.msg_iov = vectors;
            message.msg_iovlen = count;
            size = recvmsg(stream_.get(), &message, MSG_DONTWAIT);
        }
    }
    if (direct && size < 0 && errno == EFAULT) {
        // The bytes are still in the socket.
        Refuse(kTcpFault, cursor_.address());
        direct = false;
    }
    if (!direct) {
        char thrown_away[kScratchBytes];
        size = recv(stream_.get(), thrown_away, std::min<uint64_t>(sizeof thrown_away, bytes_left_),
                    MSG_DONTWAIT);
    }
    if (WouldBlock(size)) return Step::kBlocked;
    if (size <= 0) return Step::kClose;
    const auto moved = static_cast<uint64_t>(size);
    cursor_.Advance(moved);
    bytes_left_ -= moved;
    turn_ += moved;
    if (bytes_left_ == 0) phase_ = Phase::kAnswer;
    return Step::kGoOn;
}

TcpServer::Step TcpServer::SendBytes() {
    iovec vectors[kMostVectors];
    size_t count = 0;
    const uint64_t head = sizeof announcement_ - announced_;
    if (head > 0) vectors[count++] = {reinterpret_cast<char *>(&announcement_) + announced_, head};
    ssize_t size = 0;
    bool direct = false;
    if (answer_.status == kTcpDone) {
        MutexLock serving(*owner_.serve_lock);
        const size_t runs = cursor_.Fill(vectors + count, kMostVectors - 2, kTurnBytes - turn_);
        direct = LiveUpTo(runs);
        if (direct) {
            uint64_t bytes = 0;
            for (size_t i = count; i < count + runs; ++i) bytes += vectors[i].iov_len;
            size_t all = count + runs;
            // The answer is sent together with the last bytes; a fault in these keeps it from being
            // sent.
            if (bytes == bytes_left_) vectors[all++] = {&answer_, sizeof answer_};
            size = SendVectors(stream_.get(), vectors, all);
        }
    }
    if (direct && size < 0 && errno == EFAULT) {
        Refuse(kTcpFault, cursor_.address());
        direct = false;
    }
    if (!direct) {
        uint64_t zeros = std::min<uint64_t>(sizeof kZeros, bytes_left_);
        vectors[count++] = {const_cast<char *>(kZeros), zeros};
        size = SendVectors(stream_.get(), vectors, count);
    }
    if (WouldBlock(size)) return Step::kBlocked;
    if (size <= 0) return Step::kClose;
    auto moved = static_cast<uint64_t>(size);
    const uint64_t of_head = std::min(moved, head);
    announced_ += of_head;
    moved -= of_head;
    const uint64_t of_runs = std::min(moved, bytes_left_);
    cursor_.Advance(of_runs);
    bytes_left_ -= of_runs;
    turn_ += of_runs;
    answered_ = moved - of_runs;
    if (bytes_left_ == 0) phase_ = Phase::kAnswer;
    return Step::kGoOn;
}

TcpServer::Step TcpServer::SendAnswer() {
    if (answered_ < sizeof answer_) {
        iovec rest{reinterpret_cast<char *>(&answer_) + answered_, sizeof answer_ - answered_};
        const ssize_t size = SendVectors(stream_.get(), &rest, 1);
        if (WouldBlock(size)) return Step::kBlocked;
        if (size <= 0) return Step::kClose;
        answered_ += static_cast<uint64_t>(size);
        if (answered_ < sizeof answer_) return Step::kGoOn;
    }
    phase_ = Phase::kHead;
    return Step::kGoOn;
}

}  // namespace lldd::mock
