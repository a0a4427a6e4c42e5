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
#include "ascend/remote.h"
#include "ascend/worker.h"
#include "base/mutex.h"
#include "hixl/hixl.h"
#include "runtime/runtime.h"

namespace lldd::ascend {

// Thread-safe.
class HixlEngine {
public:
    HixlEngine(std::shared_ptr<Context> context, const DeviceOptions &options);
    // Every connection and registration ends.
    ~HixlEngine();
    HixlEngine(const HixlEngine &) = delete;
    HixlEngine &operator=(const HixlEngine &) = delete;

    // See Device::UseAddress. `on_start` runs when there is an engine, until it succeeds.
    Status UseAddress(const std::string &ip, bool listens, const std::function<Status()> &on_start);
    bool started() const;
    // "10.0.0.1:26001"; "" before it is started.
    std::string name() const;

    Status Register(uint64_t addr, uint64_t size, Placement placement, hixl::MemHandle *handle);
    // No connection that knows the memory may be left.
    Status Deregister(hixl::MemHandle handle);
    // The id of the next region: those below are registered.
    void SetNextRegion(uint64_t id) { next_region_.store(id); }

    // For a new link; the connection is made anew before its next use. The engine must have
    // started.
    std::shared_ptr<Remote> Use(const std::string &engine);
    // The link is gone; with its last one the connection goes, and is not made any more: by the
    // deadline, or, if that has passed, soon.
    void Release(const std::shared_ptr<Remote> &remote, const Deadline &deadline);
    // Connects in the background; no thread waits for it.
    void ConnectSoon(const std::shared_ptr<Remote> &remote);

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
    std::map<ge::AscendString, ge::AscendString> options_;
    Mutex start_mutex_;
    bool ready_ LLDD_GUARDED_BY(start_mutex_) = false;
    std::string ip_ LLDD_GUARDED_BY(start_mutex_);

    std::atomic<uint64_t> next_region_{1};

    mutable Mutex mutex_;  // taken before that of a Remote
    std::string name_ LLDD_GUARDED_BY(mutex_);
    std::map<std::string, std::shared_ptr<Remote>> remotes_ LLDD_GUARDED_BY(mutex_);

    std::unique_ptr<hixl::Hixl> hixl_;
    // Connecting to a peer that is slow to answer must not hold up what others wait for.
    std::unique_ptr<Worker> connector_;
    std::unique_ptr<Worker> worker_;
};

}  // namespace lldd::ascend
