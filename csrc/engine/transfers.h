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
#include "engine/link_directory.h"
#include "engine/mismatches.h"
#include "engine/plan_pull.h"
#include "engine/plan_push.h"
#include "engine/scratch.h"
#include "engine/transfer_record.h"
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
              const TransferObservers *observers, const Mismatches &mismatches, Options options)
        : store_(store),
          in_use_(in_use),
          links_(links),
          observers_(observers),
          mismatches_(mismatches),
          options_(options) {}
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
        TransferScratch *scratch = nullptr;
        bool pairs_read = false;
        KeyTarget target;        // unless the destination is given by addresses
        uint32_t waited_ms = 0;  // by the caller, before the layer that is sent next
    };

    // A transfer that is over, as far as `scratch` does not have it.
    struct Ending {
        TransferKind kind;
        const Link &link;
        const lldd_cache_key *key;
        int64_t cache_id;
        uint32_t layer;
        uint32_t layers;
        const Deadline &deadline;  // of the whole call
    };

    // Tells the observers, and the caller of a transfer that failed which one it was; when its time
    // was over, how long that is and which option says so. Once for each transfer, after the turn.
    Status End(Status status, const Ending &ending, TransferScratch *scratch) const;
    Status Move(const Moved &moving, const Deadline &deadline, TransferScratch *scratch) const;
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
    Status SendToAddressesInTurn(PushSource *source, Link *link, const Deadline &deadline)
        LLDD_REQUIRES(link->turn());
    Status PushLayer(PushSource *source, const lldd_cache_key &key);
    Status PushLayerInTurn(PushSource *source, const lldd_cache_key &key, Link *link,
                           const Deadline &deadline) LLDD_REQUIRES(link->turn());
    Status ReadTable(Link *link, const Deadline &deadline, const PeerTable **table)
        LLDD_REQUIRES(link->turn());
    void CountPush(Link *link, uint64_t bytes);
    Status Count(Status status);

    const CacheStore *const store_;
    CachesInUse *const in_use_;
    const LinkDirectory *const links_;
    const TransferObservers *const observers_;
    const Mismatches mismatches_;
    const Options options_;
    Counters counters_;
};

}  // namespace lldd
