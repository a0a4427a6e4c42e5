// An engine: its device, pools, caches and links, and the order in which they come and go.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/box.h"
#include "base/event_loop.h"
#include "base/fork.h"
#include "base/mutex.h"
#include "base/status.h"
#include "engine/box_reports.h"
#include "engine/cache_store.h"
#include "engine/call_gate.h"
#include "engine/events.h"
#include "engine/groups.h"
#include "engine/heartbeats.h"
#include "engine/link_acceptor.h"
#include "engine/link_directory.h"
#include "engine/link_initiator.h"
#include "engine/local_copies.h"
#include "engine/notices.h"
#include "engine/owner_service.h"
#include "engine/page_pool.h"
#include "engine/reports.h"
#include "engine/traffic.h"
#include "engine/traffic_times.h"
#include "engine/transfer_record.h"
#include "engine/transfers.h"
#include "engine/unregistrations.h"
#include "runtime/runtime.h"

namespace lldd {

// Every public function but Open and Close is for callers that hold a pass of gate(). Structs have
// their full size.
class Engine {
public:
    static Status Open(const lldd_config &config, std::unique_ptr<Engine> *engine);
    ~Engine();
    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;

    CallGate &gate() { return gate_; }
    // This process is a child of the one that opened the engine: nothing in it may be touched.
    bool in_forked_child() const { return fork_guard_.in_child(); }
    // Interrupts running transfers, waits for running calls, then takes everything down. A second
    // call waits for the first.
    // LLDD_TIMEOUT: it is closed, and the device stays taken; see Device::End.
    Status Close();

    void Describe(lldd_engine_info *info);
    void ReadCounters(lldd_counters *counters) const;
    Status SwitchListener(const char *ip, uint32_t port);

    Status Allocate(const lldd_cache_desc &desc, const std::vector<lldd_cache_key> &keys,
                    int64_t *cache_id, std::vector<uint64_t> *addrs);
    Status Register(const lldd_cache_desc &desc, std::vector<uint64_t> addrs,
                    const std::vector<lldd_cache_key> &keys, bool remote_accessible,
                    int64_t *cache_id);
    Status Deallocate(int64_t cache_id);
    Status Unregister(int64_t cache_id);
    Status RemoveKey(const lldd_cache_key &key);
    Status Remap(const std::vector<lldd_memory> &memory);
    Status JoinGroup(const GroupSpec &spec, uint64_t *comm_id);
    Status LeaveGroup(uint64_t comm_id);
    Status GroupState(uint64_t comm_id, uint32_t *state);

    // Null: there is none.
    Box *box() const { return box_.get(); }
    Notices &notices() { return notices_; }
    // Whether a transfer that left a notice says so by its status.
    bool tells_notices() const { return tells_notices_; }
    const LinkDirectory &links() const { return *directory_; }
    const TrafficTotals &traffic() const { return traffic_; }
    LinkInitiator &initiator() { return *initiator_; }
    Status DropGoneLinks(uint64_t *count);
    Transfers &transfers() { return *transfers_; }
    Events &events() { return *events_; }
    Status OpenEvents(uint32_t capacity, int *fd);
    LocalCopies &copies() { return *copies_; }
    // Raised when the engine is closed.
    const Interruption &closing() const { return closing_; }

private:
    // A pool and what it was made with.
    struct Pool {
        uint64_t base = 0;
        uint64_t size = 0;
        std::unique_ptr<PagePool> pages;
    };

    explicit Engine(const lldd_config &config);
    Status Start(const lldd_config &config);
    void StartLinks(const lldd_config &config);
    Status OpenPool(const char *name, Placement placement, uint64_t size, uint32_t page_shift,
                    Pool *pool);
    Status CheckHasPool(const char *what) const;
    Status CheckTableSize() const;
    void WarnOfBatchDim(const Cache &cache, uint32_t batch_dim_index);
    Pool &PoolOf(Placement placement) {
        return placement == Placement::kDevice ? device_pool_ : host_pool_;
    }
    Deadline SyncDeadline() const;
    // "" if there is no listener.
    std::string ListenText() const LLDD_EXCLUDES(listener_mutex_);
    Status CheckHasGroups() const;
    Status CheckSameListener(const char *ip, uint32_t port) const;

    void AddNotices(std::vector<std::string> notices);

    const uint32_t role_;
    const uint64_t cluster_id_;
    const uint32_t mode_;
    const uint32_t link_style_;
    const int32_t device_id_;
    const uint32_t sync_timeout_ms_;
    const uint32_t peer_timeout_ms_;  // 0: never
    const bool strict_hardware_;
    const bool tells_notices_;

    ForkGuard fork_guard_;
    CallGate gate_;
    Interruption closing_;
    Mutex close_mutex_;
    Notices notices_;
    mutable Mutex listener_mutex_;
    uint32_t listen_port_asked_ LLDD_GUARDED_BY(listener_mutex_) = 0;

    // In the order in which they are made; taken down in the reverse one.
    std::unique_ptr<Box> box_;
    std::shared_ptr<EventLoop> loop_;
    std::unique_ptr<Device> device_;
    Pool device_pool_;
    Pool host_pool_;
    CacheStore store_;
    CachesInUse in_use_;
    TrafficTotals traffic_;
    TransferObservers observers_;
    std::unique_ptr<Unregistrations> unregistrations_;
    std::unique_ptr<OwnerService> owner_;
    std::unique_ptr<LinkDirectory> directory_;
    std::unique_ptr<Events> events_;
    std::unique_ptr<LinkAcceptor> acceptor_;
    std::unique_ptr<LinkInitiator> initiator_;
    std::unique_ptr<Heartbeats> heartbeats_;
    std::unique_ptr<BoxReports> box_reports_;
    std::unique_ptr<Reports> reports_;
    std::unique_ptr<Groups> groups_;
    TrafficTimes traffic_times_;
    std::unique_ptr<Transfers> transfers_;
    std::unique_ptr<LocalCopies> copies_;
};

}  // namespace lldd
