// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "engine/box_events.h"
#include "engine/peer_table.h"

namespace lldd {
namespace {

constexpr uint32_t kDefaultSyncTimeoutMs = 1000;
constexpr uint32_t kDefaultPeerTimeoutMs = 15000;

template <typename T>
T Default(T given, T instead) {
    return given == 0 ? instead : given;
}

bool ChecksWanted() {
    const char *const text = std::getenv("LLM_DATADIST_CHECK");
    return text != nullptr && text[0] != '\0' && std::strcmp(text, "0") != 0;
}

bool TimesWanted() {
    const char *const text = std::getenv("LLM_DATADIST_STATISTICS");
    return text == nullptr || std::strcmp(text, "0") != 0;
}

Status ParseListen(const char *ip, uint32_t port, SocketAddress *address) {
    Status status = SocketAddress::Parse(ip, port, address);
    return status.ok() ? status : std::move(status).WithPrefix("listen_ip_info: ");
}

Status CheckConfig(const lldd_config &config) {
    const auto out_of = [](const char *member, uint64_t value, const char *allowed) {
        return Failure(LLDD_PARAM_INVALID, "%s is %llu, allowed is %s", member, Printable(value),
                       allowed);
    };
    if (config.role < LLDD_ROLE_PROMPT || config.role > LLDD_ROLE_MIX) {
        return out_of("role", config.role, "1 (prompt), 2 (decoder), 3 (mix)");
    }
    if (config.mode > LLDD_MODE_ONE_SIDED)
        return out_of("mode", config.mode, "0 (request), 1 (one-sided)");
    if (config.link_style > LLDD_LINK_STYLE_ONE_WAY) {
        return out_of("link_style", config.link_style, "0 (mutual), 1 (one way)");
    }
    if (config.peer_timeout_ms > INT32_MAX && config.peer_timeout_ms != LLDD_UNSET)
        return out_of("peer_timeout_ms", config.peer_timeout_ms, "0..2147483647, LLDD_UNSET");
    if (config.link_retry_count > 100)
        return out_of("link_retry_count", config.link_retry_count, "1..100");
    const uint32_t known_flags =
        LLDD_CONFIG_STRICT_HARDWARE | LLDD_CONFIG_LISTEN | LLDD_CONFIG_TELL_NOTICES;
    if ((config.flags & ~known_flags) != 0)
        return out_of("flags", config.flags, "a sum of LLDD_CONFIG_*");
    const bool listen = (config.flags & LLDD_CONFIG_LISTEN) != 0;
    if (listen && config.listen_ip == nullptr) {
        return Failure(LLDD_PARAM_INVALID, "listen_ip is missing, LLDD_CONFIG_LISTEN asks for it");
    }
    if (config.link_style == LLDD_LINK_STYLE_ONE_WAY &&
        (!listen || config.mode != LLDD_MODE_ONE_SIDED)) {
        return Failure(LLDD_PARAM_INVALID,
                       "one-way links need a listen address and one-sided mode");
    }
    // Perhaps a secret that begins with a null character: it must not switch authentication off.
    if (config.auth_token != nullptr && config.auth_token[0] == '\0')
        return Failure(LLDD_PARAM_INVALID, "auth_token is empty; null means that there is none");
    return Status::Ok();
}

}  // namespace

Engine::Engine(const lldd_config &config)
    : role_(config.role),
      cluster_id_(config.cluster_id),
      mode_(config.mode),
      link_style_(config.link_style),
      device_id_(config.device_id),
      sync_timeout_ms_(Default(config.sync_timeout_ms, kDefaultSyncTimeoutMs)),
      peer_timeout_ms_(config.peer_timeout_ms == LLDD_UNSET
                           ? 0
                           : Default(config.peer_timeout_ms, kDefaultPeerTimeoutMs)),
      strict_hardware_((config.flags & LLDD_CONFIG_STRICT_HARDWARE) != 0),
      tells_notices_((config.flags & LLDD_CONFIG_TELL_NOTICES) != 0),
      // Only in request mode do peers name places of caches by their address.
      store_(config.mode == LLDD_MODE_REQUEST) {}

Engine::~Engine() {
    const Status closed = Close();
    if (!closed.ok()) LLDD_LOG(LLDD_LOG_WARNING, "%s", closed.text().c_str());
}

// ---- opening, closing ----

Status Engine::Open(const lldd_config &config, std::unique_ptr<Engine> *engine) {
    LLDD_RETURN_IF_ERROR(CheckConfig(config));
    std::unique_ptr<Engine> opened(new Engine(config));
    LLDD_RETURN_IF_ERROR(
        Box::OpenFromEnvironment(config.cluster_id, ThisRuntime().Describe().name, &opened->box_));
    Status started = opened->Start(config);
    BoxOpened(opened->box(), config, opened->ListenText(), started);
    LLDD_RETURN_IF_ERROR(std::move(started));
    *engine = std::move(opened);
    return Status::Ok();
}

Status Engine::Start(const lldd_config &config) {
    SocketAddress listen_address;
    const bool listen = (config.flags & LLDD_CONFIG_LISTEN) != 0;
    if (listen)
        LLDD_RETURN_IF_ERROR(ParseListen(config.listen_ip, config.listen_port, &listen_address));
    loop_ = EventLoop::Acquire();
    DeviceOptions options = DeviceOptions::Of(config);
    options.tell = [this](std::string text) { notices_.Add(std::move(text)); };
    LLDD_RETURN_IF_ERROR(ThisRuntime().OpenDevice(options, &device_));
    LLDD_RETURN_IF_ERROR(device_->UseAddress(listen ? listen_address.ip() : "", listen));
    unregistrations_ = std::make_unique<Unregistrations>(&store_, &in_use_, device_.get(),
                                                         mode_ == LLDD_MODE_REQUEST);
    // Before the listener, so that no peer can connect to a device that lacks its pools.
    LLDD_RETURN_IF_ERROR(OpenPool("device", Placement::kDevice, config.device_pool_size,
                                  config.device_page_shift, &device_pool_));
    Status host = OpenPool("host", Placement::kHost, config.host_pool_size, config.host_page_shift,
                           &host_pool_);
    if (host.code() == LLDD_OUT_OF_MEMORY) return Status(LLDD_FAILED, host.text(), host.raw());
    LLDD_RETURN_IF_ERROR(std::move(host));
    StartLinks(config);
    Transfers::Options transfer_options;
    transfer_options.cluster_id = cluster_id_;
    transfer_options.mode = mode_;
    transfer_options.sync_timeout_ms = sync_timeout_ms_;
    transfer_options.strict_hardware = strict_hardware_;
    LLDD_RETURN_IF_ERROR(VerifyOn(device_.get(), &transfer_options.verified_on));
    transfer_options.has_device_pool = device_pool_.pages != nullptr;
    transfers_ = std::make_unique<Transfers>(
        &store_, &in_use_, directory_.get(), &observers_, &traffic_,
        Mismatches(&notices_, strict_hardware_ || ChecksWanted()), transfer_options);
    observers_.Add(&traffic_times_, TransferObservers::Wants::kEnd, TimesWanted());
    copies_ = std::make_unique<LocalCopies>(&store_, &in_use_, device_.get());
    if (listen) {
        LLDD_RETURN_IF_ERROR(acceptor_->StartListening(listen_address));
        const MutexLock lock(listener_mutex_);
        listen_port_asked_ = config.listen_port;
    }
    LLDD_LOG(LLDD_LOG_INFO, "engine of cluster %llu opened on device %d, listening at %s",
             Printable(cluster_id_), device_id_, listen ? ListenText().c_str() : "no address");
    return Status::Ok();
}

std::string Engine::ListenText() const {
    const MutexLock lock(listener_mutex_);
    const bool listens = acceptor_ != nullptr && acceptor_->listener().listening();
    return listens ? acceptor_->listener().address().ToString() : "";
}

// No peer can link before the listener is started.
void Engine::StartLinks(const lldd_config &config) {
    owner_ = std::make_unique<OwnerService>(loop_.get(), &store_, device_pool_.pages != nullptr);
    LinkOptions link_options;
    link_options.cluster_id = cluster_id_;
    link_options.mode = mode_;
    link_options.link_style = link_style_;
    if (config.auth_token != nullptr) link_options.secret = config.auth_token;
    link_options.closing = &closing_;
    link_options.peer_timeout_ms = peer_timeout_ms_;
    link_options.totals = &traffic_;
    link_options.box = box();
    directory_ = std::make_unique<LinkDirectory>(cluster_id_, link_options.one_way());
    events_ = std::make_unique<Events>(directory_.get(), &observers_);
    link_options.events = events_.get();
    box_reports_ = std::make_unique<BoxReports>(loop_.get(), directory_.get(), box());
    link_options.box_reports = box_reports_.get();
    acceptor_ = std::make_unique<LinkAcceptor>(loop_.get(), device_.get(), directory_.get(),
                                               owner_.get(), &notices_, link_options);
    initiator_ =
        std::make_unique<LinkInitiator>(loop_.get(), device_.get(), directory_.get(),
                                        acceptor_.get(), owner_.get(), &notices_, link_options);
    heartbeats_ =
        std::make_unique<Heartbeats>(loop_.get(), directory_.get(), box(), peer_timeout_ms_);
    heartbeats_->Start();
    box_reports_->Start();
    reports_ = std::make_unique<Reports>(loop_.get(), directory_.get());
    reports_->Start();
    Groups::Options group_options;
    group_options.cluster_id = cluster_id_;
    group_options.total_time_s = config.link_total_time_s;
    group_options.sync_timeout_ms = sync_timeout_ms_;
    group_options.secret = link_options.secret;
    group_options.closing = &closing_;
    group_options.peer_timeout_ms = peer_timeout_ms_;
    groups_ = std::make_unique<Groups>(loop_.get(), directory_.get(), acceptor_.get(),
                                       initiator_.get(), &notices_, group_options);
    acceptor_->SetGroupHost(groups_.get());
}

Status Engine::OpenPool(const char *name, Placement placement, uint64_t size, uint32_t page_shift,
                        Pool *pool) {
    if (size == 0) return Status::Ok();
    page_shift = Default(page_shift, kDefaultPageShift);
    LLDD_RETURN_IF_ERROR(CheckPoolConfig(name, size, page_shift));
    LLDD_RETURN_IF_ERROR(device_->AllocatePool(placement, size, &pool->base));
    pool->size = size;
    pool->pages = std::make_unique<PagePool>(pool->base, size, page_shift);
    return Status::Ok();
}

Status Engine::Close() {
    MutexLock one_at_a_time(close_mutex_);
    if (!gate_.Close()) return Status::Ok();
    // Calls that wait or move bytes need not be waited for until their deadlines.
    closing_.Raise(InterruptCause::kFinalize);
    if (directory_ != nullptr) {
        for (const auto &link : directory_->Everything())
            link->Interrupt(InterruptCause::kFinalize);
    }
    gate_.WaitUntilEmpty();
    if (events_ != nullptr) events_->Shut();
    // Ctrl-C ends the waits for peers; everything is taken down all the same.
    Interruption call;
    if (box_reports_ != nullptr) box_reports_->Flush();
    if (groups_ != nullptr) groups_->Close(SyncDeadline().InterruptedBy(&call));
    if (initiator_ != nullptr) {
        acceptor_->Close();
        initiator_->EndAll(SyncDeadline().InterruptedBy(&call));
    }
    // The memory of the caches goes with the pools; registrations of the client's memory with the
    // device.
    copies_.reset();
    transfers_.reset();
    groups_.reset();
    heartbeats_.reset();
    reports_.reset();
    initiator_.reset();
    acceptor_.reset();
    events_.reset();
    box_reports_.reset();
    directory_.reset();
    owner_.reset();
    unregistrations_.reset();
    store_.Clear();
    Status ended;
    if (device_ != nullptr) {
        ended = device_->End();
        if (device_pool_.pages != nullptr) device_->FreePool(device_pool_.base);
        if (host_pool_.pages != nullptr) device_->FreePool(host_pool_.base);
        device_.reset();
    }
    loop_.reset();
    BoxCall(box(), "close", 0, ended);
    if (box_ != nullptr) box_->Close();
    LLDD_LOG(LLDD_LOG_INFO, "engine of cluster %llu closed", Printable(cluster_id_));
    return ended;
}

Status Engine::OpenEvents(uint32_t capacity, int *fd) {
    Interruption call(&closing_);
    return events_->Open(capacity, SyncDeadline().InterruptedBy(&call), fd);
}

Deadline Engine::SyncDeadline() const { return Deadline::InMs(sync_timeout_ms_); }

Status Engine::SwitchListener(const char *ip, uint32_t port) {
    if (link_style_ == LLDD_LINK_STYLE_ONE_WAY) return CheckSameListener(ip, port);
    if (directory_->count() != 0) {
        return Failure(LLDD_EXIST_LINK, "there are %llu links; unlink before the role is switched",
                       Printable(directory_->count()));
    }
    SocketAddress address;
    if (ip != nullptr) LLDD_RETURN_IF_ERROR(ParseListen(ip, port, &address));
    MutexLock lock(listener_mutex_);
    if (ip != nullptr && acceptor_->listener().listening() && port == listen_port_asked_)
        return Status::Ok();
    if (ip != nullptr) LLDD_RETURN_IF_ERROR(device_->UseAddress(address.ip(), true));
    acceptor_->StopListening();
    if (ip == nullptr) return Status::Ok();
    LLDD_RETURN_IF_ERROR(acceptor_->StartListening(address));
    listen_port_asked_ = port;
    return Status::Ok();
}

// With one-way links the listener stays what it was at the opening.
Status Engine::CheckSameListener(const char *ip, uint32_t port) const {
    if (ip == nullptr) return Status::Ok();
    SocketAddress address;
    LLDD_RETURN_IF_ERROR(ParseListen(ip, port, &address));
    MutexLock lock(listener_mutex_);
    const SocketAddress &now = acceptor_->listener().address();
    if (address.ip() == now.ip() && (port == listen_port_asked_ || port == now.port()))
        return Status::Ok();
    return Failure(LLDD_FEATURE_NOT_ENABLED,
                   "the listener is at %s and cannot be moved with one-way links",
                   now.ToString().c_str());
}

// ---- introspection ----

void Engine::Describe(lldd_engine_info *info) {
    info->role = role_;
    info->cluster_id = cluster_id_;
    info->mode = mode_;
    info->device_id = device_id_;
    info->num_links = static_cast<uint32_t>(directory_->count());
    info->num_caches = store_.size();
    const auto describe_pool = [](const Pool &pool, uint64_t *size, uint64_t *free) {
        *size = pool.size;
        *free = pool.pages == nullptr ? 0 : pool.pages->free_bytes();
    };
    describe_pool(device_pool_, &info->device_pool_size, &info->device_pool_free);
    describe_pool(host_pool_, &info->host_pool_size, &info->host_pool_free);
    MutexLock lock(listener_mutex_);
    const HelloListener &listener = acceptor_->listener();
    if (!listener.listening()) return;
    info->listen_port = listener.address().port();
    std::snprintf(info->listen_ip, sizeof info->listen_ip, "%s", listener.address().ip().c_str());
}

void Engine::ReadCounters(lldd_counters *counters) const {
    const TrafficNumbers own = traffic_.Own();
    counters->pulls = own.pulls;
    counters->pushes = own.pushes;
    counters->copies = copies_->count();
    counters->failures = own.failed();
    counters->timeouts = own.failures[FailureKind(LLDD_TIMEOUT)];
    counters->bytes_in = own.bytes_pulled();
    counters->bytes_out = own.bytes_pushed();
    const TrafficNumbers peers = traffic_.Peers();
    counters->peer_pulls = peers.pulls;
    counters->peer_pushes = peers.pushes;
    counters->peer_bytes_in = peers.bytes_pushed();
    counters->peer_bytes_out = peers.bytes_pulled();
    counters->peer_failures = peers.failed();
    counters->links_made = directory_->links_made();
    counters->links_lost = directory_->links_lost();
    counters->links_silent = directory_->links_silent();
    counters->table_reads = transfers_->table_reads();
}

void Engine::AddNotices(std::vector<std::string> notices) {
    for (std::string &notice : notices) notices_.Add(std::move(notice));
}

Status Engine::DropGoneLinks(uint64_t *count) {
    Interruption call(&closing_);
    const Deadline deadline = SyncDeadline().InterruptedBy(&call);
    return WithCause(initiator_->DropGone(deadline, count), deadline.cause());
}

// ---- communicators ----

Status Engine::CheckHasGroups() const {
    if (link_style_ != LLDD_LINK_STYLE_ONE_WAY) return Status::Ok();
    return Failure(LLDD_FEATURE_NOT_ENABLED, "there are no communicators with one-way links");
}

Status Engine::JoinGroup(const GroupSpec &spec, uint64_t *comm_id) {
    LLDD_RETURN_IF_ERROR(CheckHasGroups());
    return groups_->Join(spec, comm_id);
}

Status Engine::LeaveGroup(uint64_t comm_id) {
    LLDD_RETURN_IF_ERROR(CheckHasGroups());
    Interruption call(&closing_);
    return groups_->Leave(comm_id, SyncDeadline().InterruptedBy(&call));
}

Status Engine::GroupState(uint64_t comm_id, uint32_t *state) {
    LLDD_RETURN_IF_ERROR(CheckHasGroups());
    return groups_->State(comm_id, state);
}

}  // namespace lldd
