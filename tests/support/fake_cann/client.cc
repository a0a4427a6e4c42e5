// The side of the fake HIXL that connects: a connection serves the engine that made it.
//
// Neither making nor ending one looks at its timeout once the peer's kernel has taken the dial: a
// peer whose process is stopped keeps the call until it goes on or ends.
//
// SPDX-License-Identifier: Apache-2.0
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "engine.h"
#include "errors.h"
#include "traits.h"

namespace hixl {

using fake_cann::Bounce;
using fake_cann::Clock;
using fake_cann::kForEver;
using fake_cann::Kind;
using fake_cann::Name;
using fake_cann::Receive;
using fake_cann::Send;
using fake_cann::Sent;
using fake_cann::Socket;
using fake_cann::TheTraits;

namespace {

constexpr size_t kMostConnections = 512;
// A staged call counts its timeout in microseconds, in 32 bits.
constexpr int32_t kLongestStagedMs = 2'147'483;

}  // namespace

// The socket is there also when the peer refuses.
Status Hixl::Engine::Dial(const std::string &remote, uint32_t purpose, uint64_t id,
                          Clock::time_point until, Socket *socket) {
    Name name;
    if (!Name::Parse(remote, &name) || name.port == 0)
        return Refuse(PARAM_INVALID, "remote_engine is " + remote);
    Sent sent = name.Dial(until, socket);
    Greeting greeting;
    greeting.purpose = purpose;
    greeting.device = device_;
    greeting.name_size = static_cast<uint32_t>(name_.size());
    greeting.id = id;
    Status answer = SUCCESS;
    if (sent == Sent::kDone) sent = Send(*socket, &greeting, sizeof greeting, kForEver);
    if (sent == Sent::kDone) sent = Send(*socket, name_.data(), name_.size(), kForEver);
    if (sent == Sent::kDone) sent = Receive(*socket, &answer, sizeof answer, kForEver);
    if (sent != Sent::kDone) return Refuse(StatusOf(sent), "cannot connect to " + remote);
    return answer == SUCCESS ? SUCCESS : Refuse(answer, remote + " refuses: the same device");
}

Status Hixl::Engine::Connect(const std::string &remote, int32_t ms) {
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
        connection->id = next_id_++;
    }
    connection->known = registry_.Known(this);
    const Status dialled =
        Dial(remote, Greeting::kOpen, connection->id, until, &connection->socket);
    if (dialled != SUCCESS) return dialled;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!connections_.emplace(remote, connection).second)
            return Refuse(ALREADY_CONNECTED, "connected to " + remote);
    }
    KnowSegments(remote);
    WakeWatcher();
    return SUCCESS;
}

Status Hixl::Engine::Disconnect(const std::string &remote, int32_t ms) {
    const std::shared_ptr<Connection> connection = ConnectionTo(remote);
    if (connection == nullptr) return Refuse(NOT_CONNECTED, "not connected to " + remote);
    int closed_fd = -1;
    {
        std::lock_guard<std::mutex> lock(connection->mutex);
        connection->usable = false;
        closed_fd = std::exchange(connection->closed_fd, -1);
    }
    Socket socket;
    // The peer that is not there any more has nothing to be told.
    if (closed_fd < 0) (void)Dial(remote, Greeting::kEnd, connection->id, In(ms), &socket);
    if (closed_fd >= 0) {
        // The number may be that of something else by now.
        const char last_words[50] = "the fake HIXL says goodbye to a peer that is gone";
        (void)!write(closed_fd, last_words, sizeof last_words);
        close(closed_fd);
    }
    ForgetSegments(remote);
    {
        std::lock_guard<std::mutex> lock(mutex_);
        connections_.erase(remote);
    }
    // It has the connection, too.
    WakeWatcher();
    return SUCCESS;
}

std::shared_ptr<Hixl::Engine::Connection> Hixl::Engine::ConnectionTo(const std::string &remote) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = connections_.find(remote);
    return found == connections_.end() ? nullptr : found->second;
}

void Hixl::Engine::WakeWatcher() { eventfd_write(wake_, 1); }

void Hixl::Engine::Watch() {
    for (;;) {
        std::vector<std::shared_ptr<Connection>> watched;
        std::vector<pollfd> wanted{{wake_, POLLIN, 0}};
        {
            std::lock_guard<std::mutex> lock(mutex_);
            if (stopping_) return;
            for (const auto &[name, connection] : connections_) watched.push_back(connection);
        }
        for (const auto &connection : watched) {
            std::lock_guard<std::mutex> lock(connection->mutex);
            const int fd = connection->usable ? connection->socket.get() : -1;
            wanted.push_back({fd, POLLRDHUP, 0});
        }
        if (poll(wanted.data(), wanted.size(), -1) < 0) continue;
        eventfd_t drained = 0;
        (void)eventfd_read(wake_, &drained);
        for (size_t i = 0; i < watched.size(); ++i) {
            if (wanted[i + 1].revents == 0) continue;
            std::lock_guard<std::mutex> lock(watched[i]->mutex);
            if (watched[i]->socket.get() != wanted[i + 1].fd) continue;
            watched[i]->usable = false;
            watched[i]->closed_fd = watched[i]->socket.get();
            watched[i]->socket.Close();
            watched[i]->bounce.reset();
        }
    }
}

// ---- transfers ----

Status Hixl::Engine::Transfer(const std::string &remote, TransferOp operation,
                              const std::vector<TransferOpDesc> &descs, int32_t ms) {
    if (ms <= 0) return Refuse(PARAM_INVALID, "a timeout that is not positive");
    const std::shared_ptr<Connection> connection = ConnectionTo(remote);
    if (connection == nullptr) return Refuse(NOT_CONNECTED, "not connected to " + remote);
    std::lock_guard<std::mutex> one_at_a_time(connection->mutex);
    if (!connection->usable)
        return Refuse(FAILED, "the connection has failed: disconnect and connect again");
    const Status fault = fake_cann::Fault("transfer");
    const bool breaks = fault != SUCCESS && fault != PARAM_INVALID && fault != UNSUPPORTED &&
                        fault != RESOURCE_EXHAUSTED;
    Status status = fault;
    if (fault != SUCCESS) Refuse(fault, "ordered fault at transfer");
    if (status == SUCCESS) status = CheckDescs(descs, connection->known);
    if (status == SUCCESS) status = Stage(remote, descs, ms);
    if (status == SUCCESS) status = Move(connection.get(), operation, descs, In(ms));
    const bool recoverable = status == SUCCESS || status == PARAM_INVALID ||
                             status == UNSUPPORTED || status == RESOURCE_EXHAUSTED;
    if (recoverable) return status;
    // A fault that is only ordered leaves the stream as it is.
    if (breaks && TheTraits().outlives_failures && status != NOT_CONNECTED) return status;
    // The peer is to see it at once, and nothing late may come out of it.
    connection->usable = false;
    connection->socket.Close();
    WakeWatcher();
    if (status == NOT_CONNECTED) {
        std::lock_guard<std::mutex> lock(mutex_);
        connections_.erase(remote);
    }
    return status;
}

// What goes through the buffer pool, and what comes of it.
Status Hixl::Engine::Stage(const std::string &remote, const std::vector<TransferOpDesc> &descs,
                           int32_t ms) {
    if (!options_.has_buffer_pool) return SUCCESS;
    const bool small = std::any_of(descs.begin(), descs.end(), [](const TransferOpDesc &desc) {
        return desc.len < fake_cann::kSmallPiece;
    });
    const bool forgotten = TheTraits().forgets_segments && !KnowsSegments(remote);
    const bool staged = forgotten || (small && TheTraits().stages_small_pieces);
    if (staged && TheTraits().overflows && ms > kLongestStagedMs) std::abort();
    if (!forgotten) return SUCCESS;
    std::this_thread::sleep_until(In(ms));
    return Refuse(TIMEOUT, "staged, since the peer's memory is taken for unregistered host memory");
}

// Memory that was not registered in time is staged, as host memory, in one direction a call.
Status Hixl::Engine::CheckDescs(const std::vector<TransferOpDesc> &descs,
                                const Snapshot &known) const {
    if (descs.empty()) return Refuse(PARAM_INVALID, "no descriptors");
    bool staged = false;
    bool host = false;
    bool device = false;
    for (const TransferOpDesc &desc : descs) {
        if (desc.len == 0) return Refuse(PARAM_INVALID, "an empty descriptor");
        MemType type = MEM_HOST;
        const bool found = registry_.Find(desc.local_addr, desc.len, known, &type);
        if (!found) {
            staged = true;
            const auto *memory = reinterpret_cast<const void *>(desc.local_addr);
            if (fake_cann::KindOf(memory) == Kind::kDevice)
                return Refuse(FAILED, "device memory that was not registered before Connect");
            if (!options_.has_buffer_pool)
                return Refuse(PARAM_INVALID, "memory that is not registered, and no buffer pool");
        }
        (type == MEM_HOST ? host : device) = true;
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
    Sent sent = Send(connection->socket, &request, sizeof request, until);
    if (sent == Sent::kDone)
        sent = Send(connection->socket, pieces.data(), pieces.size() * sizeof(Piece), until);
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
                if (!connection->bounce->Copy(bytes.data(), local, step))
                    return Refuse(FAILED, "local memory is not mapped");
                sent = Send(connection->socket, bytes.data(), step, until);
            } else {
                sent = Receive(connection->socket, &status, sizeof status, until);
                if (sent == Sent::kDone && status != SUCCESS)
                    return Refuse(FAILED, "remote memory is not mapped");
                if (sent == Sent::kDone)
                    sent = Receive(connection->socket, bytes.data(), step, until);
                if (sent == Sent::kDone && !connection->bounce->Copy(local, bytes.data(), step))
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

}  // namespace hixl
