// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/path_tcp.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "base/log.h"
#include "base/socket.h"

namespace lldd::mock {
namespace {

// Small enough that the owner serves the next one while this one arrives, large enough that heads
// and answers do not count.
constexpr uint64_t kRequestBytes = 1U << 20;
constexpr size_t kMostOutstanding = 8;
constexpr size_t kMostVectors = 512;
constexpr uint64_t kAnswer = sizeof(TcpAnswer);
// How long a failed push goes on waiting for the owner's word that it is over.
constexpr std::chrono::milliseconds kFenceTime{100};

iovec PartOf(void *data, uint64_t size, uint64_t done) {
    return {static_cast<char *>(data) + done, size - done};
}

MoveFailure StreamFailure(int error, uint64_t local) {
    if (error == EFAULT) return {MoveFailure::kLocalFault, error, local};
    if (error == EPIPE || error == ECONNRESET) return {MoveFailure::kClosed, error, 0};
    if (error == ETIMEDOUT || error == EHOSTUNREACH || error == ENETUNREACH)
        return {MoveFailure::kHostSilent, error, 0};
    return {MoveFailure::kSystem, error, 0};
}

}  // namespace

class TcpPath::Moving {
public:
    explicit Moving(TcpPath *path) : path_(path) {
        MutexLock lock(path_->stream_mutex_);
        path_->moving_ = true;
    }
    ~Moving() {
        MutexLock lock(path_->stream_mutex_);
        path_->moving_ = false;
        if (path_->peer_gone_.load()) path_->stream_.Close();
    }
    Moving(const Moving &) = delete;
    Moving &operator=(const Moving &) = delete;

private:
    TcpPath *const path_;
};

void TcpPath::Clear() {
    here_.clear();
    runs_.clear();
    requests_.clear();
    end_ = End::kKnown;
}

void TcpPath::Add(uint64_t here, RegionName region, uint64_t there, uint64_t length) {
    while (length > 0) {
        const uint64_t now = std::min(length, kRequestBytes);
        here_.push_back({here, now});
        runs_.push_back({region.slot, region.generation, there, now});
        here += now;
        there += now;
        length -= now;
    }
}

void TcpPath::CutIntoRequests(Direction direction) {
    read_ = direction == Direction::kRead;
    first_id_ = next_id_;
    requests_.clear();
    heads_.clear();
    Request request;
    for (size_t i = 0; i < runs_.size(); ++i) {
        request.bytes += runs_[i].length;
        ++request.runs;
        const bool full = request.runs == kMostTcpRuns || request.bytes >= kRequestBytes;
        if (!full && i + 1 < runs_.size()) continue;
        requests_.push_back(request);
        heads_.push_back({kTcpRequestMagic, read_ ? kTcpRead : kTcpWrite, next_id_++,
                          static_cast<uint32_t>(request.runs), request.bytes});
        request = {i + 1, 0, 0};
    }
    sent_ = {0, 0, CursorOf(requests_[0])};
    received_ = sent_;
}

RangeCursor<TcpPath::HereRange> TcpPath::CursorOf(const Request &request) const {
    const HereRange *begin = here_.data() + request.first;
    return {begin, begin + request.runs};
}

MoveFailure TcpPath::OpenStream(const Deadline &deadline) {
    Fd stream;
    const Status opened = streams_->OpenStream(deadline, &stream);
    if (!opened.ok()) {
        LLDD_LOG(LLDD_LOG_INFO, "no data stream: %s", opened.text().c_str());
        // The peer may be there: it is this process that lacks descriptors.
        if (OutOfDescriptors(opened.raw()))
            return {MoveFailure::kSystem, static_cast<int>(opened.raw()), 0};
        return {deadline.passed() ? MoveFailure::kTimeout : MoveFailure::kPeerGone, 0, 0};
    }
    MutexLock lock(stream_mutex_);
    stream_ = std::move(stream);
    return {};
}

void TcpPath::DropStream() {
    MutexLock lock(stream_mutex_);
    stream_.Close();
}

void TcpPath::Interrupt() {
    MutexLock lock(stream_mutex_);
    if (!moving_) {
        stream_.Close();
    } else if (stream_) {
        shutdown(stream_.get(), SHUT_RDWR);
    }
}

MoveFailure TcpPath::Move(Direction direction, const Deadline &deadline) {
    const Moving moving(this);
    const uint32_t first_id = next_id_;
    MoveFailure failure = MoveOrRepeat(direction, deadline);
    // What was read late comes to nobody: this thread alone receives.
    const bool may_land = failure.failed() && direction == Direction::kWrite;
    end_ = may_land && next_id_ != first_id ? Fence(deadline) : End::kKnown;
    return failure;
}

uint64_t TcpPath::moved() const {
    uint64_t bytes = 0;
    for (size_t i = 0; i < received_.request && i < requests_.size(); ++i)
        bytes += requests_[i].bytes;
    if (read_ && received_.request < requests_.size() && received_.done > kAnswer)
        bytes += std::min(received_.done - kAnswer, requests_[received_.request].bytes);
    return bytes;
}

// What was written may lie in buffers of both ends, and between them, for as long as it likes.
TcpPath::End TcpPath::Fence(const Deadline &deadline) {
    const auto failed_at = std::min(deadline.when(), Deadline::Clock::now());
    const TcpFence fence{kTcpFenceMagic, next_id_};
    const Status told = streams_->Ask({reinterpret_cast<const char *>(&fence), sizeof fence},
                                      Deadline::At(failed_at + kFenceTime));
    if (told.ok()) return End::kConfirmed;
    LLDD_LOG(LLDD_LOG_INFO, "the end of a push is not confirmed: %s", told.text().c_str());
    return End::kUnconfirmed;
}

MoveFailure TcpPath::MoveOrRepeat(Direction direction, const Deadline &deadline) {
    for (int attempt = 0;; ++attempt) {
        if (peer_gone_.load()) return {MoveFailure::kPeerGone, 0, 0};
        if (deadline.passed()) return {MoveFailure::kTimeout, 0, 0};
        if (!stream_) {
            const MoveFailure failure = OpenStream(deadline);
            if (failure.failed()) return failure;
        }
        CutIntoRequests(direction);
        MoveFailure failure = Exchange(deadline);
        if (!failure.failed()) return {};
        DropStream();
        if (peer_gone_.load()) return {MoveFailure::kPeerGone, 0, 0};
        // While the link stands, the peer may only have been stopped: another stream tells.
        if (failure.kind == MoveFailure::kHostSilent && !deadline.passed()) continue;
        if (failure.kind != MoveFailure::kClosed) return failure;
        // The stream may have been closed while nothing was under way: everything is asked once
        // more.
        if (attempt > 0) return {MoveFailure::kPeerGone, 0, 0};
    }
}

// Each direction goes on until the kernel would block, and then waits in poll(). So a small read is
// three system calls: send, wait, receive.
MoveFailure TcpPath::Exchange(const Deadline &deadline) {
    bool can_send = true;
    bool can_receive = false;
    CallerWatch watch;
    while (received_.request < requests_.size()) {
        if (can_send && WantsToSend()) {
            const MoveFailure failure = SendSome(&can_send);
            if (failure.failed()) return failure;
        }
        if (can_receive) {
            const MoveFailure failure = ReceiveSome(&can_receive);
            if (failure.failed()) return failure;
        }
        if (received_.request == requests_.size()) break;
        // Asked even when bytes flow: a slow peer must not stretch the transfer.
        if (peer_gone_.load(std::memory_order_relaxed)) return {MoveFailure::kPeerGone, 0, 0};
        watch.Look(deadline, Deadline::Clock::now());
        const int ms = deadline.NextLookMs();
        if (ms == 0) return {MoveFailure::kTimeout, 0, 0};
        if (can_receive || (can_send && WantsToSend())) continue;
        pollfd stream{stream_.get(), static_cast<short>(POLLIN | (WantsToSend() ? POLLOUT : 0)), 0};
        const int ready = poll(&stream, 1, ms);
        if (ready < 0 && errno != EINTR) return {MoveFailure::kSystem, errno, 0};
        // An error or the end of the stream is what the next call says.
        can_receive = (stream.revents & ~POLLOUT) != 0;
        can_send = can_send || (stream.revents & POLLOUT) != 0;
    }
    return {};
}

bool TcpPath::WantsToSend() const {
    return sent_.request < requests_.size() && sent_.request - received_.request < kMostOutstanding;
}

// *more: whether the kernel may take more.
MoveFailure TcpPath::SendSome(bool *more) {
    const Request &request = requests_[sent_.request];
    const uint64_t head = HeadBytes(request);
    iovec vectors[kMostVectors];
    size_t count = 0;
    if (sent_.done < sizeof(TcpRequest)) {
        vectors[count++] = PartOf(&heads_[sent_.request], sizeof(TcpRequest), sent_.done);
    }
    if (sent_.done < head) {
        const uint64_t done =
            std::max<uint64_t>(sent_.done, sizeof(TcpRequest)) - sizeof(TcpRequest);
        vectors[count++] = PartOf(&runs_[request.first], request.runs * sizeof(TcpRun), done);
    }
    if (!read_) count += sent_.cursor.Fill(vectors + count, kMostVectors - count, kLargestChunk);
    msghdr message{};
    message.msg_iov = vectors;
    message.msg_iovlen = count;
    const ssize_t size = sendmsg(stream_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (size < 0) {
        *more = errno == EINTR;
        if (errno == EAGAIN || errno == EINTR) return {};
        return StreamFailure(errno, sent_.cursor.done() ? 0 : sent_.cursor.address());
    }
    const uint64_t done = sent_.done + static_cast<uint64_t>(size);
    if (done > head) sent_.cursor.Advance(done - std::max(sent_.done, head));
    sent_.done = done;
    if (done == head + (read_ ? 0 : request.bytes)) {
        ++sent_.request;
        sent_.done = 0;
        if (sent_.request < requests_.size()) sent_.cursor = CursorOf(requests_[sent_.request]);
    }
    return {};
}

// *more: whether the kernel may have more.
MoveFailure TcpPath::ReceiveSome(bool *more) {
    const Request &request = requests_[received_.request];
    // Whether the answer to the next request may lie behind this one's.
    const bool more_behind = sent_.request > received_.request + 1;
    iovec vectors[kMostVectors];
    size_t count = 0;
    const bool first = received_.done < kAnswer;
    if (first) vectors[count++] = PartOf(&answers_[0], kAnswer, received_.done);
    // A refusal has no bytes behind it. So bytes are received into the client's memory only once
    // the first answer is complete, or when no other answer can follow.
    if (read_ && (!first || !more_behind)) {
        count += received_.cursor.Fill(vectors + count, kMostVectors - 3, kLargestChunk);
        uint64_t described = 0;
        for (size_t i = first ? 1 : 0; i < count; ++i) described += vectors[i].iov_len;
        const uint64_t payload_done = first ? 0 : std::min(received_.done - kAnswer, request.bytes);
        if (payload_done + described == request.bytes) {
            const uint64_t done = first ? 0 : received_.done - kAnswer - payload_done;
            vectors[count++] = PartOf(&answers_[1], kAnswer, done);
            if (more_behind) vectors[count++] = PartOf(&answers_[2], kAnswer, 0);
        }
    }
    msghdr message{};
    message.msg_iov = vectors;
    message.msg_iovlen = count;
    const ssize_t size = recvmsg(stream_.get(), &message, MSG_DONTWAIT);
    if (size == 0) return {MoveFailure::kClosed, 0, 0};
    if (size < 0) {
        *more = errno == EINTR;
        if (errno == EAGAIN || errno == EINTR) return {};
        return StreamFailure(errno, received_.cursor.done() ? 0 : received_.cursor.address());
    }
    return TakeAnswers(static_cast<uint64_t>(size));
}

// Accounts for bytes that have arrived in the places that ReceiveSome described: see
// docs/architecture.md, "The TCP path".
MoveFailure TcpPath::TakeAnswers(uint64_t bytes) {
    while (bytes > 0) {
        const Request &request = requests_[received_.request];
        const uint32_t id = first_id_ + static_cast<uint32_t>(received_.request);
        const uint64_t payload = read_ ? request.bytes : 0;
        uint64_t now = 0;
        if (received_.done < kAnswer) {
            now = std::min(bytes, kAnswer - received_.done);
            if (received_.done + now == kAnswer) {
                const MoveFailure failure = LookAtAnswer(answers_[0], id, payload);
                if (failure.failed()) return failure;
            }
        } else if (received_.done < kAnswer + payload) {
            now = std::min(bytes, kAnswer + payload - received_.done);
            received_.cursor.Advance(now);
        } else {
            now = std::min(bytes, 2 * kAnswer + payload - received_.done);
            if (received_.done + now == 2 * kAnswer + payload) {
                const MoveFailure failure = LookAtAnswer(answers_[1], id, 0);
                if (failure.failed()) return failure;
            }
        }
        received_.done += now;
        bytes -= now;
        if (received_.done == AnswerBytes(request)) {
            ++received_.request;
            received_.done = 0;
            if (received_.request < requests_.size()) {
                received_.cursor = CursorOf(requests_[received_.request]);
            }
            answers_[0] = answers_[2];
        }
    }
    return {};
}

MoveFailure TcpPath::LookAtAnswer(const TcpAnswer &answer, uint32_t id,
                                  uint64_t expected_bytes) const {
    if (answer.magic != kTcpAnswerMagic || answer.id != id) return {MoveFailure::kProtocol, 0, 0};
    switch (answer.status) {
        case kTcpDone:
            if (answer.bytes == expected_bytes) return {};
            return {MoveFailure::kProtocol, 0, 0};
        case kTcpWithdrawn: return {MoveFailure::kWithdrawn, 0, answer.addr};
        case kTcpUnknown: return {MoveFailure::kUnknown, 0, answer.addr};
        case kTcpFault: return {MoveFailure::kRemoteFault, EFAULT, answer.addr};
        default: return {MoveFailure::kProtocol, 0, 0};
    }
}

}  // namespace lldd::mock
