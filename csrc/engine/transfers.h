// Moving blocks and batch entries over links: whose turn, until when, from where to where.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "base/deadline.h"
#include "base/status.h"
#include "engine/block_plan.h"
#include "engine/cache_store.h"
#include "engine/call_gate.h"
#include "engine/links.h"
#include "runtime/runtime.h"

namespace lldd {

class Transfers {
public:
    struct Options {
        uint64_t cluster_id = 0;
        uint32_t mode = 0;
        uint32_t sync_timeout_ms = 0;
        bool has_device_pool = false;
        bool strict_hardware = false;
    };
    struct Counters {
        std::atomic<uint64_t> pulls{0};
        std::atomic<uint64_t> pushes{0};
        std::atomic<uint64_t> copies{0};
        std::atomic<uint64_t> failures{0};
        std::atomic<uint64_t> timeouts{0};
        std::atomic<uint64_t> bytes_in{0};
        std::atomic<uint64_t> bytes_out{0};
        std::atomic<uint64_t> table_reads{0};
    };

    Transfers(CacheStore *store, CachesInUse *in_use, Links *links, Device *device, Options options)
        : store_(store), in_use_(in_use), links_(links), device_(device), options_(options) {}
    Transfers(const Transfers &) = delete;
    Transfers &operator=(const Transfers &) = delete;

    // Structs have their full size. `key` is that of args.
    Status Pull(const lldd_pull_args &args, const lldd_cache_key &key);
    Status Push(const lldd_push_args &args, const lldd_cache_key &key, uint32_t *layers_done);
    Status TransferLayer(const lldd_transfer_args &args, const lldd_cache_key &key);

    Status Copy(const lldd_copy_args &args);
    Status CopyBlocks(int64_t cache_id, const uint64_t *src_blocks, const uint64_t *dst_blocks,
                      uint64_t num_pairs);
    Status SwapBlocks(const lldd_swap_args &args);

    const Counters &counters() const { return counters_; }

private:
    // Everything about a push but its layers.
    struct PushSource {
        CacheRef cache;
        PushRequest request;
        BlockPairs *pairs = nullptr;
        bool pairs_read = false;
    };

    Status FindOwn(int64_t cache_id, CacheRef *cache) const;
    Status FindLink(uint64_t cluster_id, std::shared_ptr<Link> *link) const;
    // A pull past the checks of the own side.
    struct PullCall {
        const lldd_cache_key &key;
        const PullRequest &request;
        const BlockPairs &pairs;
        const Cache &local;
    };

    Status PullInTurn(const PullCall &call, Link *link);
    Status PullOneSided(const PullCall &call, Link *link, const Deadline &deadline);
    Status PullByRequest(const PullCall &call, Link *link, const Deadline &deadline);
    Status CheckRequestSize(const PullCall &call) const;
    Status CheckDirection(const PullCall &call, const CacheShape &source,
                          bool owner_has_device_pool) const;
    Status SendToAddresses(const lldd_transfer_args &args, PushSource *source);
    Status SendToAddressesInTurn(const lldd_transfer_args &args, PushSource *source, Link *link,
                                 uint64_t *bytes);
    Status PushLayer(PushSource *source, const lldd_cache_key &key, uint32_t src_layer,
                     uint32_t dst_layer);
    Status PushLayerInTurn(PushSource *source, const lldd_cache_key &key, uint32_t src_layer,
                           uint32_t dst_layer, Link *link, uint64_t *bytes);
    Status ReadTable(Link *link, const Deadline &deadline, const PeerTable **table);
    Status RunCopies(const std::vector<LocalRun> &runs, Placement to, Placement from);
    void CountPush(Link *link, uint64_t bytes);
    Status Count(Status status);

    CacheStore *const store_;
    CachesInUse *const in_use_;
    Links *const links_;
    Device *const device_;
    const Options options_;
    // All pushes and layer transfers of an engine run one at a time.
    std::mutex push_mutex_;
    Counters counters_;
};

}  // namespace lldd
