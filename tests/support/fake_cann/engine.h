// One engine of the fake HIXL: a side that connects (client.cc) and a side that is connected to
// (server.cc), whose threads stand for the hardware.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "fake.h"
#include "hixl/hixl.h"
#include "options.h"
#include "registry.h"
#include "wire.h"

namespace hixl {

// What a dialled connection begins with; the name of the engine that dials follows. The answer is a
// Status.
struct Greeting {
    static constexpr uint32_t kMagic = 0x4C584946;
    static constexpr uint32_t kOpen = 1;
    static constexpr uint32_t kEnd = 2;  // of the connection with this id

    uint32_t magic = kMagic;
    uint32_t purpose = kOpen;
    int32_t device = 0;
    uint32_t name_size = 0;
    uint64_t id = 0;
};

struct Request {
    uint32_t operation;
    uint32_t count;
};

struct Piece {
    uint64_t addr;
    uint64_t len;
};

// As many bytes of a piece as go through a bounce at once.
size_t Step(size_t left);

class Hixl::Engine {
public:
    Engine();
    ~Engine() { Stop(); }

    // Calls may come from any thread that has a context of the device.
    Status CheckContext() const;

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
        fake_cann::Socket socket;
        uint64_t id = 0;
        Snapshot known;  // of the memory of this side
        bool usable = true;
        int closed_fd = -1;  // the number that the socket had when it was found broken
        std::unique_ptr<fake_cann::Bounce> bounce = std::make_unique<fake_cann::Bounce>();
    };
    // Of a peer to this engine.
    struct Served {
        fake_cann::Socket socket;
        std::string client;
        uint64_t id = 0;
        Snapshot known;
        fake_cann::Clock::time_point bound_until = fake_cann::kForEver;
        bool over = false;  // the thread has ended
        std::thread thread;
    };

    // client.cc
    Status Dial(const std::string &remote, uint32_t purpose, uint64_t id,
                fake_cann::Clock::time_point until, fake_cann::Socket *socket);
    std::shared_ptr<Connection> ConnectionTo(const std::string &remote);
    Status CheckDescs(const std::vector<TransferOpDesc> &descs, const Snapshot &known) const;
    Status Stage(const std::string &remote, const std::vector<TransferOpDesc> &descs, int32_t ms);
    Status Move(Connection *connection, TransferOp operation,
                const std::vector<TransferOpDesc> &descs, fake_cann::Clock::time_point until);
    Status MoveData(Connection *connection, TransferOp operation,
                    const std::vector<TransferOpDesc> &descs, fake_cann::Clock::time_point until);
    // The heartbeat of the connections of this side: closes those whose peer has gone.
    void Watch();
    void WakeWatcher();

    // server.cc
    void Accept();
    void Serve(Served *served);
    Status Open(Served *served);
    bool ServeRequest(Served *served, const Request &request, fake_cann::Bounce *bounce);
    void EndOf(const std::string &client, uint64_t id);
    void Reap();

    // What the two sides know of each other's memory, apart from connections.
    void KnowSegments(const std::string &peer);
    void ForgetSegments(const std::string &peer);
    bool KnowsSegments(const std::string &peer);

    const void *const context_;
    const int device_;
    Registry &registry_;
    Options options_;
    std::string name_;

    std::mutex mutex_;
    std::map<std::string, std::shared_ptr<Connection>> connections_;
    std::list<Served> served_;
    std::set<std::string> segments_;  // of these engines
    uint64_t next_id_ = 1;
    bool stopping_ = false;

    fake_cann::Socket listener_;
    std::thread acceptor_;
    int wake_ = -1;
    std::thread watcher_;
};

}  // namespace hixl
