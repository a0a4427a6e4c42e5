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
#include "engine/traffic.h"
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

    // `totals` outlives this object.
    Transfers(const CacheStore *store, CachesInUse *in_use, const LinkDirectory *links,
              const TransferObservers *observers, TrafficTotals *totals,
              const Mismatches &mismatches, Options options)
        : store_(store),
          in_use_(in_use),
          links_(links),
          observers_(observers),
          totals_(totals),
          mismatches_(mismatches),
          options_(options) {
        totals_->Add(&without_link_);
    }
    ~Transfers() { totals_->Remove(&without_link_); }
    Transfers(const Transfers &) = delete;
    Transfers &operator=(const Transfers &) = delete;

    // Structs have their full size. `key` is that of args. What leaves a notice says so in
    // `scratch`.
    Status Pull(const lldd_pull_args &args, const lldd_cache_key &key, TransferScratch *scratch);
    Status Push(const lldd_push_args &args, const lldd_cache_key &key, TransferScratch *scratch,
                uint32_t *layers_done);
    Status TransferLayer(const lldd_transfer_args &args, const lldd_cache_key &key,
                         TransferScratch *scratch);

    // How many cache tables were read from peers.
    uint64_t table_reads() const { return table_reads_.load(std::memory_order_relaxed); }

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
        Link &link;
        const lldd_cache_key *key;
        int64_t cache_id;
        uint32_t layer;
        uint32_t layers;
        const Deadline &deadline;  // of the whole call
    };

    // Once for each transfer, when it has given the turn back.
    void End(Status *status, const Ending &ending, TransferScratch *scratch) const {
        if (!status->ok() || scratch->record != nullptr || observers_->any())
            Tell(status, ending, scratch);
    }
    // Tells the observers, and the caller of a transfer that failed which one it was, and how far it
    // came; when its time was over, how long that is and which option says so.
    void Tell(Status *ended, const Ending &ending, TransferScratch *scratch) const;
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
        LLDD_REQUIRES(link->turn()) {
        bool was_read = false;
        Status status = link->Table(deadline, mismatches_.look_closely(), table, &was_read);
        if (was_read) table_reads_.fetch_add(1, std::memory_order_relaxed);
        return status;
    }
    // Runs a whole call, and counts a failure that End has not seen, because there was no link.
    template <typename Body>
    Status Counted(TransferScratch *scratch, const Body &body) {
        scratch->failure_counted = false;
        Status status = body();
        if (!status.ok() && !scratch->failure_counted)
            without_link_.own.NoteFailure(status, status.text());
        return status;
    }

    const CacheStore *const store_;
    CachesInUse *const in_use_;
    const LinkDirectory *const links_;
    const TransferObservers *const observers_;
    TrafficTotals *const totals_;
    const Mismatches mismatches_;
    const Options options_;
    LinkTraffic without_link_;
    std::atomic<uint64_t> table_reads_{0};
};

}  // namespace lldd
