// libcann_hixl.so of the fake CANN: one-sided transfers over TCP between processes.
//
// As on the real one, a connection serves the side that made it; the other side's part runs on
// threads of its own, which stand for the hardware. What was registered when a connection was made
// is all that it reaches. What the real one leaves undefined is refused here.
//
// SPDX-License-Identifier: Apache-2.0
#include "hixl/hixl.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <list>
#include <mutex>
#include <string>
#include <thread>

#include "fake.h"
#include "wire.h"

namespace hixl {
namespace {

using fake_cann::Bounce;
using fake_cann::Clock;
using fake_cann::CurrentContext;
using fake_cann::kForEver;
using fake_cann::Kind;
using fake_cann::KindOf;
using fake_cann::Name;
using fake_cann::Opaque;
using fake_cann::Receive;
using fake_cann::Sent;
using fake_cann::Socket;

constexpr uint32_t kGreeting = 0x4C584946;
constexpr uint32_t kGoodbye = 2;  // beside READ and WRITE
constexpr size_t kMostConnections = 512;

Status Refuse(Status status, const std::string &text) {
    fake_cann::SetErrorText(("fake CANN: " + text).c_str());
    return status;
}

// A thread without a context is refused; an ordered fault is given back.
Status Enter(const char *point) {
    if (CurrentContext() == nullptr) return Refuse(PARAM_INVALID, "the thread has no context");
    const Status fault = fake_cann::Fault(point);
    return fault == SUCCESS ? SUCCESS : Refuse(fault, std::string("ordered fault at ") + point);
}

Clock::time_point In(int32_t ms) { return Clock::now() + std::chrono::milliseconds(ms); }

Status StatusOf(Sent sent) {
    return sent == Sent::kDone ? SUCCESS : sent == Sent::kLate ? TIMEOUT : FAILED;
}

struct Region {
    uintptr_t addr;
    size_t len;
    MemType type;
    uint64_t order;  // when it was registered

    bool Contains(uintptr_t start, size_t length) const {
        return start >= addr && start - addr < len && length <= len - (start - addr);
    }
};

struct Request {
    uint32_t operation;
    uint32_t count;
};

struct Piece {
    uint64_t addr;
    uint64_t len;
};

// As many bytes of the piece as go through a bounce at once.
size_t Step(size_t left) { return std::min(left, Bounce::kSize); }

bool IsObject(const std::string &text) {
    const size_t first = text.find_first_not_of(" \t\r\n");
    const size_t last = text.find_last_not_of(" \t\r\n");
    return first != std::string::npos && text[first] == '{' && text[last] == '}';
}

bool IsNumber(const std::string &text, int most, int step) {
    if (text.empty() || text.size() > 3) return false;
    if (text.find_first_not_of("0123456789") != std::string::npos) return false;
    const int number = std::stoi(text);
    return number <= most && number % step == 0;
}

bool IsLegal(const std::string &key, const std::string &value) {
    if (key == "RdmaTrafficClass") return IsNumber(value, 255, 4);
    if (key == "RdmaServiceLevel") return IsNumber(value, 7, 1);
    if (key == "GlobalResourceConfig") return IsObject(value);
    if (key == "LocalCommRes") return value.empty() || IsObject(value);
    return key == "BufferPool" || key == "AutoConnect" || key == "EnableUseFabricMem";
}

}  // namespace

class Hixl::Engine {
public:
    ~Engine() { Stop(); }

    // HIXL's calls run on threads that have the context that it was initialized in.
    Status CheckContext() const {
        if (CurrentContext() == context_) return SUCCESS;
        return Refuse(PARAM_INVALID, "the thread has another context than HIXL");
    }

    Status Start(const std::string &local, const std::map<AscendString, AscendString> &options);
    void Stop();
    Status Register(const MemDesc &mem, MemType type, MemHandle *handle);
    Status Deregister(MemHandle handle);
    Status Connect(const std::string &remote, int32_t ms);
    Status Disconnect(const std::string &remote, int32_t ms);
    Status Transfer(const std::string &remote, TransferOp operation,
                    const std::vector<TransferOpDesc> &descs, int32_t ms);

private:
    // Of this side to an engine.
    struct Connection {
        std::mutex mutex;
        Socket socket;
        uint64_t mark = 0;  // what was registered here before it was made
        bool usable = true;
        Bounce bounce;
    };
    // Of a peer to this engine.
    struct Served {
        Socket socket;
        uint64_t mark = 0;
        bool over = false;
        std::thread thread;
    };

    void Accept();
    void Serve(Served *served);
    bool ServeRequest(Served *served, const Request &request, Bounce *bounce);
    // The region that the range lies in, of those registered before the mark; null: none.
    const Region *Find(uintptr_t addr, size_t len, uint64_t mark) const;
    std::shared_ptr<Connection> ConnectionTo(const std::string &remote);
    Status EndConnection(Connection *connection, const std::string &remote, int32_t ms);
    Status CheckDescs(const std::vector<TransferOpDesc> &descs, uint64_t mark) const;
    Status Move(Connection *connection, TransferOp operation,
                const std::vector<TransferOpDesc> &descs, Clock::time_point until);
    Status MoveData(Connection *connection, TransferOp operation,
                    const std::vector<TransferOpDesc> &descs, Clock::time_point until);
    void Reap();

    mutable std::mutex mutex_;
    std::string name_;
    const void *const context_ = CurrentContext();
    std::list<Region> regions_;  // a handle is the address of one
    uint64_t next_order_ = 1;
    std::map<std::string, std::shared_ptr<Connection>> connections_;
    std::list<Served> served_;
    Socket listener_;
    int wake_[2] = {-1, -1};
    std::thread acceptor_;
};

Status Hixl::Engine::Start(const std::string &local,
                           const std::map<AscendString, AscendString> &options) {
    Name name;
    if (!Name::Parse(local, &name)) return Refuse(PARAM_INVALID, "local_engine is " + local);
    // By its bare name: it is there if it is loaded already, or on the path of the process.
    if (dlopen("libhcomm.so", RTLD_NOW) == nullptr)
        return Refuse(FAILED, std::string("no libhcomm.so: ") + dlerror());
    for (const auto &[key, value] : options) {
        if (!IsLegal(key.GetString(), value.GetString()))
            return Refuse(PARAM_INVALID,
                          std::string("option ") + key.GetString() + " is " + value.GetString());
    }
    name_ = local;
    if (name.port == 0) return SUCCESS;
    listener_ = name.Listen();
    if (!listener_.open()) return Refuse(FAILED, "cannot listen at " + local);
    acceptor_ = std::thread([this] { Accept(); });
    return SUCCESS;
}

void Hixl::Engine::Stop() {
    listener_.Interrupt();
    if (acceptor_.joinable()) acceptor_.join();
    listener_.Close();
    connections_.clear();
    {
        std::lock_guard<std::mutex> lock(mutex_);
        for (const Served &served : served_) served.socket.Interrupt();
    }
    for (Served &served : served_) served.thread.join();
    served_.clear();
    regions_.clear();
}

Status Hixl::Engine::Register(const MemDesc &mem, MemType type, MemHandle *handle) {
    const auto *first = mem.reserved;
    const auto *end = mem.reserved + sizeof mem.reserved;
    if (std::any_of(first, end, [](uint8_t byte) { return byte != 0; }))
        return Refuse(PARAM_INVALID, "reserved bytes are not 0");
    if (mem.addr == 0 || mem.len == 0) return Refuse(PARAM_INVALID, "no memory");
    const auto *memory = reinterpret_cast<const void *>(mem.addr);
    const Kind kind = KindOf(memory);
    if (kind != Kind::kUnknown && (kind == Kind::kDevice) != (type == MEM_DEVICE))
        return Refuse(PARAM_INVALID, "memory of the other type");
    if (kind == Kind::kUnknown && type == MEM_DEVICE && Opaque())
        return Refuse(PARAM_INVALID, "device memory that aclrtMalloc did not give");
    if (kind == Kind::kDevice && !fake_cann::InHugePages(memory))
        return Refuse(PARAM_INVALID, "device memory that is not in huge pages");
    std::lock_guard<std::mutex> lock(mutex_);
    for (Region &region : regions_) {
        if (region.addr == mem.addr && region.len == mem.len) {
            *handle = &region;
            return SUCCESS;
        }
    }
    regions_.push_back({mem.addr, mem.len, type, next_order_++});
    *handle = &regions_.back();
    return SUCCESS;
}

// Documented as something to do after disconnecting: here it is refused before.
Status Hixl::Engine::Deregister(MemHandle handle) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = std::find_if(regions_.begin(), regions_.end(),
                                    [&](const Region &region) { return &region == handle; });
    if (found == regions_.end()) return SUCCESS;
    for (const auto &[name, connection] : connections_) {
        if (found->order < connection->mark)
            return Refuse(FAILED, "the memory is in use by the connection to " + name);
    }
    for (const Served &served : served_) {
        if (!served.over && found->order < served.mark)
            return Refuse(FAILED, "the memory is in use by a connection of a peer");
    }
    regions_.erase(found);
    return SUCCESS;
}

const Region *Hixl::Engine::Find(uintptr_t addr, size_t len, uint64_t mark) const {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const Region &region : regions_) {
        if (region.order < mark && region.Contains(addr, len)) return &region;
    }
    return nullptr;
}

// ---- the side that connects ----

Status Hixl::Engine::Connect(const std::string &remote, int32_t ms) {
    Name name;
    if (!Name::Parse(remote, &name) || name.port == 0)
        return Refuse(PARAM_INVALID, "remote_engine is " + remote);
    const Clock::time_point until = In(ms);
    const Clock::time_point begins = In(static_cast<int32_t>(fake_cann::Fault("connect-ms")));
    std::this_thread::sleep_until(std::min(begins, until));
    if (begins > until) return Refuse(TIMEOUT, "ordered delay at connect");
    auto connection = std::make_shared<Connection>();
    {
        std::lock_guard<std::mutex> lock(mutex_);
        if (connections_.count(remote) != 0)
            return Refuse(ALREADY_CONNECTED, "connected to " + remote);
        if (connections_.size() >= kMostConnections)
            return Refuse(RESOURCE_EXHAUSTED, "512 connections");
        connection->mark = next_order_;
    }
    Sent sent = name.Dial(until, &connection->socket);
    uint32_t greeting = kGreeting;
    if (sent == Sent::kDone)
        sent = fake_cann::Send(connection->socket, &greeting, sizeof greeting, until);
    greeting = 0;
    if (sent == Sent::kDone) sent = Receive(connection->socket, &greeting, sizeof greeting, until);
    if (sent == Sent::kDone && greeting != kGreeting) sent = Sent::kBroken;
    if (sent != Sent::kDone) return Refuse(StatusOf(sent), "cannot connect to " + remote);
    std::lock_guard<std::mutex> lock(mutex_);
    if (!connections_.emplace(remote, connection).second)
        return Refuse(ALREADY_CONNECTED, "connected to " + remote);
    return SUCCESS;
}

Status Hixl::Engine::Disconnect(const std::string &remote, int32_t ms) {
    std::shared_ptr<Connection> connection;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        const auto found = connections_.find(remote);
        if (found == connections_.end()) return Refuse(NOT_CONNECTED, "not connected to " + remote);
        connection = found->second;
    }
    const Status ended = EndConnection(connection.get(), remote, ms);
    if (ended != SUCCESS) return ended;
    std::lock_guard<std::mutex> lock(mutex_);
    connections_.erase(remote);
    return SUCCESS;
}

Status Hixl::Engine::EndConnection(Connection *connection, const std::string &remote, int32_t ms) {
    std::lock_guard<std::mutex> lock(connection->mutex);
    if (!connection->usable) return SUCCESS;
    connection->usable = false;
    const Clock::time_point until = In(ms);
    const Request goodbye{kGoodbye, 0};
    uint32_t answer = 0;
    Sent sent = fake_cann::Send(connection->socket, &goodbye, sizeof goodbye, until);
    if (sent == Sent::kDone) sent = Receive(connection->socket, &answer, sizeof answer, until);
    return sent == Sent::kLate ? Refuse(TIMEOUT, "no answer of " + remote) : SUCCESS;
}

std::shared_ptr<Hixl::Engine::Connection> Hixl::Engine::ConnectionTo(const std::string &remote) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = connections_.find(remote);
    return found == connections_.end() ? nullptr : found->second;
}

Status Hixl::Engine::Transfer(const std::string &remote, TransferOp operation,
                              const std::vector<TransferOpDesc> &descs, int32_t ms) {
    const std::shared_ptr<Connection> connection = ConnectionTo(remote);
    if (connection == nullptr) return Refuse(NOT_CONNECTED, "not connected to " + remote);
    std::lock_guard<std::mutex> one_at_a_time(connection->mutex);
    if (!connection->usable)
        return Refuse(FAILED, "the connection has failed: disconnect and connect again");
    Status status = fake_cann::Fault("transfer");
    if (status == SUCCESS)
        status = CheckDescs(descs, connection->mark);
    else
        Refuse(status, "ordered fault at transfer");
    if (status == SUCCESS) status = Move(connection.get(), operation, descs, In(ms));
    const bool recoverable = status == SUCCESS || status == PARAM_INVALID ||
                             status == UNSUPPORTED || status == RESOURCE_EXHAUSTED;
    if (recoverable) return status;
    // The peer is to see it at once, and nothing late may come out of it.
    connection->usable = false;
    connection->socket.Close();
    if (status == NOT_CONNECTED) {
        std::lock_guard<std::mutex> lock(mutex_);
        connections_.erase(remote);
    }
    return status;
}

// Memory that was not registered in time is staged, as host memory, in one direction a call.
Status Hixl::Engine::CheckDescs(const std::vector<TransferOpDesc> &descs, uint64_t mark) const {
    if (descs.empty()) return Refuse(PARAM_INVALID, "no descriptors");
    bool staged = false;
    bool host = false;
    bool device = false;
    for (const TransferOpDesc &desc : descs) {
        if (desc.len == 0) return Refuse(PARAM_INVALID, "an empty descriptor");
        const Region *region = Find(desc.local_addr, desc.len, mark);
        if (region == nullptr) {
            staged = true;
            if (KindOf(reinterpret_cast<const void *>(desc.local_addr)) == Kind::kDevice)
                return Refuse(FAILED, "device memory that was not registered before Connect");
        }
        (region == nullptr || region->type == MEM_HOST ? host : device) = true;
    }
    if (staged && host && device) return Refuse(PARAM_INVALID, "two directions in a staged call");
    return SUCCESS;
}

Status Hixl::Engine::Move(Connection *connection, TransferOp operation,
                          const std::vector<TransferOpDesc> &descs, Clock::time_point until) {
    const Request request{operation, static_cast<uint32_t>(descs.size())};
    std::vector<Piece> pieces;
    pieces.reserve(descs.size());
    for (const TransferOpDesc &desc : descs) pieces.push_back({desc.remote_addr, desc.len});
    Sent sent = fake_cann::Send(connection->socket, &request, sizeof request, until);
    if (sent == Sent::kDone)
        sent = fake_cann::Send(connection->socket, pieces.data(), pieces.size() * sizeof(Piece),
                               until);
    Status status = SUCCESS;
    if (sent == Sent::kDone) sent = Receive(connection->socket, &status, sizeof status, until);
    if (sent != Sent::kDone) return Refuse(StatusOf(sent), "the remote engine does not answer");
    if (status != SUCCESS)
        return Refuse(status, "remote memory that was not registered before Connect");
    return MoveData(connection, operation, descs, until);
}

// Each step is preceded by a word that says whether the bytes follow.
Status Hixl::Engine::MoveData(Connection *connection, TransferOp operation,
                              const std::vector<TransferOpDesc> &descs, Clock::time_point until) {
    std::vector<char> bytes(Bounce::kSize);
    for (const TransferOpDesc &desc : descs) {
        for (size_t done = 0; done < desc.len;) {
            const size_t step = Step(desc.len - done);
            void *local = reinterpret_cast<void *>(desc.local_addr + done);
            Status status = SUCCESS;
            Sent sent = Sent::kDone;
            if (operation == WRITE) {
                if (!connection->bounce.Copy(bytes.data(), local, step))
                    return Refuse(FAILED, "local memory is not mapped");
                sent = fake_cann::Send(connection->socket, bytes.data(), step, until);
            } else {
                sent = Receive(connection->socket, &status, sizeof status, until);
                if (sent == Sent::kDone && status != SUCCESS)
                    return Refuse(FAILED, "remote memory is not mapped");
                if (sent == Sent::kDone)
                    sent = Receive(connection->socket, bytes.data(), step, until);
                if (sent == Sent::kDone && !connection->bounce.Copy(local, bytes.data(), step))
                    return Refuse(FAILED, "local memory is not mapped");
            }
            if (sent != Sent::kDone) return Refuse(StatusOf(sent), "the transfer was cut off");
            done += step;
        }
    }
    if (operation == READ) return SUCCESS;
    Status status = SUCCESS;
    const Sent sent = Receive(connection->socket, &status, sizeof status, until);
    if (sent != Sent::kDone) return Refuse(StatusOf(sent), "the transfer was cut off");
    return status == SUCCESS ? SUCCESS : Refuse(FAILED, "remote memory is not mapped");
}

// ---- the side that is connected to ----

void Hixl::Engine::Accept() {
    for (;;) {
        // Waits in accept: shutting the listener down ends it.
        fcntl(listener_.get(), F_SETFL, fcntl(listener_.get(), F_GETFL) & ~O_NONBLOCK);
        Socket socket(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
        if (!socket.open()) return;
        socket.SetNoDelay();
        Reap();
        std::lock_guard<std::mutex> lock(mutex_);
        served_.emplace_back();
        Served *served = &served_.back();
        served->socket = std::move(socket);
        served->mark = next_order_;
        served->thread = std::thread([this, served] { Serve(served); });
    }
}

void Hixl::Engine::Reap() {
    std::list<Served> over;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        for (auto next = served_.begin(); next != served_.end();) {
            const auto each = next++;
            if (each->over) over.splice(over.end(), served_, each);
        }
    }
    for (Served &served : over) served.thread.join();
}

void Hixl::Engine::Serve(Served *served) {
    Bounce bounce;
    uint32_t greeting = 0;
    bool goes_on =
        Receive(served->socket, &greeting, sizeof greeting, kForEver) == Sent::kDone &&
        greeting == kGreeting &&
        fake_cann::Send(served->socket, &greeting, sizeof greeting, kForEver) == Sent::kDone;
    Request request{};
    while (goes_on && Receive(served->socket, &request, sizeof request, kForEver) == Sent::kDone &&
           request.operation != kGoodbye) {
        goes_on = ServeRequest(served, request, &bounce);
    }
    std::lock_guard<std::mutex> lock(mutex_);
    served->over = true;
    if (goes_on && request.operation == kGoodbye)
        (void)fake_cann::Send(served->socket, &greeting, sizeof greeting, In(1000));
    served->socket.Close();
}

bool Hixl::Engine::ServeRequest(Served *served, const Request &request, Bounce *bounce) {
    std::vector<Piece> pieces(request.count);
    if (Receive(served->socket, pieces.data(), pieces.size() * sizeof(Piece), kForEver) !=
        Sent::kDone)
        return false;
    Status status = SUCCESS;
    for (const Piece &piece : pieces) {
        if (Find(piece.addr, piece.len, served->mark) == nullptr) status = PARAM_INVALID;
    }
    if (fake_cann::Send(served->socket, &status, sizeof status, kForEver) != Sent::kDone)
        return false;
    if (status != SUCCESS) return true;
    std::vector<char> bytes(Bounce::kSize);
    for (const Piece &piece : pieces) {
        for (size_t done = 0; done < piece.len;) {
            const size_t step = Step(piece.len - done);
            void *here = reinterpret_cast<void *>(piece.addr + done);
            if (request.operation == READ) {
                if (!bounce->Copy(bytes.data(), here, step)) status = FAILED;
                if (fake_cann::Send(served->socket, &status, sizeof status, kForEver) !=
                        Sent::kDone ||
                    status != SUCCESS)
                    return false;
                if (fake_cann::Send(served->socket, bytes.data(), step, kForEver) != Sent::kDone)
                    return false;
            } else {
                if (Receive(served->socket, bytes.data(), step, kForEver) != Sent::kDone)
                    return false;
                if (!bounce->Copy(here, bytes.data(), step)) status = FAILED;
            }
            done += step;
        }
    }
    if (request.operation == READ) return true;
    return fake_cann::Send(served->socket, &status, sizeof status, kForEver) == Sent::kDone &&
           status == SUCCESS;
}

// ---- the documented class ----

Hixl::Hixl() = default;
Hixl::~Hixl() = default;

Status Hixl::Initialize(const AscendString &local_engine,
                        const std::map<AscendString, AscendString> &options) {
    const Status entered = Enter("initialize");
    if (entered != SUCCESS) return entered;
    if (engine_ != nullptr) return Refuse(FAILED, "initialized already");
    auto engine = std::make_unique<Engine>();
    // The engine's threads are not for the signals of the process.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const Status status = engine->Start(local_engine.GetString(), options);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (status == SUCCESS) engine_ = std::move(engine);
    return status;
}

void Hixl::Finalize() { engine_.reset(); }

Status Hixl::RegisterMem(const MemDesc &mem, MemType type, MemHandle &mem_handle) {
    const Status entered = Enter("register");
    if (entered != SUCCESS) return entered;
    if (engine_ == nullptr) return Refuse(FAILED, "not initialized");
    const Status context = engine_->CheckContext();
    return context != SUCCESS ? context : engine_->Register(mem, type, &mem_handle);
}

Status Hixl::DeregisterMem(MemHandle mem_handle) {
    const Status entered = Enter("deregister");
    if (entered != SUCCESS) return entered;
    if (engine_ == nullptr) return Refuse(FAILED, "not initialized");
    const Status context = engine_->CheckContext();
    return context != SUCCESS ? context : engine_->Deregister(mem_handle);
}

Status Hixl::Connect(const AscendString &remote_engine, int32_t timeout_in_millis) {
    const Status entered = Enter("connect");
    if (entered != SUCCESS) return entered;
    if (engine_ == nullptr) return Refuse(FAILED, "not initialized");
    const Status context = engine_->CheckContext();
    return context != SUCCESS ? context
                              : engine_->Connect(remote_engine.GetString(), timeout_in_millis);
}

Status Hixl::Disconnect(const AscendString &remote_engine, int32_t timeout_in_millis) {
    const Status entered = Enter("disconnect");
    if (entered != SUCCESS) return entered;
    if (engine_ == nullptr) return Refuse(FAILED, "not initialized");
    const Status context = engine_->CheckContext();
    return context != SUCCESS ? context
                              : engine_->Disconnect(remote_engine.GetString(), timeout_in_millis);
}

Status Hixl::TransferSync(const AscendString &remote_engine, TransferOp operation,
                          const std::vector<TransferOpDesc> &op_descs, int32_t timeout_in_millis) {
    if (engine_ == nullptr) return Refuse(FAILED, "not initialized");
    const Status context = engine_->CheckContext();
    if (context != SUCCESS) return context;
    size_t bytes = 0;
    for (const TransferOpDesc &desc : op_descs) bytes += desc.len;
    if (fake_cann::InsteadWriteDown("transfer " + std::to_string(op_descs.size()) + " " +
                                    std::to_string(bytes)))
        return SUCCESS;
    return engine_->Transfer(remote_engine.GetString(), operation, op_descs, timeout_in_millis);
}

}  // namespace hixl
