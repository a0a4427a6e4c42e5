// One process of a runtime test: a device, at most one connection, and the streams between them.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/socket.h"
#include "runtime/runtime.h"

namespace lldd::test {

// Ends the test with the place and a text.
[[noreturn]] void Fail(const char *file, int line, const std::string &text);

#define CHECK(condition)                                                      \
    do {                                                                      \
        if (!(condition)) ::lldd::test::Fail(__FILE__, __LINE__, #condition); \
    } while (false)
#define CHECK_OK(expression)                                                       \
    do {                                                                           \
        const ::lldd::Status status_ = (expression);                               \
        if (!status_.ok()) ::lldd::test::Fail(__FILE__, __LINE__, status_.text()); \
    } while (false)
// The status must be the expected one, its text must hold the expected words.
#define CHECK_FAILS(expected, words, expression) \
    ::lldd::test::CheckFails(__FILE__, __LINE__, expected, words, expression)
void CheckFails(const char *file, int line, lldd_status expected, const std::string &words,
                const Status &status);

// A pattern that depends on the seed and the place.
void Fill(uint64_t addr, uint64_t size, uint64_t seed);
bool Holds(uint64_t addr, uint64_t size, uint64_t seed);
// Anonymous memory, not touched.
uint64_t MapMemory(uint64_t size);
void UnmapMemory(uint64_t addr, uint64_t size);

LinkNonce NonceOf(uint64_t number);

class Side final : public StreamProvider {
public:
    explicit Side(int32_t device_id = 0);
    ~Side() override;

    Device &device() { return *device_; }
    Connection &connection() { return *connection_; }
    bool linked() const { return connection_ != nullptr; }
    uint32_t port() const { return port_; }
    size_t streams_opened() const { return streams_opened_; }

    // Connects this end; the peer's streams are dialled at that port.
    Status Connect(LinkEnd end, uint64_t nonce, const std::string &peer_endpoint,
                   uint32_t peer_port, const Deadline &deadline = Deadline::InMs(5000));
    Status Confirm();
    // Orders this thread after what the I/O thread did and before what it will do. A peer's word
    // does so in fact, but a thread sanitizer does not see that.
    void Synchronise();
    Status Disconnect(const Deadline &deadline = Deadline::InMs(5000));
    // The listener goes, as a peer's does that is gone.
    void StopListening();

    std::string Endpoint(uint64_t nonce);
    uint64_t Pool(uint64_t size);
    uint64_t Registered(uint64_t size);

    Status Read(uint64_t local, uint64_t remote, uint64_t length, uint64_t ms = 5000);
    Status Write(uint64_t local, uint64_t remote, uint64_t length, uint64_t ms = 5000);

    Status OpenStream(const Deadline &deadline, Fd *stream) override;
    void Break() override;
    Status Ask(std::string_view message, const Deadline &deadline) override;
    bool Quiet() override { return true; }

private:
    void Accept();

    std::shared_ptr<EventLoop> loop_;
    std::unique_ptr<Device> device_;
    std::unique_ptr<Connection> connection_;
    Fd listener_;
    EventLoop::Token token_ = 0;
    uint32_t port_ = 0;
    uint32_t peer_port_ = 0;
    std::atomic<size_t> streams_opened_{0};
};

// Another process with a side of its own, which does what it is told.
class PeerProcess {
public:
    PeerProcess();
    // With variables of its own: "NAME=value".
    explicit PeerProcess(const std::vector<std::string> &environment);
    ~PeerProcess();

    pid_t pid() const { return pid_; }

    // The answer's text; the test ends if the peer did not succeed.
    std::string Tell(const std::string &command);
    // The status that the peer got.
    Status Try(const std::string &command);
    // Begins a command; Finish waits for its end.
    void Begin(const std::string &command);
    Status Finish(std::string *text = nullptr);

    uint64_t Pool(uint64_t size) { return Address("pool", size); }
    uint64_t Registered(uint64_t size) { return Address("registered", size); }
    uint64_t Memory(uint64_t size) { return Address("memory", size); }
    void Fill(uint64_t addr, uint64_t size, uint64_t seed);
    bool Holds(uint64_t addr, uint64_t size, uint64_t seed);

    // Links the two: `initiator` says whether the side of this process is the initiator.
    Status Link(Side *side, uint64_t nonce = 1, bool initiator = true);

    void Signal(int signal);
    // Ends it with that signal and waits for the end.
    void Kill();

private:
    uint64_t Address(const char *command, uint64_t size);

    Fd socket_;
    pid_t pid_ = -1;
};

// What the process of a PeerProcess runs.
int ServeCommands(int socket);

using Case = void (*)();
struct NamedCase {
    const char *name;
    Case run;
};
extern const std::vector<NamedCase> kTransferCases;
extern const std::vector<NamedCase> kFailureCases;
extern const std::vector<NamedCase> kLocalCases;

}  // namespace lldd::test
