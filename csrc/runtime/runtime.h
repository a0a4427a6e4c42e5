// What a device must provide. The engine does everything else.
//
// A library holds one runtime. A runtime knows memory, registrations, connections and byte runs; it
// never sees a key, a cache or a block. Statuses are those of llm_datadist.h; texts are for people
// and name addresses, not caches.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/deadline.h"
#include "base/fd.h"
#include "base/status.h"

namespace lldd {

enum class Placement : uint32_t { kHost = LLDD_PLACEMENT_HOST, kDevice = LLDD_PLACEMENT_DEVICE };

// `length` bytes between an address of this process, `local`, and one of the peer, `remote`. For a
// copy within this process, which is a read from itself, the bytes go from `remote` to `local`.
// Never empty.
struct Run {
    uint64_t local;
    uint64_t remote;
    uint64_t length;
};

// Which end of a link this is. Connections are opened only from the initiator to the acceptor.
enum class LinkEnd { kInitiator, kAcceptor };

// The name of a link: random bytes, which travel in the clear.
using LinkNonce = std::array<uint8_t, 16>;
// What only the two ends of a link know, if they have a secret: whoever opens another way between
// them must prove that it has the key. Without a secret it follows from what travels in the clear.
using LinkKey = std::array<uint8_t, 32>;

// By which ways bytes move between the memories of two processes. The names are those of
// lldd_path_info.
enum class Path : uint32_t { kMapped, kCma, kTcp, kHixl };
constexpr size_t kNumPaths = 4;
constexpr std::array<const char *, kNumPaths> kPathNames = {"mapped", "cma", "tcp", "hixl"};
// Bytes by each of them.
using PathBytes = std::array<uint64_t, kNumPaths>;

// How one kind of a peer's memory is reached, for introspection: see lldd_path_info.
struct PathDescription {
    uint32_t memory;
    std::string path;
    std::string reason;
};

// What the engine does for a connection: byte streams and messages to the peer, for runtimes that
// need them.
class StreamProvider {
public:
    virtual ~StreamProvider() = default;

    // Gets a new TCP stream (non-blocking, no delay) on which this end asks and the peer's
    // connection answers: the peer is given the other end through Connection::ServeStream. The
    // initiator dials; the acceptor has the initiator dial. Blocks; must not be called on the I/O
    // thread.
    virtual Status OpenStream(const Deadline &deadline, Fd *stream) = 0;

    // Breaks the link off, which both ends see as if the other had died: PeerGone follows. For
    // faults that are injected. Any thread; does not wait.
    virtual void Break() = 0;

    // Neither reads nor sends anything over the control connection, until it is told otherwise;
    // nothing is closed. For faults that are injected. Any thread; does not wait.
    virtual void Mute(bool mute) { (void)mute; }

    // Sends a message over the link's control connection to Connection::OnMessage of the peer, and
    // waits until that has answered. At most 4096 bytes; a connection may ask as soon as it is
    // made. LLDD_TIMEOUT; LLDD_FAILED: the control connection is closed. Not on the I/O thread.
    virtual Status Ask(std::string_view message, const Deadline &deadline) = 0;

    // Whether this end has read everything that the peer has sent over the control connection so
    // far, its end included. A runtime asks before it reads what moves bytes, so that what the peer
    // sent to end a transfer comes first: what is unread is handled in this turn of the I/O thread.
    // On the I/O thread; does not block.
    virtual bool Quiet() = 0;
};

// The memory of one peer, as reached over one link. At most one of Read and Write runs at a time.
class Connection {
public:
    virtual ~Connection() = default;

    // On the acceptor, after the initiator has connected and before the first transfer: decides the
    // paths. Does not block: it runs on the I/O thread.
    virtual Status Confirm() = 0;

    // Moves all runs, from the peer or to it, by the deadline. Runs may overlap or repeat; their
    // order is free.
    //   LLDD_TIMEOUT              not done in time, or the peer is gone
    //   LLDD_FAILED               memory unmapped, withdrawn, or unknown to this connection
    //                             (registered after it was made)
    //   LLDD_FEATURE_NOT_ENABLED  no transport that may be used reaches the memory
    // Whatever has failed, the next call may succeed unless the peer is gone.
    virtual Status Read(const Run *runs, size_t count, const Deadline &deadline) = 0;
    virtual Status Write(const Run *runs, size_t count, const Deadline &deadline) = 0;

    // What the last Read or Write has moved. Of one that failed: what is known to have come to its end
    // before, so more may have been moved. For the thread that called it, before another one begins.
    virtual const PathBytes &Moved() const = 0;

    // Takes a stream on which the peer asks. On the I/O thread.
    virtual void ServeStream(Fd stream) = 0;

    // A message of the peer's connection, see StreamProvider::Ask. `answer` is called once, then or
    // later, on any thread. On the I/O thread; does not block.
    // NOLINTNEXTLINE(performance-unnecessary-value-param): an implementation may keep `answer`.
    virtual void OnMessage(std::string_view message, std::function<void()> answer) {
        (void)message;
        answer();
    }

    // Both ends have agreed to end the link: the peer is there, and its end goes as this one does;
    // PeerGone and Close follow. Any thread; does not block.
    virtual void Unlinked() {}

    // The engine saw that the peer is gone: a running transfer fails soon, later ones at once. Any
    // thread.
    virtual void PeerGone() = 0;
    // After PeerGone, when no transfer is under way and none will move anything: what this end keeps
    // of the peer's memory is not needed any more. May be called again.
    virtual void ForgetPeer() {}

    // Ends the peer's access to this process's memory over this connection: afterwards it neither
    // reads nor writes anything here. Waits for a transfer of the peer that is under way until the
    // deadline (a passed one: does not wait) or until the peer is gone. LLDD_TIMEOUT if it is still
    // under way. The engine calls it once, before destruction.
    virtual Status Close(const Deadline &deadline) = 0;

    // Copies memory of this process to `to`, for a sum that the peer asks for: only what the peer may
    // reach over this connection when the call returns. LLDD_FAILED: it may not reach all of it, or
    // some of it is not mapped. Called where Device::ReadsOwnMemory; not on the I/O thread, beside
    // transfers of both ends.
    virtual Status ReadForPeer(uint64_t addr, uint64_t length, void *to) {
        (void)addr, (void)length, (void)to;
        return Status(LLDD_FEATURE_NOT_ENABLED, "this device does not read memory for checksums");
    }

    // Any thread, any time.
    virtual std::vector<PathDescription> Paths() const = 0;
};

struct ConnectionSetup {
    LinkEnd end = LinkEnd::kInitiator;
    LinkNonce nonce{};
    LinkKey key{};
    uint64_t peer = 0;                  // how texts and AwaitLeft name the peer
    std::string peer_endpoint;          // what the peer's Device::Endpoint gave
    StreamProvider *streams = nullptr;  // outlives the connection
    // Such an end begins no transfer.
    bool passive = false;
    bool peer_passive = false;
};

// An opened device. Thread-safe.
class Device {
public:
    virtual ~Device() = default;

    // Ends everything; only the destructor may follow. LLDD_TIMEOUT: a call of the hardware's library
    // has not returned, and what it may use stays taken.
    virtual Status End() { return Status::Ok(); }

    // A region that caches are allocated from, registered for transport as a whole before any
    // connection is made. Reserves only; Commit makes pages of it usable. LLDD_OUT_OF_MEMORY.
    virtual Status AllocatePool(Placement placement, uint64_t size, uint64_t *addr) = 0;
    virtual void FreePool(uint64_t addr) = 0;
    // Called before the engine hands out [addr, addr + size) of a pool, each time.
    // LLDD_OUT_OF_MEMORY.
    virtual Status Commit(uint64_t addr, uint64_t size) = 0;

    // Memory of the client becomes reachable for peers that connect from now on, and usable as the
    // local side of transfers. Not touched. The same range may be registered several times; it
    // counts. Ranges may overlap. LLDD_PARAM_INVALID: past the end of the address space.
    // LLDD_FAILED: the device refuses.
    virtual Status Register(uint64_t addr, uint64_t size, Placement placement) = 0;
    // Takes one registration of exactly this range back. When none is left no transfer of a peer
    // begins in it any more, and the call waits for those under way. LLDD_TIMEOUT: one is still
    // under way; the registration is gone.
    virtual Status Unregister(uint64_t addr, uint64_t size, const Deadline &deadline) = 0;
    // Waits for what an Unregister of exactly this range has left under way; there may be nothing.
    // Takes no registration back. LLDD_TIMEOUT as above.
    virtual Status AwaitUnregistered(uint64_t addr, uint64_t size, const Deadline &deadline) = 0;
    // Waits for what the Close of a connection to that peer (ConnectionSetup::peer) has left under
    // way in this process's memory; there may be nothing. LLDD_TIMEOUT: it is still under way.
    virtual Status AwaitLeft(uint64_t peer, const Deadline &deadline) {
        (void)peer;
        (void)deadline;
        return Status::Ok();
    }

    // Copies between places of this process, all from memory of one kind to memory of one kind; any
    // of them may be a client's and unmapped (LLDD_FAILED).
    virtual Status Copy(const Run *runs, size_t count, Placement to, Placement from,
                        const Deadline &deadline) = 0;

    // Whether ReadOwn and Connection::ReadForPeer work.
    virtual bool ReadsOwnMemory() const { return false; }
    // Copies memory that may be the local side of a transfer to `to`. LLDD_FAILED: some of it is not
    // mapped.
    virtual Status ReadOwn(uint64_t addr, uint64_t length, void *to) {
        (void)addr, (void)length, (void)to;
        return Status(LLDD_FEATURE_NOT_ENABLED, "this device does not read memory for checksums");
    }

    // An address of this host under which peers reach it: where the engine listens, or else where
    // it dials from; "" when it is opened and does not listen. Called before Endpoint, and again
    // for other links; may block: a transport that has to know its address begins with the first
    // one. LLDD_PARAM_INVALID: that address will not do.
    virtual Status UseAddress(const std::string &ip, bool listens) {
        (void)ip;
        (void)listens;
        return Status::Ok();
    }

    // This device as opaque bytes for a peer that is about to connect: everything registered now is
    // reachable for it. `nonce` is that of the link; each end calls this before its Connect.
    virtual Status Endpoint(const LinkNonce &nonce, std::string *endpoint) = 0;

    // Makes one end of a connection. The acceptor goes first (it has the initiator's endpoint; on
    // the I/O thread; must not block), then the initiator (it has the acceptor's; may block until
    // the deadline), then the acceptor's Confirm.
    virtual Status Connect(const ConnectionSetup &setup, const Deadline &deadline,
                           std::unique_ptr<Connection> *connection) = 0;
};

struct DeviceOptions {
    // What the configuration of an engine says of its device.
    static DeviceOptions Of(const lldd_config &config);

    int32_t device_id = 0;
    std::string local_comm_res;          // JSON, "" if not given
    std::string global_resource_config;  // JSON, "" if not given
    uint32_t rdma_traffic_class = LLDD_UNSET;
    uint32_t rdma_service_level = LLDD_UNSET;
    std::string buffer_pool;  // as HIXL writes it, "" if not given
    uint64_t finalize_timeout_ms = 10'000;
    // A text that the client is told at its next call. Any thread; does not block.
    std::function<void(std::string text)> tell = [](const std::string &) {};
};

struct RuntimeDescription {
    std::string name;
    std::string description;
    uint32_t device_count = 0;
    uint64_t capabilities = 0;  // LLDD_CAN_*
};

class Runtime {
public:
    virtual ~Runtime() = default;

    virtual RuntimeDescription Describe() = 0;
    // LLDD_PARAM_INVALID: no such device.
    virtual Status OpenDevice(const DeviceOptions &options, std::unique_ptr<Device> *device) = 0;
    // Commands for tests and tools, see lldd_runtime_control.
    virtual Status Control(const std::string &command, const std::string &argument,
                           std::string *answer) = 0;
};

// The one runtime of this library. Every runtime folder defines it.
Runtime &ThisRuntime();

}  // namespace lldd
