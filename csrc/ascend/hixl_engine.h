// The HIXL engine of a device: where it is reached, the memory that it may move, and its connections
// to the engines of peers.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ascend/cann.h"
#include "ascend/hixl_options.h"
#include "ascend/remote.h"
#include "ascend/session.h"
#include "base/mutex.h"
#include "hixl/hixl.h"
#include "runtime/runtime.h"

namespace lldd::ascend {

// Thread-safe.
class HixlEngine {
public:
    HixlEngine(std::shared_ptr<Context> context, const DeviceOptions &options);
    ~HixlEngine();
    HixlEngine(const HixlEngine &) = delete;
    HixlEngine &operator=(const HixlEngine &) = delete;

    // Every connection and registration ends. LLDD_TIMEOUT: HIXL has not returned from a call by the
    // deadline; what it may use must be kept with session().
    Status End(const Deadline &deadline);
    // Null before it is started.
    const std::shared_ptr<HixlSession> &session() const { return session_; }
    // The option BufferPool of HIXL, in which both ends of a link must agree.
    const std::string &buffer_pool() const { return buffer_pool_; }

    // See Device::UseAddress. `on_start` runs when there is an engine, until it succeeds.
    Status UseAddress(const std::string &ip, bool listens, const std::function<Status()> &on_start);
    bool started() const;
    // "10.0.0.1:26001"; "" before it is started.
    std::string name() const;

    Status Register(uint64_t addr, uint64_t size, Placement placement, hixl::MemHandle *handle);
    // HIXL refuses it while a connection knows the memory, and leaves the range out of what later
    // connections learn.
    Status Deregister(hixl::MemHandle handle, const Deadline &deadline);
    // The id of the next region: those below are registered.
    void SetNextRegion(uint64_t id) { next_region_->store(id); }

    // For a new link; the connection is made anew before its next use. The engine must have
    // started.
    std::shared_ptr<Remote> Use(const std::string &engine, std::shared_ptr<Voice> voice);
    // The link is gone; with its last one the connection goes, and is not made any more: by the
    // deadline, or, if that has passed, soon. One whose peer does not answer stays until HIXL ends.
    void Release(const std::shared_ptr<Remote> &remote, const std::shared_ptr<Voice> &voice,
                 const Deadline &deadline);
    // Whether HIXL has a connection to an engine that no link uses any more: it binds the memory that
    // it knows, and moves nothing.
    bool has_abandoned() const;
    // Whether there is any connection, of which HIXL knows memory.
    bool has_connections() const;

    // While it lives, this end is connected to no peer and does not connect.
    class Standstill {
    public:
        explicit Standstill(HixlEngine *engine);
        ~Standstill();
        Standstill(const Standstill &) = delete;
        Standstill &operator=(const Standstill &) = delete;

        // LLDD_TIMEOUT: a transfer is under way.
        Status Begin(const Deadline &deadline);

    private:
        HixlEngine *const engine_;
        std::vector<std::shared_ptr<Remote>> remotes_;
    };

private:
    Status StartLocked(const std::string &ip, bool listens) LLDD_REQUIRES(start_mutex_);
    Status CheckReachableLocked(const std::string &ip) const LLDD_REQUIRES(start_mutex_);
    Status InitializeAt(const std::string &ip, bool *taken);
    void Forget(const std::shared_ptr<Remote> &remote);

    const std::shared_ptr<Context> context_;
    const int32_t device_id_;
    const std::string buffer_pool_;
    HixlOptions options_;
    Mutex start_mutex_;
    bool ready_ LLDD_GUARDED_BY(start_mutex_) = false;
    std::string ip_ LLDD_GUARDED_BY(start_mutex_);

    const std::shared_ptr<std::atomic<uint64_t>> next_region_ =
        std::make_shared<std::atomic<uint64_t>>(1);

    mutable Mutex mutex_;  // taken before that of a Remote
    std::string name_ LLDD_GUARDED_BY(mutex_);
    std::map<std::string, std::shared_ptr<Remote>> remotes_ LLDD_GUARDED_BY(mutex_);

    std::shared_ptr<HixlSession> session_;
};

}  // namespace lldd::ascend
