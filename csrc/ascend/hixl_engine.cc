// SPDX-License-Identifier: Apache-2.0
#include "ascend/hixl_engine.h"

#include <cstdlib>
#include <utility>

#include "ascend/installed.h"
#include "base/log.h"
#include "base/socket.h"

namespace lldd::ascend {
namespace {

constexpr char kHostIp[] = "LLM_DATADIST_HOST_IP";
// Another program may take the port between the search for a free one and HIXL's use of it.
constexpr int kPortTries = 8;
// For the acceptor's own connection, for which no thread waits.
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

HixlEngine::HixlEngine(std::shared_ptr<Context> context, const DeviceOptions &options)
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

HixlEngine::~HixlEngine() {
    if (connector_ != nullptr) connector_->Finish();
    if (worker_ != nullptr) worker_->Finish();
    const Context::Scope in_context(*context_);
    for (const auto &[engine, remote] : remotes_) {
        const Status dropped = remote->Drop(Deadline::InMs(kDisconnectMs));
        if (!dropped.ok()) LLDD_LOG(LLDD_LOG_WARNING, "%s", dropped.text().c_str());
    }
    if (hixl_ != nullptr) hixl_->Finalize();
}

Status HixlEngine::UseAddress(const std::string &ip, bool listens,
                              const std::function<Status()> &on_start) {
    MutexLock one_at_a_time(start_mutex_);
    if (ready_) return CheckReachableLocked(ip);
    if (!started()) LLDD_RETURN_IF_ERROR(StartLocked(ip, listens));
    if (!started()) return Status::Ok();
    LLDD_RETURN_IF_ERROR(on_start());
    ready_ = true;
    return Status::Ok();
}

// HIXL stays where it began, which may be an address that only this host knows.
Status HixlEngine::CheckReachableLocked(const std::string &ip) const {
    if (!IsLoopback(ip_) || ip.empty() || IsWildcard(ip) || IsLoopback(ip)) return Status::Ok();
    return Failure(
        LLDD_PARAM_INVALID,
        "HIXL is at %s already, where no peer that is reached from %s finds it: set %s, or "
        "make the first link to a peer that is reached from there",
        name().c_str(), ip.c_str(), kHostIp);
}

// Not yet, if no address is known.
Status HixlEngine::StartLocked(const std::string &ip, bool listens) {
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
Status HixlEngine::InitializeAt(const std::string &ip, bool *taken) {
    *taken = false;
    const Status hcomm = OpenHcomm();
    SocketAddress address;
    LLDD_RETURN_IF_ERROR(FindFreePort(ip, &address));
    auto hixl = std::make_unique<hixl::Hixl>();
    const std::string name = address.ToString();
    const Context::Scope in_context(*context_);
    const Status status =
        FromHixl(hixl->Initialize(name.c_str(), options_), "initialize HIXL at " + name);
    if (!status.ok()) {
        Fd socket;
        *taken = !Listen(address, &socket).ok();
        if (hcomm.ok()) return status;
        return Status(status.code(), status.text() + ". " + hcomm.text(), status.raw());
    }
    hixl_ = std::move(hixl);
    connector_ = std::make_unique<Worker>(context_);
    worker_ = std::make_unique<Worker>(context_);
    MutexLock lock(mutex_);
    name_ = name;
    return Status::Ok();
}

bool HixlEngine::started() const { return !name().empty(); }

std::string HixlEngine::name() const {
    MutexLock lock(mutex_);
    return name_;
}

Status HixlEngine::Register(uint64_t addr, uint64_t size, Placement placement,
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

Status HixlEngine::Deregister(hixl::MemHandle handle) {
    const Context::Scope in_context(*context_);
    return FromHixl(hixl_->DeregisterMem(handle), "deregister memory");
}

std::shared_ptr<Remote> HixlEngine::Use(const std::string &engine) {
    MutexLock lock(mutex_);
    std::shared_ptr<Remote> &remote = remotes_[engine];
    if (remote == nullptr) {
        remote = std::make_shared<Remote>(hixl_.get(), worker_.get(), &next_region_, engine);
    }
    remote->AddUser();
    return remote;
}

void HixlEngine::Release(const std::shared_ptr<Remote> &remote, const Deadline &deadline) {
    if (remote->RemoveUser()) return;
    const auto forget = [this, remote] { Forget(remote); };
    if (!deadline.passed()) {
        const Context::Scope in_context(*context_);
        if (remote->End(deadline, forget).ok()) return;
    }
    remote->EndSoon(forget);
}

// A new link may use it by now.
void HixlEngine::Forget(const std::shared_ptr<Remote> &remote) {
    MutexLock lock(mutex_);
    const auto found = remotes_.find(remote->engine());
    if (found != remotes_.end() && found->second == remote && !remote->in_use())
        remotes_.erase(found);
}

void HixlEngine::ConnectSoon(const std::shared_ptr<Remote> &remote) {
    connector_->Post([remote] {
        const Status status = remote->Connect(Deadline::InMs(kBackgroundConnectMs));
        if (!status.ok() && remote->in_use())
            LLDD_LOG(LLDD_LOG_WARNING, "%s", status.text().c_str());
    });
}

// ---- no connection for a while ----

HixlEngine::Standstill::Standstill(HixlEngine *engine) : engine_(engine) {
    MutexLock lock(engine_->mutex_);
    for (const auto &[name, remote] : engine_->remotes_) remotes_.push_back(remote);
    for (const auto &remote : remotes_) remote->Hold();
}

HixlEngine::Standstill::~Standstill() {
    for (const auto &remote : remotes_) remote->GoOn();
}

Status HixlEngine::Standstill::Begin(const Deadline &deadline) {
    const Context::Scope in_context(*engine_->context_);
    Status status;
    for (const auto &remote : remotes_) {
        Status dropped = remote->Drop(deadline);
        if (status.ok()) status = std::move(dropped);
    }
    return status;
}

}  // namespace lldd::ascend
