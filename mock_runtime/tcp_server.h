// The owner's end of the TCP path: serves a peer's requests on the I/O thread.
//
// Bytes go between the socket and the memory by system calls, which report unmapped memory instead
// of ending the process. Each call is made under the serve lock, after the regions that it touches
// were found live: a thread that withdraws a region and then takes the lock once knows that it is
// not touched any more.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "base/event_loop.h"
#include "base/mutex.h"
#include "mock_runtime/own_memory.h"
#include "mock_runtime/range_cursor.h"
#include "mock_runtime/request_order.h"
#include "mock_runtime/tcp_protocol.h"

namespace lldd::mock {

// One stream. Lives on the I/O thread; destroy it anywhere but in its own handler.
class TcpServer {
public:
    // What the streams of a link have in common; all of it outlives them.
    struct Owner {
        OwnMemory *memory;
        Mutex *serve_lock;
        uint64_t mark;  // that of the snapshot which the peer received
        const std::atomic<bool> *peer_gone;
        StreamProvider *streams;
        RequestOrder *order;
    };

    TcpServer(std::shared_ptr<EventLoop> loop, const Owner &owner, Fd stream);
    ~TcpServer();
    TcpServer(const TcpServer &) = delete;
    TcpServer &operator=(const TcpServer &) = delete;

    // Neither reads nor sends until told otherwise. On the I/O thread.
    void Mute(bool mute);

    // Whether the peer has given up what it asked for last.
    bool IsOver() const { return owner_.order->IsOver(answer_.id); }

private:
    enum class Phase { kHead, kRuns, kBytesIn, kBytesOut, kAnswer, kClosed };
    // What a step of a phase came to.
    enum class Step { kGoOn, kBlocked, kClose };

    void OnEvent(uint32_t events);
    void WatchForPhase();
    Step Advance();
    Step ReadHead();
    Step ReadRuns();
    Step BeginRequest();
    Step ReceiveBytes();
    Step SendBytes();
    Step SendAnswer();
    void Refuse(uint32_t status, uint64_t addr);
    uint32_t StatusOfRun(TcpRun *run) const;
    bool LiveUpTo(size_t runs);
    Step MayReceive() const;
    void WatchFor(uint32_t events);

    std::shared_ptr<EventLoop> loop_;
    const Owner owner_;
    Fd stream_;
    EventLoop::Token token_ = 0;
    uint32_t watched_events_ = 0;
    bool mute_ = false;

    Phase phase_ = Phase::kHead;
    uint64_t taken_ = 0;  // of the head and the runs
    struct {
        TcpRequest request;
        TcpRun first_run;  // every request has one, so a small request comes with one call
    } head_{};
    std::vector<TcpRun> runs_;
    RangeCursor<TcpRun> cursor_;
    uint64_t bytes_left_ = 0;   // of the runs
    TcpAnswer answer_{};        // how it ended
    TcpAnswer announcement_{};  // what precedes the bytes of a read
    uint64_t announced_ = 0;    // bytes of it that are sent
    uint64_t answered_ = 0;
    uint64_t turn_ = 0;  // bytes moved in this turn
};

}  // namespace lldd::mock
