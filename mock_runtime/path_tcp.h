// The asking end of the TCP path: requests go out and answers come in at the same time.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <vector>

#include "base/mutex.h"
#include "mock_runtime/move.h"
#include "mock_runtime/range_cursor.h"
#include "mock_runtime/region_table.h"
#include "mock_runtime/tcp_protocol.h"
#include "runtime/runtime.h"

namespace lldd::mock {

class TcpPath {
public:
    // The stream is opened with the first transfer. `peer_gone` is set before Interrupt is called.
    TcpPath(StreamProvider *streams, const std::atomic<bool> &peer_gone)
        : streams_(streams), peer_gone_(peer_gone) {}

    // What the next Move moves.
    void Clear();
    void Add(uint64_t here, RegionName region, uint64_t there, uint64_t length);
    bool empty() const { return runs_.empty(); }

    // After a failure the stream is dropped, since late bytes may still come on it; the next
    // transfer opens another one, whereupon the owner forgets this one.
    MoveFailure Move(Direction direction, const Deadline &deadline);

    // What the owner knows of the end of the last Move.
    enum class End {
        kKnown,        // nothing of it is under way any more
        kConfirmed,    // it failed, and the owner has said that nothing lands from now on
        kUnconfirmed,  // it failed, and the owner has not said so: bytes of it may still land
    };
    End end() const { return end_; }

    // The bytes of the last Move that have arrived: where this end reads, in its memory; where it
    // writes, in the owner's, which has said so.
    uint64_t moved() const;

    // Makes a running Move look at `peer_gone`, after which the stream is closed. Any thread.
    void Interrupt();

private:
    class Moving;

    struct HereRange {
        uint64_t addr;
        uint64_t length;
    };
    struct Request {
        size_t first = 0;  // run
        size_t runs = 0;
        uint64_t bytes = 0;
    };
    // How far one direction of the stream has come: the request and the bytes of it that are done.
    struct Progress {
        size_t request = 0;
        uint64_t done = 0;
        RangeCursor<HereRange> cursor;
    };

    void CutIntoRequests(Direction direction);
    MoveFailure OpenStream(const Deadline &deadline);
    void DropStream();
    MoveFailure MoveOrRepeat(Direction direction, const Deadline &deadline);
    End Fence(const Deadline &deadline);
    MoveFailure Exchange(const Deadline &deadline);
    bool WantsToSend() const;
    MoveFailure SendSome(bool *more);
    MoveFailure ReceiveSome(bool *more);
    MoveFailure TakeAnswers(uint64_t bytes);
    MoveFailure LookAtAnswer(const TcpAnswer &answer, uint32_t id, uint64_t expected_bytes) const;
    uint64_t HeadBytes(const Request &request) const {
        return sizeof(TcpRequest) + request.runs * sizeof(TcpRun);
    }
    uint64_t AnswerBytes(const Request &request) const {
        return read_ ? 2 * sizeof(TcpAnswer) + request.bytes : sizeof(TcpAnswer);
    }
    RangeCursor<HereRange> CursorOf(const Request &request) const;

    StreamProvider *const streams_;
    const std::atomic<bool> &peer_gone_;
    Mutex stream_mutex_;  // for Interrupt, and for the transfer that opens or drops the stream
    Fd stream_;
    // While it is set, the stream is not Interrupt's to close.
    bool moving_ LLDD_GUARDED_BY(stream_mutex_) = false;

    std::vector<HereRange> here_;
    std::vector<TcpRun> runs_;
    std::vector<Request> requests_;
    std::vector<TcpRequest> heads_;
    bool read_ = true;
    uint32_t next_id_ = 1;
    uint32_t first_id_ = 1;
    End end_ = End::kKnown;
    Progress sent_;
    Progress received_;
    TcpAnswer answers_[3] = {};  // as they come in: the first, the second, and the next one's first
};

}  // namespace lldd::mock
