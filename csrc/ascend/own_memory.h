// The memory of this process that HIXL may move: pools, and what the client has registered.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
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
    OwnMemory(std::shared_ptr<Context> context, int32_t device_id, HixlEngine *engine)
        : context_(std::move(context)), device_id_(device_id), engine_(engine) {}
    // Frees the pools; the HIXL engine has ended by then.
    ~OwnMemory();
    OwnMemory(const OwnMemory &) = delete;
    OwnMemory &operator=(const OwnMemory &) = delete;

    // `unsure` says whether a peer that is gone may still be in memory that was withdrawn.
    void AskOfGonePeers(std::function<bool()> unsure) { unsure_ = std::move(unsure); }

    // Once the HIXL engine runs: registers what came before.
    Status RegisterAll();

    Status AllocatePool(Placement placement, uint64_t size, uint64_t *addr);
    Status Register(uint64_t addr, uint64_t size, Placement placement);

    // A region that its owner has withdrawn.
    struct Withdrawn {
        uint64_t id = 0;  // 0: there are more registrations of that range, nothing is to be done
        hixl::MemHandle handle = nullptr;
        uint64_t addr = 0;  // what HIXL knows of it: the range of the handle
        uint64_t size = 0;
        bool in_use = false;  // HIXL keeps it for another range within it
    };
    // Takes one registration back. With the last one the region is withdrawn: peers that connect
    // from now on do not learn of it. LLDD_FAILED: there is none.
    Status Unregister(uint64_t addr, uint64_t size, Withdrawn *withdrawn);
    // The second half, when no link knows the region any more; HIXL may refuse.
    Status Deregister(const Withdrawn &withdrawn, const Deadline &deadline);
    // Called instead of Deregister: HIXL keeps the region until another one is deregistered or
    // registered. `safe`: no peer is in it, so it may be registered again meanwhile.
    void DeregisterLater(const Withdrawn &withdrawn, bool safe);
    // Whether what DeregisterLater got is still to be finished; if so, it is the caller's again.
    bool Resume(const Withdrawn &withdrawn);

    // The answer changes with every registration. For transfers.
    std::shared_ptr<const Regions> Known() const;

private:
    struct Entry {
        Region region;
        Placement placement = Placement::kHost;
        uint64_t count = 0;
        uint64_t span = 0;  // the address of the one that it lies in
    };
    // What HIXL knows: it takes a range only if it is equal to one that it has, or apart from all.
    struct Span {
        uint64_t size = 0;
        Placement placement = Placement::kHost;
        hixl::MemHandle handle = nullptr;
        uint64_t entries = 0;
    };
    struct LeftOver {
        hixl::MemHandle handle = nullptr;
        uint64_t addr = 0;
        uint64_t size = 0;
        bool safe = false;
    };
    using Spans = std::map<uint64_t, Span>;       // by address
    using Range = std::pair<uint64_t, uint64_t>;  // address and size

    Status Add(uint64_t addr, uint64_t size, Placement placement, bool pool);
    // The span that the range is to lie in, made or widened if it has to be.
    Status FindSpan(const AddressRange &range, Placement placement, uint64_t *span)
        LLDD_REQUIRES(change_mutex_);
    Status Join(const AddressRange &range, Placement placement, uint64_t *span)
        LLDD_REQUIRES(change_mutex_);
    std::vector<uint64_t> Overlapping(const AddressRange &range) const LLDD_REQUIRES(change_mutex_);
    Status RegisterSpan(uint64_t addr, Span *span) LLDD_REQUIRES(change_mutex_);
    void DeregisterLeftOver() LLDD_REQUIRES(change_mutex_);
    bool IsInUse(hixl::MemHandle handle) const LLDD_REQUIRES(change_mutex_);
    void PublishLocked() LLDD_REQUIRES(mutex_);

    const std::shared_ptr<Context> context_;
    const int32_t device_id_;
    HixlEngine *const engine_;
    std::function<bool()> unsure_ = [] { return true; };

    // Held for calls of HIXL, which may take long; mutex_ never is.
    Mutex change_mutex_;
    Spans spans_ LLDD_GUARDED_BY(change_mutex_);
    std::vector<LeftOver> left_over_ LLDD_GUARDED_BY(change_mutex_);

    mutable Mutex mutex_;
    std::map<Range, Entry> entries_ LLDD_GUARDED_BY(mutex_);
    std::shared_ptr<const Regions> known_ LLDD_GUARDED_BY(mutex_) = std::make_shared<Regions>();
    uint64_t next_id_ LLDD_GUARDED_BY(mutex_) = 1;
};

}  // namespace lldd::ascend
