// The memory of a peer as one link reaches it: which transport serves which region, and why no
// faster one.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "mock_runtime/channel.h"
#include "mock_runtime/endpoint.h"
#include "mock_runtime/environment.h"
#include "mock_runtime/known_memory.h"
#include "mock_runtime/move.h"
#include "mock_runtime/peer_regions.h"
#include "mock_runtime/region_table.h"
#include "mock_runtime/shared_memory.h"
#include "mock_runtime/transport.h"
#include "runtime/runtime.h"

namespace lldd::mock {

class PeerMemory {
public:
    // The settings outlive it.
    PeerMemory(const Settings &settings, EndpointData peer);

    // ---- while the link is made, on the thread that makes it

    // Whether both ends may use a transport that works within one host only.
    bool WantsChannel() const;
    const ChannelName &channel() const { return peer_.channel; }
    void IsElsewhere(std::string why) { why_not_same_host_ = std::move(why); }
    // What the peer has handed over. LLDD_FAILED: it cannot be mapped.
    Status MapTable(Fd region_table) {
        return PeerRegionTable::Map(std::move(region_table), &table_);
    }
    // pid: the peer's as this process sees it.
    void IsOnThisHost(pid_t pid, std::vector<PoolOffer> *pools);
    // When all that is known.
    void DecidePaths();

    // ---- afterwards

    // Any thread.
    std::vector<PathDescription> Paths() const;
    // How texts name the peer.
    std::string Name() const;
    pid_t pid() const { return pid_; }
    const ProcessIdentity &process() const { return peer_.process; }

    // ---- one transfer at a time

    void BeginTransfer();
    // The region that the address is in; null: none. It belongs to the transfer from now on.
    PeerRegion *Use(uint64_t addr);
    // How a piece of it is reached: not by a mapping whose pages are not in memory, which touching
    // would take from this process. None: not at all.
    std::optional<Transport> TransportOf(const PeerRegion &region, uint64_t addr,
                                         uint64_t length) const;
    // kWithdrawn if a region of the transfer has been withdrawn. The helper threads also ask.
    MoveFailure FirstWithdrawn() const;
    // Why the region has no transport.
    Status Unreachable(const PeerRegion &region, uint64_t addr) const;
    // The peer has forbidden it since the link was made (PR_SET_DUMPABLE): the next transport takes
    // over.
    void CmaIsRefused(int error);

    // No transfer will follow: gives back the regions and the mappings. Paths() stays as it is.
    void Forget();

private:
    struct MappedPool {
        MappedPool(uint32_t pool_number, SharedMemory mapped)
            : number(pool_number), memory(std::move(mapped)), view(present) {}
        const uint32_t number;
        const SharedMemory memory;
        KnownMemory present;  // pages of the mapping that were seen in memory
        KnownMemory::View view;
    };

    Status MapPool(PoolOffer offer);
    // The mapping of a pool's region; null: it is not mapped.
    MappedPool *FindMapped(const Region &region) const;
    bool IsPresent(const PeerRegion &region, uint64_t offset, uint64_t length) const;

    bool IsLive(const PeerRegion &region) const { return !table_ || table_.IsLive(region.name); }
    void DecidePathsLocked() LLDD_REQUIRES(paths_mutex_);
    std::string WhyNot(Transport transport, bool pool, const Region *region) const;
    std::optional<Transport> Choose(bool pool, const Region *region, std::string *reason) const;

    const Settings &settings_;
    EndpointData peer_;

    bool same_host_ = false;
    pid_t pid_ = 0;
    PeerRegionTable table_;
    std::vector<std::unique_ptr<MappedPool>> mapped_pools_;
    std::string why_not_same_host_ = "the link is not complete";
    std::string why_not_mapped_;  // of the last pool that could not be mapped
    std::string why_not_cma_;

    mutable Mutex paths_mutex_;
    PathDescription path_to_pools_ LLDD_GUARDED_BY(paths_mutex_);
    PathDescription path_to_registered_ LLDD_GUARDED_BY(paths_mutex_);

    PeerRegions regions_;
    // Used by the transfer that is under way.
    std::vector<const PeerRegion *> used_;
    uint64_t transfers_ = 0;
};

}  // namespace lldd::mock
