// The memory of this process that HIXL may move: pools, and what the client has registered.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "ascend/cann.h"
#include "ascend/hixl_engine.h"
#include "ascend/regions.h"
#include "base/mutex.h"
#include "runtime/runtime.h"

namespace lldd::ascend {

// Thread-safe.
class OwnMemory {
public:
    OwnMemory(std::shared_ptr<Context> context, HixlEngine *engine)
        : context_(std::move(context)), engine_(engine) {}
    // Frees the pools; the HIXL engine has ended by then.
    ~OwnMemory();
    OwnMemory(const OwnMemory &) = delete;
    OwnMemory &operator=(const OwnMemory &) = delete;

    // Once the HIXL engine runs: registers what came before.
    // Not analysed: entries come and go with both locks held, so either is enough to go through
    // them, and handles are written with change_mutex_ held.
    Status RegisterAll() LLDD_NOT_ANALYSED;

    Status AllocatePool(Placement placement, uint64_t size, uint64_t *addr);
    Status Register(uint64_t addr, uint64_t size, Placement placement);

    // A region that its owner has withdrawn.
    struct Withdrawn {
        uint64_t id = 0;  // 0: there are more registrations of that range, nothing is to be done
        hixl::MemHandle handle = nullptr;
    };
    // Takes one registration back. With the last one the region is withdrawn: peers that connect
    // from now on do not learn of it. LLDD_FAILED: there is none.
    Status Unregister(uint64_t addr, uint64_t size, Withdrawn *withdrawn);
    // The second half, when no link knows the region any more; HIXL may refuse.
    Status Deregister(const Withdrawn &withdrawn);
    // Called instead of Deregister: HIXL keeps the region until another one is deregistered.
    void DeregisterLater(uint64_t addr, uint64_t size, const Withdrawn &withdrawn);
    // Gives back what DeregisterLater got for that range, if HIXL still keeps it.
    bool TakeLeftOver(uint64_t addr, uint64_t size, Withdrawn *withdrawn);

    // The answer changes with every registration. For transfers.
    std::shared_ptr<const Regions> Known() const;

private:
    struct Entry {
        Region region;
        Placement placement = Placement::kHost;
        uint64_t count = 0;
        hixl::MemHandle handle = nullptr;
    };
    using Range = std::pair<uint64_t, uint64_t>;  // address and size

    Status Add(uint64_t addr, uint64_t size, Placement placement, bool pool);
    Status RegisterAnew(uint64_t addr, uint64_t size, Placement placement, hixl::MemHandle *handle)
        LLDD_REQUIRES(change_mutex_);
    Status DeregisterInPatience(hixl::MemHandle handle);
    void DeregisterLeftOver() LLDD_REQUIRES(change_mutex_);
    bool IsInUse(hixl::MemHandle handle) const LLDD_REQUIRES(change_mutex_);
    void PublishLocked() LLDD_REQUIRES(mutex_);

    const std::shared_ptr<Context> context_;
    HixlEngine *const engine_;

    // Held for calls of HIXL, which may take long; mutex_ never is.
    Mutex change_mutex_;
    std::vector<std::pair<Range, Withdrawn>> left_over_ LLDD_GUARDED_BY(change_mutex_);

    mutable Mutex mutex_;
    std::map<Range, Entry> entries_ LLDD_GUARDED_BY(mutex_);
    std::shared_ptr<const Regions> known_ LLDD_GUARDED_BY(mutex_) = std::make_shared<Regions>();
    uint64_t next_id_ LLDD_GUARDED_BY(mutex_) = 1;
};

}  // namespace lldd::ascend
