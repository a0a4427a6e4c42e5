// One end of a link: what of the peer's memory it reaches, and the transfers over HIXL.
//
// An end that withdraws memory (see withdrawals.h), or ends the link, asks the peer over the link's
// control connection, and the peer answers as soon as no transfer of its own is under way and its
// HIXL connection is gone. It does not connect again before the owner has withdrawn the memory. The
// device cannot end the access of a peer that does not answer: then the call returns LLDD_TIMEOUT,
// and the memory must not be used for something else before the peer has gone.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ascend/device_parts.h"
#include "ascend/regions.h"
#include "ascend/remote.h"
#include "ascend/withdrawals.h"
#include "base/mutex.h"
#include "runtime/runtime.h"

namespace lldd::ascend {

class AscendConnection final : public Connection, public MemoryUser {
public:
    AscendConnection(DeviceParts *device, const ConnectionSetup &setup, EndpointData peer);
    ~AscendConnection() override;

    // The initiator's part of Device::Connect.
    Status Dial(const Deadline &deadline);

    Status Confirm() override;
    Status Read(const Run *runs, size_t count, const Deadline &deadline) override;
    Status Write(const Run *runs, size_t count, const Deadline &deadline) override;
    const PathBytes &Moved() const override { return moved_; }
    void ServeStream(Fd stream) override;
    void OnMessage(std::string_view message, std::function<void()> answer) override;
    void Unlinked() override;
    void PeerGone() override;
    void ForgetPeer() override;
    Status Close(const Deadline &deadline) override;
    std::vector<PathDescription> Paths() const override;

    Status Forget(uint64_t region, const Deadline &deadline) override;
    Status StayAway(const Deadline &deadline) override;
    void ComeBack() override;

private:
    // What one call of HIXL moves.
    struct Piece {
        std::shared_ptr<TransferOps> descs;  // shared with a call from which HIXL has not returned
        uint64_t bytes = 0;
        uint64_t newest = 0;            // of the own regions in it
        std::vector<uint64_t> regions;  // of the peer, that it lies in
    };

    Status Transfer(hixl::TransferOp operation, const Run *runs, size_t count,
                    const Deadline &deadline);
    Status Plan(const Run *runs, size_t count);
    void AddToPlan(uint64_t local, uint64_t remote, uint64_t length, uint64_t newest,
                   uint64_t region);
    Status MayMove(const Piece &piece);
    void LeaveRemote(const Deadline &deadline);
    void GoOn();
    Status CheckLinkLocked() const LLDD_REQUIRES(mutex_);
    Status UnreachableLocked(uint64_t remote) const LLDD_REQUIRES(mutex_);
    Status Explain(Status failed, const Deadline &deadline) const;
    Status AskPeer(const std::string &message, const Deadline &deadline) const;

    DeviceParts *const device_;
    StreamProvider *const streams_;
    const bool passive_;
    const bool peer_passive_;
    const std::string peer_name_;
    const ProcessId peer_process_;
    const std::shared_ptr<Voice> voice_;
    const std::shared_ptr<Remote> remote_;
    std::atomic<bool> peer_gone_{false};

    Mutex mutex_;
    Regions reachable_ LLDD_GUARDED_BY(mutex_);              // of the peer
    std::vector<Region> withdrawn_ LLDD_GUARDED_BY(mutex_);  // by the peer
    bool left_by_peer_ LLDD_GUARDED_BY(mutex_) = false;
    // The peer has said that it has left this end's memory, and will not come back.
    bool confirmed_ LLDD_GUARDED_BY(mutex_) = false;
    bool closed_ LLDD_GUARDED_BY(mutex_) = false;
    bool left_remote_ LLDD_GUARDED_BY(mutex_) = false;
    uint64_t holds_ LLDD_GUARDED_BY(mutex_) = 0;  // for the peer, which is withdrawing memory

    // Used by the transfer that is under way; kept so that the next one uses its memory again.
    std::vector<Piece> pieces_;
    size_t num_pieces_ = 0;
    PathBytes moved_{};  // by the last transfer
};

}  // namespace lldd::ascend
