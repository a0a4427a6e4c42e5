// Moving blocks and batch entries over links: whose turn, until when, from where to where.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/deadline.h"
#include "base/mutex.h"
#include "base/status.h"
#include "engine/cache_key.h"
#include "engine/cache_store.h"
#include "engine/call_gate.h"
#include "engine/life_log.h"
#include "engine/link_directory.h"
#include "engine/mismatches.h"
#include "engine/plan_pull.h"
#include "engine/plan_push.h"
#include "engine/scratch.h"
#include "engine/verify.h"
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
        Device *verified_on = nullptr;  // see VerifyOn; null: nothing is verified
    };
    struct Counters {
        std::atomic<uint64_t> pulls{0};
        std::atomic<uint64_t> pushes{0};
        std::atomic<uint64_t> failures{0};
        std::atomic<uint64_t> timeouts{0};
        std::atomic<uint64_t> bytes_in{0};
        std::atomic<uint64_t> bytes_out{0};
        std::atomic<uint64_t> table_reads{0};
    };

    Transfers(const CacheStore *store, CachesInUse *in_use, const LinkDirectory *links,
              const Mismatches &mismatches, Options options)
        : store_(store),
          in_use_(in_use),
          links_(links),
          mismatches_(mismatches),
          options_(options),
          log_(options.sync_timeout_ms) {}
    Transfers(const Transfers &) = delete;
    Transfers &operator=(const Transfers &) = delete;

    // Structs have their full size. `key` is that of args. What leaves a notice says so in
    // `scratch`.
    Status Pull(const lldd_pull_args &args, const lldd_cache_key &key, TransferScratch *scratch);
    Status Push(const lldd_push_args &args, const lldd_cache_key &key, TransferScratch *scratch,
                uint32_t *layers_done);
    Status TransferLayer(const lldd_transfer_args &args, const lldd_cache_key &key,
                         TransferScratch *scratch);

    const Counters &counters() const { return counters_; }

private:
    // A push, with the layer that is being sent.
    struct PushSource {
        CacheRef cache;
        PushRequest request;
        BlockPairs *pairs = nullptr;
        bool pairs_read = false;
        KeyTarget target;  // unless the destination is given by addresses
        std::vector<Run> *runs = nullptr;
        bool *notice_left = nullptr;
        uint32_t waited_ms = 0;  // by the caller, before the layer that is sent next
    };

    Status Move(const Moved &moving, const Deadline &deadline) const;
    Status FindLink(uint64_t cluster_id, std::shared_ptr<Link> *link) const;
    // A pull past the checks of the own side.
    struct PullCall {
        const lldd_cache_key &key;
        const PullRequest &request;
        const Cache &local;
    };

    Status PullInTurn(const PullCall &call, Link *link, const Deadline &deadline,
                      TransferScratch *scratch) LLDD_REQUIRES(link->turn());
    // These two leave the runs that they moved in `scratch`.
    Status PullOneSided(const PullCall &call, Link *link, const Deadline &deadline,
                        TransferScratch *scratch) LLDD_REQUIRES(link->turn());
    Status PullByRequest(const PullCall &call, Link *link, const Deadline &deadline,
                         TransferScratch *scratch) LLDD_REQUIRES(link->turn());
    Status CheckRequestSize(const PullCall &call, const BlockPairs &pairs) const;
    Status CheckDirection(const PullCall &call, const CacheShape &source,
                          bool owner_has_device_pool) const;
    void LookAtPull(const PullCall &call, const PeerCache &remote, Link *link,
                    TransferScratch *scratch) const LLDD_REQUIRES(link->turn());
    Status SendToAddresses(PushSource *source);
    Status SendToAddressesInTurn(PushSource *source, Link *link, const Deadline &deadline,
                                 uint64_t *bytes) LLDD_REQUIRES(link->turn());
    Status PushLayer(PushSource *source, const lldd_cache_key &key);
    Status PushLayerInTurn(PushSource *source, const lldd_cache_key &key, Link *link,
                           const Deadline &deadline, uint64_t *bytes) LLDD_REQUIRES(link->turn());
    template <typename What>
    Status Ended(Status status, const Link &link, uint64_t bytes, const Deadline &deadline,
                 const What &what) const;
    Status ReadTable(Link *link, const Deadline &deadline, const PeerTable **table)
        LLDD_REQUIRES(link->turn());
    void CountPush(Link *link, uint64_t bytes);
    Status Count(Status status);

    const CacheStore *const store_;
    CachesInUse *const in_use_;
    const LinkDirectory *const links_;
    const Mismatches mismatches_;
    const Options options_;
    const TransferLog log_;
    Counters counters_;
};

}  // namespace lldd
