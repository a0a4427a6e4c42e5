// An opened device of the mock runtime with memory at fixed addresses, which inputs can name.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "runtime/runtime.h"
#include "target.h"

namespace lldd::fuzz {

// One mapping: a secret part, one that is registered, one that was registered and withdrawn, and
// another secret part. Behind the mapping there is nothing. The registered range reaches past its
// end, so that some of it is not mapped.
constexpr uint64_t kMemory = 0x2000'0000'0000;
constexpr uint64_t kPart = 0x4000;
constexpr uint64_t kSecret = kMemory;
constexpr uint64_t kOpen = kMemory + kPart;
constexpr uint64_t kWithdrawn = kMemory + 2 * kPart;
constexpr uint64_t kOtherSecret = kMemory + 3 * kPart;
constexpr uint64_t kHoles = kMemory + 4 * kPart;
constexpr uint64_t kEnd = kMemory + 5 * kPart;

// What secret memory is full of: no answer may have it. A device's, and an engine's.
constexpr char kSecretByte = '\xE7';
constexpr char kSecretWord[] = "secret-of-victim";

// The devices and their memory last as long as the process, as those of a client do.
class Owner final : public StreamProvider {
public:
    // With these LLM_DATADIST_MOCK_TRANSPORT; the first one decides for the process.
    static Owner &Of(const char *transports);

    Device &device() { return *device_; }
    EventLoop &loop() { return *loop_; }
    // An end of a link to a peer that tells this of itself; null: it is refused.
    std::unique_ptr<Connection> Connect(LinkEnd end, const LinkNonce &nonce,
                                        const std::string &endpoint);
    // What an honest peer with the same memory would tell.
    std::string Endpoint(const LinkNonce &nonce);

    // What the peer may change is as at first; ends the process if it changed anything else.
    void Restore();
    void DemandUntouched();

    // Everything that has reached a socket of this process by now is handled.
    void LetLoopRun();

    // What the connection is given; set before a transfer.
    std::vector<std::string> incoming;
    bool fences_answered = false;

    Status OpenStream(const Deadline &deadline, Fd *stream) override;
    void Break() override { broken = true; }
    Status Ask(std::string_view message, const Deadline &deadline) override;
    bool Quiet() override { return true; }
    bool broken = false;

private:
    explicit Owner(const char *transports);

    std::shared_ptr<EventLoop> loop_;
    std::unique_ptr<Device> device_;
    std::vector<Fd> ends_;
};

// Two ends of a stream, or of a channel; neither blocks.
void SocketPair(int type, Fd *one, Fd *other);
// Sends what the socket takes, and receives what is there.
size_t SendSome(int socket, std::string_view bytes);
std::string ReceiveSome(int socket);

}  // namespace lldd::fuzz
