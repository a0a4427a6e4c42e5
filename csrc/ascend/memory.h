// The memory of this process that HIXL may move: pools, and what the client has registered.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "ascend/cann.h"
#include "ascend/regions.h"
#include "ascend/transport.h"
#include "runtime/runtime.h"

namespace lldd::ascend {

// Thread-safe.
class Memory {
public:
    Memory(std::shared_ptr<Context> context, Transport *transport)
        : context_(std::move(context)), transport_(transport) {}
    // Frees the pools; the transport has ended by then.
    ~Memory();
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;

    // Once the transport runs: registers what came before.
    Status RegisterAll();

    Status AllocatePool(Placement placement, uint64_t size, uint64_t *addr);
    Status Register(uint64_t addr, uint64_t size, Placement placement);

    // A registration that its owner takes back.
    struct Taken {
        uint64_t id = 0;  // 0: there are more of that range, nothing is to be done
        hixl::MemHandle handle = nullptr;
    };
    // Takes one back: peers that connect from now on do not learn of it. LLDD_FAILED: there is
    // none.
    Status Take(uint64_t addr, uint64_t size, Taken *taken);
    // The second half, when no link knows it any more; HIXL may refuse.
    Status GiveBack(const Taken &taken);
    // Instead: the region stays HIXL's until another one is given back.
    void LeaveOver(const Taken &taken);

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
    Status RegisterAnew(uint64_t addr, uint64_t size, Placement placement, hixl::MemHandle *handle);
    Status Deregister(hixl::MemHandle handle);
    void GiveBackLeftOver();
    bool IsInUse(hixl::MemHandle handle) const;
    void Publish();

    const std::shared_ptr<Context> context_;
    Transport *const transport_;

    // Held for calls of HIXL, which may take long; the other one never is.
    std::mutex change_mutex_;
    std::vector<hixl::MemHandle> left_over_;

    mutable std::mutex mutex_;
    std::map<Range, Entry> entries_;
    std::shared_ptr<const Regions> known_ = std::make_shared<Regions>();
    uint64_t next_id_ = 1;
};

}  // namespace lldd::ascend
