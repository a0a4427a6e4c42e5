// SPDX-License-Identifier: Apache-2.0
#include "ascend/transport.h"

#include <cstdlib>
#include <utility>

#include "base/log.h"
#include "base/socket.h"
#include "runtime/texts.h"

namespace lldd::ascend {
namespace {

constexpr char kHostIp[] = "LLM_DATADIST_HOST_IP";
// Another program may take the port between the search for a free one and HIXL's use of it.
constexpr int kPortTries = 8;
// For disconnects from a peer that may be gone, which whoever calls waits for.
constexpr uint64_t kDisconnectMs = 200;
// Of disconnects that HIXL refuses.
constexpr int kDropTries = 5;
// For the acceptor's own connection, which nobody waits for.
constexpr uint64_t kBackgroundConnectMs = 5000;

bool IsLoopback(const std::string &ip) { return ip == "::1" || ip.compare(0, 4, "127.") == 0; }

bool IsWildcard(const std::string &ip) { return ip == "0.0.0.0" || ip == "::"; }

Status FindFreePort(const std::string &ip, SocketAddress *address) {
    SocketAddress any_port;
    LLDD_RETURN_IF_ERROR(SocketAddress::Parse(ip, 0, &any_port));
    Fd socket;
    LLDD_RETURN_IF_ERROR(Listen(any_port, &socket));
    *address = SocketAddress::OfSocket(socket.get());
    return Status::Ok();
}

}  // namespace

// ---- one connection ----

// Whoever has it may use the connection; others wait. Who wants to end it goes before those who
// want to transfer, who may have one call after the other.
class Remote::Turn {
public:
    // kPromisedEnd: an end that is counted among the waiting ones already.
    enum class For { kUse, kEnd, kPromisedEnd };

    Turn(Remote *remote, const Deadline &deadline, For what) : remote_(remote) {
        std::unique_lock<std::mutex> lock(remote_->mutex_);
        const bool ends = what != For::kUse;
        if (what == For::kEnd) ++remote_->ends_waiting_;
        taken_ = remote_->free_.wait_until(lock, deadline.when(), [&] {
            if (remote_->busy_) return false;
            return ends || (remote_->ends_waiting_ == 0 && remote_->holds_ == 0);
        });
        held_ = remote_->holds_ != 0;
        if (ends) --remote_->ends_waiting_;
        if (taken_) remote_->busy_ = true;
        // Without it the others need not wait for the end any more.
        if (!taken_) remote_->free_.notify_all();
    }
    ~Turn() {
        if (!taken_) return;
        std::vector<std::function<void()>> due;
        {
            std::lock_guard<std::mutex> lock(remote_->mutex_);
            remote_->busy_ = false;
            due.swap(remote_->after_turn_);
            remote_->free_.notify_all();
        }
        for (auto &task : due) remote_->transport_->worker_->Post(std::move(task));
    }
    Turn(const Turn &) = delete;
    Turn &operator=(const Turn &) = delete;

    Status Check() const {
        if (taken_) return Status::Ok();
        return Failure(
            LLDD_TIMEOUT, "the HIXL connection to %s %s", remote_->engine_.c_str(),
            held_ ? "waits for memory that is being taken back" : "is in use by another transfer");
    }

private:
    Remote *const remote_;
    bool taken_ = false;
    bool held_ = false;
};

// Whoever has the turn posts it, so that the worker never waits for a transfer; from now on nobody
// begins another one.
void Remote::WhenFree(std::function<void()> task) {
    auto in_turn = [self = shared_from_this(), task = std::move(task)] {
        bool taken = false;
        {
            const Turn turn(self.get(), Deadline::Passed(), Turn::For::kPromisedEnd);
            taken = turn.Check().ok();
            if (taken) task();
        }
        // Another end came first.
        if (!taken) self->WhenFree(task);
    };
    {
        std::lock_guard<std::mutex> lock(mutex_);
        ++ends_waiting_;
        if (busy_) {
            after_turn_.push_back(std::move(in_turn));
            return;
        }
    }
    transport_->worker_->Post(std::move(in_turn));
}

void Remote::DropSoon(std::function<void()> dropped) { TryToDrop(std::move(dropped), kDropTries); }

void Remote::TryToDrop(std::function<void()> dropped, int tries) {
    WhenFree([this, dropped = std::move(dropped), tries] {
        if (DisconnectInTurn(Deadline::InMs(kDisconnectMs)).ok()) {
            dropped();
        } else if (tries > 1) {
            TryToDrop(dropped, tries - 1);
        }
    });
}

void Remote::Hold() {
    std::lock_guard<std::mutex> lock(mutex_);
    ++holds_;
}

void Remote::GoOn() {
    std::lock_guard<std::mutex> lock(mutex_);
    --holds_;
    free_.notify_all();
}

void Remote::Renew() {
    std::lock_guard<std::mutex> lock(mutex_);
    stale_ = true;
}

Status Remote::Connect(const Deadline &deadline) {
    const Turn turn(this, deadline, Turn::For::kUse);
    LLDD_RETURN_IF_ERROR(turn.Check());
    return ConnectInTurn(0, deadline);
}

Status Remote::ConnectInTurn(uint64_t newest, const Deadline &deadline) {
    bool stale = false;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stale = std::exchange(stale_, false);
    }
    if (connected_ && !lost_ && !stale && newest < knows_) return Status::Ok();
    lost_ = true;
    LLDD_RETURN_IF_ERROR(DisconnectInTurn(deadline));
    {
        // From here on Release waits for the turn.
        std::lock_guard<std::mutex> lock(transport_->mutex_);
        if (users_ == 0)
            return Failure(LLDD_FAILED, "no link to HIXL engine %s is left", engine_.c_str());
        knows_ = transport_->next_region_;
    }
    const std::string what = "connect to HIXL engine " + engine_;
    const auto connect = [&]() -> hixl::Status {
        const int32_t ms = Milliseconds(deadline);
        return ms == 0 ? hixl::TIMEOUT : transport_->hixl_->Connect(engine_.c_str(), ms);
    };
    hixl::Status status = connect();
    if (status == hixl::ALREADY_CONNECTED) {
        // One that was thought lost. It is as old as that.
        connected_ = true;
        LLDD_RETURN_IF_ERROR(DisconnectInTurn(deadline));
        status = connect();
    }
    connected_ = status == hixl::SUCCESS;
    lost_ = false;
    return FromHixl(status, what);
}

// What HIXL refuses to end is there as before.
Status Remote::DisconnectInTurn(const Deadline &deadline) {
    if (!connected_) return Status::Ok();
    const int32_t ms = Milliseconds(deadline);
    const hixl::Status status = transport_->hixl_->Disconnect(engine_.c_str(), ms > 0 ? ms : 1);
    connected_ = status != hixl::SUCCESS && status != hixl::NOT_CONNECTED;
    if (!connected_) return Status::Ok();
    Status failed = FromHixl(status, "disconnect from HIXL engine " + engine_);
    LLDD_LOG(LLDD_LOG_WARNING, "%s", failed.text().c_str());
    return failed;
}

Status Remote::Transfer(hixl::TransferOp operation, const std::vector<hixl::TransferOpDesc> &descs,
                        uint64_t newest, const std::function<Status()> &may_begin,
                        const Deadline &deadline) {
    const Turn turn(this, deadline, Turn::For::kUse);
    LLDD_RETURN_IF_ERROR(turn.Check());
    LLDD_RETURN_IF_ERROR(ConnectInTurn(newest, deadline));
    LLDD_RETURN_IF_ERROR(may_begin());
    const int32_t ms = Milliseconds(deadline);
    if (ms == 0) return NotDoneInTime();
    const hixl::Status status =
        transport_->hixl_->TransferSync(engine_.c_str(), operation, descs, ms);
    Status result =
        FromHixl(status, operation == hixl::READ ? "read from " + engine_ : "write to " + engine_);
    if (ConnectionSurvives(status)) return result;
    // What is lost with the connection must not come late, and the next transfer finds a new one.
    lost_ = true;
    const Status ended = DisconnectInTurn(Deadline::InMs(kDisconnectMs));
    if (ended.ok()) return result;
    return Status(result.code(), result.text() + "; " + ended.text(), result.raw());
}

Status Remote::Drop(const Deadline &deadline) {
    const Turn turn(this, deadline, Turn::For::kEnd);
    LLDD_RETURN_IF_ERROR(turn.Check());
    return DisconnectInTurn(deadline);
}

// ---- the engine ----

Transport::Transport(std::shared_ptr<Context> context, const DeviceOptions &options)
    : context_(std::move(context)) {
    const auto give = [this](const char *key, const std::string &value) {
        options_.emplace(key, value.c_str());
    };
    if (options.rdma_traffic_class != LLDD_UNSET)
        give("RdmaTrafficClass", std::to_string(options.rdma_traffic_class));
    if (options.rdma_service_level != LLDD_UNSET)
        give("RdmaServiceLevel", std::to_string(options.rdma_service_level));
    if (!options.local_comm_res.empty()) give("LocalCommRes", options.local_comm_res);
    if (!options.global_resource_config.empty())
        give("GlobalResourceConfig", options.global_resource_config);
}

Transport::~Transport() {
    if (connector_ != nullptr) connector_->Finish();
    if (worker_ != nullptr) worker_->Finish();
    const Context::Scope in_context(*context_);
    for (const auto &[engine, remote] : remotes_) {
        const Status dropped = remote->Drop(Deadline::InMs(kDisconnectMs));
        if (!dropped.ok()) LLDD_LOG(LLDD_LOG_WARNING, "%s", dropped.text().c_str());
    }
    if (hixl_ != nullptr) hixl_->Finalize();
}

Status Transport::UseAddress(const std::string &ip, bool listens,
                             const std::function<Status()> &on_start) {
    std::lock_guard<std::mutex> one_at_a_time(start_mutex_);
    if (ready_) return CheckReachableFrom(ip);
    if (!started()) LLDD_RETURN_IF_ERROR(StartAt(ip, listens));
    if (!started()) return Status::Ok();
    LLDD_RETURN_IF_ERROR(on_start());
    ready_ = true;
    return Status::Ok();
}

// HIXL stays where it began, which may be an address that only this host knows.
Status Transport::CheckReachableFrom(const std::string &ip) const {
    if (!IsLoopback(ip_) || ip.empty() || IsWildcard(ip) || IsLoopback(ip)) return Status::Ok();
    return Failure(
        LLDD_PARAM_INVALID,
        "HIXL is at %s already, where no peer that is reached from %s finds it: set %s, or "
        "make the first link to a peer that is reached from there",
        engine().c_str(), ip.c_str(), kHostIp);
}

// Not yet, if no address is known.
Status Transport::StartAt(const std::string &ip, bool listens) {
    const char *host = std::getenv(kHostIp);
    const bool has_host = host != nullptr && *host != '\0';
    // What the client chose to listen at goes first; the variable beats a mere route.
    std::string chosen = ip;
    if (has_host && (!listens || IsWildcard(ip))) chosen = host;
    if (chosen.empty()) return Status::Ok();
    if (IsWildcard(chosen)) {
        return Failure(LLDD_PARAM_INVALID,
                       "HIXL needs one address of this host, and %s is all of them: listen at one, "
                       "or set %s",
                       chosen.c_str(), kHostIp);
    }
    bool taken = true;
    Status status;
    for (int i = 0; i < kPortTries && taken; ++i) status = InitializeAt(chosen, &taken);
    ip_ = chosen;
    return status;
}

// *taken: it failed, and the port turns out to be another's.
Status Transport::InitializeAt(const std::string &ip, bool *taken) {
    *taken = false;
    SocketAddress address;
    LLDD_RETURN_IF_ERROR(FindFreePort(ip, &address));
    auto hixl = std::make_unique<hixl::Hixl>();
    const std::string engine = address.ToString();
    const Context::Scope in_context(*context_);
    const Status status =
        FromHixl(hixl->Initialize(engine.c_str(), options_), "initialize HIXL at " + engine);
    if (!status.ok()) {
        Fd socket;
        *taken = !Listen(address, &socket).ok();
        return status;
    }
    hixl_ = std::move(hixl);
    connector_ = std::make_unique<Worker>(context_);
    worker_ = std::make_unique<Worker>(context_);
    std::lock_guard<std::mutex> lock(mutex_);
    engine_ = engine;
    return Status::Ok();
}

bool Transport::started() const { return !engine().empty(); }

std::string Transport::engine() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return engine_;
}

Status Transport::Register(uint64_t addr, uint64_t size, Placement placement,
                           hixl::MemHandle *handle) {
    hixl::MemDesc memory{};
    memory.addr = static_cast<uintptr_t>(addr);
    memory.len = static_cast<size_t>(size);
    const bool on_device = placement == Placement::kDevice;
    const Context::Scope in_context(*context_);
    const hixl::Status status =
        hixl_->RegisterMem(memory, on_device ? hixl::MEM_DEVICE : hixl::MEM_HOST, *handle);
    return FromHixl(status, Format("register %llu bytes of %s memory at %#llx", Printable(size),
                                   on_device ? "device" : "host", Printable(addr)));
}

Status Transport::Deregister(hixl::MemHandle handle) {
    const Context::Scope in_context(*context_);
    return FromHixl(hixl_->DeregisterMem(handle), "deregister memory");
}

void Transport::SetNextRegion(uint64_t id) {
    std::lock_guard<std::mutex> lock(mutex_);
    next_region_ = id;
}

std::shared_ptr<Remote> Transport::Use(const std::string &engine) {
    std::lock_guard<std::mutex> lock(mutex_);
    std::shared_ptr<Remote> &remote = remotes_[engine];
    if (remote == nullptr) remote = std::make_shared<Remote>(this, engine);
    ++remote->users_;
    remote->Renew();
    return remote;
}

void Transport::Release(const std::shared_ptr<Remote> &remote, const Deadline &deadline) {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        if (--remote->users_ != 0) return;
    }
    if (!deadline.passed()) {
        const Context::Scope in_context(*context_);
        const Remote::Turn turn(remote.get(), deadline, Remote::Turn::For::kEnd);
        if (turn.Check().ok()) {
            EndUnused(remote, deadline);
            return;
        }
    }
    remote->WhenFree([this, remote] { EndUnused(remote, Deadline::InMs(kDisconnectMs)); });
}

// A new link may have come meanwhile, or come now: it finds what is left, and connects anew. With
// the turn.
void Transport::EndUnused(const std::shared_ptr<Remote> &remote, const Deadline &deadline) {
    if (InUse(*remote) || !remote->DisconnectInTurn(deadline).ok()) return;
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = remotes_.find(remote->engine_);
    if (remote->users_ == 0 && found != remotes_.end() && found->second == remote)
        remotes_.erase(found);
}

bool Transport::InUse(const Remote &remote) const {
    std::lock_guard<std::mutex> lock(mutex_);
    return remote.users_ != 0;
}

void Transport::ConnectSoon(const std::shared_ptr<Remote> &remote) {
    connector_->Post([this, remote] {
        const Status status = remote->Connect(Deadline::InMs(kBackgroundConnectMs));
        if (!status.ok() && InUse(*remote)) LLDD_LOG(LLDD_LOG_WARNING, "%s", status.text().c_str());
    });
}

// ---- no connection for a while ----

Transport::Standstill::Standstill(Transport *transport) : transport_(transport) {
    std::lock_guard<std::mutex> lock(transport_->mutex_);
    for (const auto &[engine, remote] : transport_->remotes_) remotes_.push_back(remote);
    for (const auto &remote : remotes_) remote->Hold();
}

Transport::Standstill::~Standstill() {
    for (const auto &remote : remotes_) remote->GoOn();
}

Status Transport::Standstill::Begin(const Deadline &deadline) {
    const Context::Scope in_context(*transport_->context_);
    Status status;
    for (const auto &remote : remotes_) {
        Status dropped = remote->Drop(deadline);
        if (status.ok()) status = std::move(dropped);
    }
    return status;
}

}  // namespace lldd::ascend
