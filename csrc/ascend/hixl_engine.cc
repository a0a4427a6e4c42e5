// SPDX-License-Identifier: Apache-2.0
#include "ascend/hixl_engine.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "ascend/forked_exit.h"
#include "ascend/installed.h"
#include "base/log.h"
#include "base/socket.h"

namespace lldd::ascend {
namespace {

constexpr char kHostIp[] = "LLM_DATADIST_HOST_IP";
// Another program may take the port between the search for a free one and HIXL's use of it.
constexpr int kPortTries = 8;
// Of calls that have no deadline of their own, and are not known to take long.
constexpr uint64_t kStartMs = 60'000;
constexpr uint64_t kRegisterMs = 60'000;

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
    : context_(std::move(context)),
      device_id_(options.device_id),
      buffer_pool_(BufferPoolOf(options)),
      options_(options, buffer_pool_) {}

// Whoever has not ended it has to keep what HIXL may use: see AscendDevice.
HixlEngine::~HixlEngine() = default;

// Connections that are left belong to peers that are silent or gone, which HIXL is not asked about.
Status HixlEngine::End(const Deadline &deadline) {
    return session_ == nullptr ? Status::Ok() : session_->End(deadline);
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
    SpareForkedChildren();
    const Status hcomm = OpenHcomm();
    SocketAddress address;
    LLDD_RETURN_IF_ERROR(FindFreePort(ip, &address));
    std::map<ge::AscendString, ge::AscendString> given;
    LLDD_RETURN_IF_ERROR(options_.ForHixl(&given));
    const std::string name = address.ToString();
    auto session = std::make_shared<HixlSession>(context_, device_id_);
    Status status = session->Run("initialize HIXL at " + name, Deadline::InMs(kStartMs),
                                 [name, given = std::move(given)](hixl::Hixl &hixl) {
                                     return hixl.Initialize(name.c_str(), given);
                                 });
    if (!status.ok()) {
        (void)session->End(Deadline::InMs(kGraceMs));
        Fd socket;
        *taken = !Listen(address, &socket).ok();
        if (hcomm.ok()) return status;
        return Status(status.code(), status.text() + ". " + hcomm.text(), status.raw());
    }
    session->SetBegun();
    session_ = std::move(session);
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
    // The call owns where its answer goes, should it come late.
    const auto answer = std::make_shared<hixl::MemHandle>(nullptr);
    const auto type = on_device ? hixl::MEM_DEVICE : hixl::MEM_HOST;
    Status status =
        session_->Run(Format("register %llu bytes of %s memory at %#llx", Printable(size),
                             on_device ? "device" : "host", Printable(addr)),
                      Deadline::InMs(kRegisterMs), [memory, type, answer](hixl::Hixl &hixl) {
                          return hixl.RegisterMem(memory, type, *answer);
                      });
    if (status.ok()) *handle = *answer;
    return status;
}

Status HixlEngine::Deregister(hixl::MemHandle handle, const Deadline &deadline) {
    return session_->Run("deregister memory", deadline,
                         [handle](hixl::Hixl &hixl) { return hixl.DeregisterMem(handle); });
}

std::shared_ptr<Remote> HixlEngine::Use(const std::string &engine, std::shared_ptr<Voice> voice) {
    MutexLock lock(mutex_);
    std::shared_ptr<Remote> &remote = remotes_[engine];
    if (remote == nullptr) {
        remote = std::make_shared<Remote>(session_, next_region_, options_.longest_ms(), engine);
    }
    remote->AddUser(std::move(voice));
    return remote;
}

void HixlEngine::Release(const std::shared_ptr<Remote> &remote, const std::shared_ptr<Voice> &voice,
                         const Deadline &deadline) {
    if (remote->RemoveUser(voice)) return;
    // With the lists of the engine's: a thread may run it when the engine has ended.
    const auto forget = [this, remote] { Forget(remote); };
    if (!deadline.passed() && remote->End(deadline, forget).ok()) return;
    remote->EndSoon(forget);
}

// A new link may use it by now.
void HixlEngine::Forget(const std::shared_ptr<Remote> &remote) {
    MutexLock lock(mutex_);
    const auto found = remotes_.find(remote->engine());
    if (found != remotes_.end() && found->second == remote && !remote->in_use())
        remotes_.erase(found);
}

bool HixlEngine::has_abandoned() const {
    MutexLock lock(mutex_);
    return std::any_of(remotes_.begin(), remotes_.end(),
                       [](const auto &each) { return !each.second->in_use(); });
}

bool HixlEngine::has_connections() const {
    MutexLock lock(mutex_);
    return !remotes_.empty();
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
    Status status;
    for (const auto &remote : remotes_) {
        Status dropped = remote->Drop(deadline);
        if (status.ok()) status = std::move(dropped);
    }
    return status;
}

}  // namespace lldd::ascend
