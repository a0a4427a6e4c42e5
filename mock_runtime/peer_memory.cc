// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/peer_memory.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "mock_runtime/host_memory.h"
#include "mock_runtime/process_vm.h"

namespace lldd::mock {
namespace {

const char *WhatItIs(Transport transport) {
    switch (transport) {
        case Transport::kMapped: return "same host, the pool is mapped here";
        case Transport::kCma: return "same host, process_vm_readv and process_vm_writev";
        case Transport::kTcp: return "a TCP stream";
    }
    return "";
}

}  // namespace

PeerMemory::PeerMemory(const Settings &settings, EndpointData peer)
    : settings_(settings), peer_(std::move(peer)) {
    // There may be a hundred thousand regions at each of hundreds of links, so they are kept once.
    regions_.Assign(std::exchange(peer_.regions, {}));
}

bool PeerMemory::WantsChannel() const {
    const uint32_t both = settings_.transport_bits() & peer_.transports;
    return (both & (TransportBit(Transport::kMapped) | TransportBit(Transport::kCma))) != 0;
}

void PeerMemory::IsOnThisHost(pid_t pid, std::vector<PoolOffer> *pools) {
    same_host_ = true;
    pid_ = pid;
    for (PoolOffer &offer : *pools) {
        const Status mapped = MapPool(std::move(offer));
        if (mapped.ok()) continue;
        why_not_mapped_ = mapped.text();
        LLDD_LOG(LLDD_LOG_WARNING, "a pool of %s is not mapped, and is reached otherwise: %s",
                 Name().c_str(), why_not_mapped_.c_str());
    }
}

// A pool of the peer's endpoint, once: neither its number nor its size alone says which one it is.
Status PeerMemory::MapPool(PoolOffer offer) {
    for (const auto &other : mapped_pools_) {
        if (other->number == offer.number) {
            return Failure(LLDD_FAILED, "the peer handed over two pools with number %u",
                           offer.number);
        }
    }
    bool announced = false;
    regions_.ForEach([&](const PeerRegion &region) {
        announced |= region.pool == offer.number && region.size == offer.size;
    });
    if (!announced) {
        return Failure(LLDD_FAILED, "the peer handed over pool %u, of which it had not told",
                       offer.number);
    }
    SharedMemory memory;
    LLDD_RETURN_IF_ERROR(SharedMemory::Map(std::move(offer.fd), offer.size, true, &memory));
    mapped_pools_.push_back(std::make_unique<MappedPool>(offer.number, std::move(memory)));
    return Status::Ok();
}

PeerMemory::MappedPool *PeerMemory::FindMapped(const Region &region) const {
    for (const auto &pool : mapped_pools_) {
        if (pool->number == region.pool && pool->memory.size() == region.size) return pool.get();
    }
    return nullptr;
}

void PeerMemory::DecidePaths() {
    if (same_host_ && settings_.allows(Transport::kCma)) {
        why_not_cma_ = WhyProcessVmCannot(settings_, pid_, peer_.process);
    }
    MutexLock lock(paths_mutex_);
    DecidePathsLocked();
}

void PeerMemory::CmaIsRefused(int error) {
    std::string instead;
    {
        MutexLock lock(paths_mutex_);
        why_not_cma_ =
            Format("the kernel refuses process_vm calls to the peer since the link was made: %s",
                   strerror(error));
        DecidePathsLocked();
        instead = path_to_registered_.path;
    }
    LLDD_LOG(LLDD_LOG_WARNING, "%s: %s; its registered memory is reached by %s from now on",
             Name().c_str(), why_not_cma_.c_str(), instead.c_str());
}

void PeerMemory::DecidePathsLocked() {
    const auto describe = [this](bool pool, uint32_t memory, PathDescription *description) {
        std::string reason;
        const std::optional<Transport> transport = Choose(pool, nullptr, &reason);
        *description = {memory, transport ? TransportName(*transport) : "none", reason};
        return transport;
    };
    describe(true, LLDD_MEMORY_ALLOCATED, &path_to_pools_);
    const auto to_registered = describe(false, LLDD_MEMORY_REGISTERED, &path_to_registered_);
    regions_.ForEach([&](PeerRegion &peer) {
        // All registered memory is reached alike. Of the pools, some may not be mapped here.
        if (!peer.is_pool()) {
            peer.transport = to_registered;
            return;
        }
        std::string reason;
        peer.transport = Choose(true, &peer, &reason);
        const MappedPool *const mapped = FindMapped(peer);
        peer.mapped_at = mapped == nullptr ? 0 : mapped->memory.address();
    });
}

// "": the transport may serve that kind of memory (that region, if one is named).
std::string PeerMemory::WhyNot(Transport transport, bool pool, const Region *region) const {
    if (!settings_.allows(transport)) return "not in LLM_DATADIST_MOCK_TRANSPORT";
    if ((peer_.transports & TransportBit(transport)) == 0) {
        return "not in the peer's LLM_DATADIST_MOCK_TRANSPORT";
    }
    if (transport == Transport::kTcp) return "";
    if (transport == Transport::kMapped && !pool) return "only pools can be mapped";
    if (!same_host_) return why_not_same_host_;
    if (transport == Transport::kCma) return why_not_cma_;
    if (region == nullptr) return why_not_mapped_;
    if (FindMapped(*region) != nullptr) return "";
    return why_not_mapped_.empty() ? "the peer did not hand over this pool" : why_not_mapped_;
}

std::optional<Transport> PeerMemory::Choose(bool pool, const Region *region,
                                            std::string *reason) const {
    const std::vector<Transport> &order = settings_.transports;
    const auto chosen = std::find_if(order.begin(), order.end(), [&](Transport transport) {
        return WhyNot(transport, pool, region).empty();
    });
    if (chosen != order.end()) *reason = WhatItIs(*chosen);
    for (const Transport faster : kFastestFirst) {
        if (chosen != order.end() && *chosen == faster) break;
        std::string why = WhyNot(faster, pool, region);
        if (why.empty()) why = "comes later in LLM_DATADIST_MOCK_TRANSPORT";
        if (!reason->empty()) *reason += "; ";
        *reason += std::string(TransportName(faster)) + ": " + why;
    }
    if (chosen == order.end()) return std::nullopt;
    return *chosen;
}

std::vector<PathDescription> PeerMemory::Paths() const {
    std::vector<PathDescription> paths;
    {
        MutexLock lock(paths_mutex_);
        paths = {path_to_pools_, path_to_registered_};
    }
    if (settings_.fabric == nullptr) return paths;
    for (PathDescription &path : paths) {
        path.reason += "; transfers take as long as over " + settings_.fabric->Words();
    }
    return paths;
}

std::string PeerMemory::Name() const {
    return same_host_ ? Format("the peer (pid %d)", static_cast<int>(pid_)) : "the peer";
}

void PeerMemory::Forget() {
    used_.clear();
    regions_ = PeerRegions();
    mapped_pools_.clear();
}

// ---------------------------------------------------------------------------- a transfer

void PeerMemory::BeginTransfer() {
    used_.clear();
    ++transfers_;
}

PeerRegion *PeerMemory::Use(uint64_t addr) {
    PeerRegion *const found =
        regions_.Find(addr, [this](const PeerRegion &region) { return IsLive(region); });
    if (found != nullptr && found->used_in != transfers_) {
        found->used_in = transfers_;
        used_.push_back(found);
    }
    return found;
}

MoveFailure PeerMemory::FirstWithdrawn() const {
    for (const PeerRegion *region : used_) {
        if (!IsLive(*region)) return {MoveFailure::kWithdrawn, 0, region->addr};
    }
    return {};
}

std::optional<Transport> PeerMemory::TransportOf(const PeerRegion &region, uint64_t addr,
                                                 uint64_t length) const {
    if (region.transport != Transport::kMapped || IsPresent(region, addr - region.addr, length))
        return region.transport;
    for (const Transport other : settings_.transports) {
        if (other != Transport::kMapped && WhyNot(other, true, &region).empty()) return other;
    }
    return std::nullopt;
}

// What was present once is not asked for again: the owner never takes pages out of a pool. A peer
// that does makes this process pay for what its client transfers, and for no more.
bool PeerMemory::IsPresent(const PeerRegion &region, uint64_t offset, uint64_t length) const {
    MappedPool *const pool = FindMapped(region);
    if (pool == nullptr) return false;
    if (pool->view.Contains(region.mapped_at + offset, length)) return true;
    // In windows, which a pool in use fills, so that a transfer of many blocks asks few times.
    constexpr uint64_t kWindow = 16U << 20;
    const uint64_t first = offset / kWindow * kWindow;
    const uint64_t end = (offset + length - 1) / kWindow * kWindow + kWindow;
    const PageRange window{region.mapped_at + first, std::min(end, region.size) - first};
    const PageRange exact = RoundOutward(region.mapped_at + offset, length);
    for (const PageRange &pages : {window, exact}) {
        uint64_t absent = 0;
        if (!CountAbsent(pages, 0, &absent) || absent != 0) continue;
        pool->present.Add(pages.addr, pages.size);
        return true;
    }
    return false;
}

Status PeerMemory::Unreachable(const PeerRegion &region, uint64_t addr) const {
    std::string reason;
    Choose(region.is_pool(), &region, &reason);
    if (region.transport == Transport::kMapped) reason = "its pages are not in memory";
    return Failure(LLDD_FEATURE_NOT_ENABLED,
                   "no transport that may be used reaches %s memory of %s at %#llx: %s",
                   region.is_pool() ? "pool" : "registered", Name().c_str(), Printable(addr),
                   reason.c_str());
}

}  // namespace lldd::mock
