// The HIXL engine of a device, and its connections to the engines of peers.
//
// A HIXL connection serves the engine that made it, knows the memory that either side had
// registered by then, and is lost with the first transfer that fails. So both ends of a link
// connect, a new link connects anew, and so does a transfer that finds the connection lost, or
// needs memory of its own that was registered since.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ascend/cann.h"
#include "ascend/worker.h"
#include "hixl/hixl.h"
#include "runtime/runtime.h"

namespace lldd::ascend {

class Transport;

// The connection to one engine, shared by the links to it. Thread-safe; one thing at a time.
class Remote : public std::enable_shared_from_this<Remote> {
public:
    Remote(Transport *transport, std::string engine)
        : transport_(transport), engine_(std::move(engine)) {}

    // The peer may have registered memory since: the next use connects anew. Does not block.
    void Renew();
    // Connects if it is not connected.
    Status Connect(const Deadline &deadline);
    // `newest` is the highest id of an own region among the descriptors. Connects if it has to.
    // `may_begin` is asked when nothing else is left to wait for; what it forbids is not begun.
    Status Transfer(hixl::TransferOp operation, const std::vector<hixl::TransferOpDesc> &descs,
                    uint64_t newest, const std::function<Status()> &may_begin,
                    const Deadline &deadline);
    // Disconnects; the next use connects again. LLDD_TIMEOUT: a transfer is under way.
    Status Drop(const Deadline &deadline);
    // The same on the worker, as soon as no transfer is under way. `dropped` is called once it is
    // disconnected, which HIXL may refuse. Does not block.
    void DropSoon(std::function<void()> dropped);

    // `then` is called on the worker when no transfer is under way that had begun. Does not block.
    void AfterTransfer(std::function<void()> then) { WhenFree(std::move(then)); }

    // From Hold to as many calls of GoOn nobody connects or begins a transfer: they wait.
    void Hold();
    void GoOn();

    const std::string &engine() const { return engine_; }

private:
    friend class Transport;
    class Turn;

    // On the worker, with the turn.
    void WhenFree(std::function<void()> task);
    void TryToDrop(std::function<void()> dropped, int tries);
    Status ConnectInTurn(uint64_t newest, const Deadline &deadline);
    Status DisconnectInTurn(const Deadline &deadline);

    Transport *const transport_;
    const std::string engine_;
    uint64_t users_ = 0;  // guarded by the transport

    std::mutex mutex_;
    std::condition_variable free_;
    bool busy_ = false;
    uint64_t ends_waiting_ = 0;
    uint64_t holds_ = 0;
    std::vector<std::function<void()>> after_turn_;
    bool stale_ = false;
    // Of whoever has the turn.
    bool connected_ = false;
    bool lost_ = false;   // connected, but not to be used any more
    uint64_t knows_ = 0;  // own regions with lower ids were registered before it was made
};

class Transport {
public:
    Transport(std::shared_ptr<Context> context, const DeviceOptions &options);
    // Every connection and registration ends.
    ~Transport();
    Transport(const Transport &) = delete;
    Transport &operator=(const Transport &) = delete;

    // See Device::UseAddress. `on_start` runs when there is an engine, until it succeeds.
    Status UseAddress(const std::string &ip, bool listens, const std::function<Status()> &on_start);
    bool started() const;
    // "10.0.0.1:26001"; "" before it is started.
    std::string engine() const;

    Status Register(uint64_t addr, uint64_t size, Placement placement, hixl::MemHandle *handle);
    // No connection that knows it may be left.
    Status Deregister(hixl::MemHandle handle);
    // The id of the next region: those below are registered.
    void SetNextRegion(uint64_t id);

    // For a new link: connected anew before it is used next. After Start.
    std::shared_ptr<Remote> Use(const std::string &engine);
    // The link is gone; with its last one the connection goes, and is not made any more: by the
    // deadline, or, if that has passed, soon.
    void Release(const std::shared_ptr<Remote> &remote, const Deadline &deadline);
    // Connects in the background, which nobody waits for.
    void ConnectSoon(const std::shared_ptr<Remote> &remote);

    // While it lives, there is no connection of this end, and none comes.
    class Standstill {
    public:
        explicit Standstill(Transport *transport);
        ~Standstill();
        Standstill(const Standstill &) = delete;
        Standstill &operator=(const Standstill &) = delete;

        // LLDD_TIMEOUT: a transfer is under way.
        Status Begin(const Deadline &deadline);

    private:
        Transport *const transport_;
        std::vector<std::shared_ptr<Remote>> remotes_;
    };

private:
    friend class Remote;

    Status StartAt(const std::string &ip, bool listens);
    Status CheckReachableFrom(const std::string &ip) const;
    Status InitializeAt(const std::string &ip, bool *taken);
    bool InUse(const Remote &remote) const;
    void EndUnused(const std::shared_ptr<Remote> &remote, const Deadline &deadline);

    const std::shared_ptr<Context> context_;
    std::map<ge::AscendString, ge::AscendString> options_;
    std::mutex start_mutex_;
    // Guarded by start_mutex_.
    bool ready_ = false;
    std::string ip_;

    mutable std::mutex mutex_;
    std::string engine_;
    uint64_t next_region_ = 1;
    std::map<std::string, std::shared_ptr<Remote>> remotes_;

    std::unique_ptr<hixl::Hixl> hixl_;
    // Connecting to a peer that is slow to answer must not hold up what others wait for.
    std::unique_ptr<Worker> connector_;
    std::unique_ptr<Worker> worker_;
};

}  // namespace lldd::ascend
