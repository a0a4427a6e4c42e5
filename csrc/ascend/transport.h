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
#include "engine/runtime.h"
#include "hixl/hixl.h"

namespace lldd::ascend {

class Transport;

// The connection to one engine, shared by the links to it. Thread-safe; one thing at a time.
class Remote {
public:
    Remote(Transport *transport, std::string engine)
        : transport_(transport), engine_(std::move(engine)) {}

    // The peer may have registered memory since: the next use connects anew. Does not block.
    void Renew();
    // Connects if it is not connected.
    Status Connect(const Deadline &deadline);
    // `newest` is the highest id of an own region among the descriptors. Connects if it has to.
    Status Transfer(hixl::TransferOp operation, const std::vector<hixl::TransferOpDesc> &descs,
                    uint64_t newest, const Deadline &deadline);
    // Disconnects; the next use connects again. LLDD_TIMEOUT: a transfer is under way.
    Status Drop(const Deadline &deadline);

    const std::string &engine() const { return engine_; }

private:
    friend class Transport;
    class Turn;

    Status ConnectInTurn(uint64_t newest, const Deadline &deadline);
    void DisconnectInTurn(const Deadline &deadline);

    Transport *const transport_;
    const std::string engine_;
    uint64_t users_ = 0;  // guarded by the transport

    std::mutex mutex_;
    std::condition_variable free_;
    bool busy_ = false;
    uint64_t ends_waiting_ = 0;
    bool stale_ = false;
    // Of whoever has the turn.
    bool connected_ = false;
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
    // The link is gone; with its last one the connection goes, and is not made any more. Does not
    // block.
    void Release(const std::shared_ptr<Remote> &remote);
    bool InUse(const Remote &remote) const;
    // Disconnects from everybody, so that memory can be taken back.
    Status DropAll(const Deadline &deadline);

    // See Worker. After Start.
    void Post(std::function<void()> task);

private:
    friend class Remote;

    Status StartAt(const std::string &ip, bool listens);
    Status InitializeAt(const std::string &ip, bool *taken);
    void EndWhenFree(const std::shared_ptr<Remote> &remote);

    const std::shared_ptr<Context> context_;
    std::map<ge::AscendString, ge::AscendString> options_;
    std::mutex start_mutex_;
    bool ready_ = false;  // guarded by start_mutex_

    mutable std::mutex mutex_;
    std::string engine_;
    uint64_t next_region_ = 1;
    std::map<std::string, std::shared_ptr<Remote>> remotes_;

    std::unique_ptr<hixl::Hixl> hixl_;
    std::unique_ptr<Worker> worker_;
};

}  // namespace lldd::ascend
