// Memory that is not there, not there any more, or whose owner is not: a status and a text, in
// time.
//
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <fstream>
#include <functional>
#include <thread>

#include "mock_runtime/channel.h"
#include "mock_runtime/endpoint.h"
#include "mock_runtime/link_page.h"
#include "mock_runtime/region_table.h"
#include "mock_runtime/tcp_protocol.h"
#include "side.h"

namespace lldd::test {
namespace {

constexpr uint64_t kMiB = 1U << 20;
constexpr const char *kGone = "connection closed (peer exited, finalized or unlinked)";

std::string Command(const char *verb, uint64_t a, uint64_t b, uint64_t c = 0) {
    return std::string(verb) + " " + std::to_string(a) + " " + std::to_string(b) + " " +
           std::to_string(c);
}

void RegisteredLate() {
    Side side;
    PeerProcess peer;
    peer.Registered(kMiB);
    CHECK_OK(peer.Link(&side));
    const uint64_t late = peer.Registered(kMiB);
    const uint64_t own = side.Registered(kMiB);
    CHECK_FAILS(LLDD_FAILED, "registered after the link was made", side.Read(own, late, kMiB));
    // As the local side late memory is fine: the peer's first region.
    CHECK_OK(peer.Try("unregister " + std::to_string(late) + " " + std::to_string(kMiB) + " 1000"));
}

void Withdrawn() {
    Side side;
    PeerProcess peer;
    const uint64_t theirs = peer.Registered(kMiB);
    const uint64_t other = peer.Registered(kMiB);
    const uint64_t own = side.Registered(kMiB);
    CHECK_OK(peer.Link(&side));
    peer.Fill(theirs, kMiB, 1);
    peer.Fill(other, kMiB, 2);
    CHECK_OK(side.Read(own, theirs, kMiB));
    // It counts: two registrations need two withdrawals.
    peer.Tell(Command("register", theirs, kMiB));
    peer.Tell(Command("unregister", theirs, kMiB, 1000));
    CHECK_OK(side.Read(own, theirs, kMiB));
    peer.Tell(Command("unregister", theirs, kMiB, 1000));
    CHECK_FAILS(LLDD_FAILED, "withdrawn by its owner (unregistered)", side.Read(own, theirs, kMiB));
    CHECK_FAILS(LLDD_FAILED, "withdrawn by its owner (unregistered)",
                side.Write(own, theirs, kMiB));
    // Registered again is not registered when the link was made.
    peer.Tell(Command("register", theirs, kMiB));
    CHECK_FAILS(LLDD_FAILED, "withdrawn by its owner (unregistered)",
                side.Write(own, theirs, kMiB));
    CHECK(peer.Holds(theirs, kMiB, 1));
    // The link itself goes on.
    CHECK_OK(side.Read(own, other, kMiB));
    CHECK(Holds(own, kMiB, 2));
}

// The owner withdraws memory and uses it for something else, while the peer reads and writes:
// nothing of the new contents is read, nothing of them is overwritten.
void WithdrawnMeanwhile() {
    const uint64_t size = 16 * kMiB;
    for (int round = 0; round < 6; ++round) {
        Side side;
        PeerProcess peer;
        const uint64_t theirs = peer.Registered(size);
        const uint64_t own = side.Registered(size);
        CHECK_OK(peer.Link(&side));
        peer.Fill(theirs, size, 1);
        Fill(own, size, 1);
        CHECK_OK(side.Read(own, theirs, size));
        peer.Begin(Command("withdraw_and_fill", theirs, size, 2));
        const bool write = round % 2 == 1;
        Status status;
        do {
            if (write) Fill(own, size, 1);
            status = write ? side.Write(own, theirs, size) : side.Read(own, theirs, size);
            if (status.ok()) CHECK(Holds(own, size, 1));
        } while (status.ok());
        CHECK_FAILS(LLDD_FAILED, "withdrawn by its owner (unregistered)", status);
        CHECK_OK(peer.Finish());
        CHECK(peer.Holds(theirs, size, 2));
        if (!write) {
            // A read that failed in the middle has brought old bytes only.
            const auto *words = reinterpret_cast<const uint64_t *>(own);
            std::vector<uint64_t> fresh(size / 8);
            Fill(reinterpret_cast<uint64_t>(fresh.data()), size, 2);
            for (uint64_t i = 0; i < size / 8; ++i) CHECK(words[i] != fresh[i]);
        }
    }
}

void UnmappedRemote() {
    Side side;
    PeerProcess peer;
    const uint64_t theirs = peer.Registered(4 * kMiB);
    const uint64_t fine = peer.Registered(kMiB);
    const uint64_t own = side.Registered(4 * kMiB);
    CHECK_OK(peer.Link(&side));
    peer.Fill(theirs, 4 * kMiB, 1);
    peer.Fill(fine, kMiB, 2);
    peer.Tell(Command("unmap", theirs + 2 * kMiB, kMiB));
    for (int round = 0; round < 2; ++round) {
        CHECK_FAILS(LLDD_FAILED, "memory of the peer", side.Read(own, theirs, 4 * kMiB));
        CHECK_FAILS(LLDD_FAILED, "is not mapped", side.Write(own, theirs, 4 * kMiB));
        CHECK_FAILS(LLDD_FAILED, "is not mapped", side.Read(own, theirs + 2 * kMiB + 4096, 1));
        CHECK_OK(side.Read(own, fine, kMiB));
        CHECK(Holds(own, kMiB, 2));
    }
    // Memory that may only be read can be pulled, not pushed to.
    peer.Tell(Command("protect", fine, kMiB));
    CHECK_OK(side.Read(own, fine, kMiB));
    CHECK_FAILS(LLDD_FAILED, "memory of the peer", side.Write(own, fine, kMiB));
}

// `local` is bad on this side, whatever the path.
void UnmappedLocal() {
    const char *value = std::getenv("LLM_DATADIST_MOCK_TRANSPORT");
    const bool mapped = value != nullptr && std::string(value) == "mapped";
    Side side;
    PeerProcess peer;
    const uint64_t theirs = mapped ? peer.Pool(4 * kMiB) : peer.Registered(4 * kMiB);
    const uint64_t own = MapMemory(4 * kMiB);
    UnmapMemory(own + 2 * kMiB, kMiB);
    CHECK_OK(side.device().Register(own, 4 * kMiB, Placement::kDevice));
    CHECK_OK(peer.Link(&side));
    for (int round = 0; round < 2; ++round) {
        CHECK_FAILS(LLDD_FAILED, "memory of this process", side.Read(own, theirs, 4 * kMiB));
        CHECK_FAILS(LLDD_FAILED, "memory of this process", side.Write(own, theirs, 4 * kMiB));
        CHECK_FAILS(LLDD_FAILED, "memory of this process", side.Read(64, theirs, 100));
        peer.Fill(theirs, kMiB, 3);
        CHECK_OK(side.Read(own, theirs, kMiB));
        CHECK(Holds(own, kMiB, 3));
    }
    // Read-only memory can be pushed, not pulled into.
    CHECK(mprotect(reinterpret_cast<void *>(own), kMiB, PROT_READ) == 0);
    const uint64_t fixed = MapMemory(kMiB);
    CHECK(mprotect(reinterpret_cast<void *>(fixed), kMiB, PROT_READ) == 0);
    CHECK_OK(side.device().Register(fixed, kMiB, Placement::kDevice));
    CHECK_OK(side.Write(fixed, theirs, kMiB));
    CHECK_FAILS(LLDD_FAILED, "memory of this process", side.Read(fixed, theirs, kMiB));
}

// Killed in the middle: either the bytes, or LLDD_TIMEOUT; afterwards LLDD_TIMEOUT at once.
void Killed() {
    const char *value = std::getenv("LLM_DATADIST_MOCK_TRANSPORT");
    const bool mapped = value != nullptr && std::string(value) == "mapped";
    const uint64_t size = 32 * kMiB;
    for (int round = 0; round < 4; ++round) {
        Side side;
        PeerProcess peer;
        const uint64_t theirs = mapped ? peer.Pool(size) : peer.Registered(size);
        const uint64_t own = side.Registered(size);
        CHECK_OK(peer.Link(&side));
        peer.Fill(theirs, size, 1);
        std::thread killer([&] {
            usleep(static_cast<useconds_t>(3000 * round));  // somewhere in the transfers
            peer.Kill();
            side.connection().PeerGone();  // what the engine sees at its control connection
        });
        Status status;
        do {
            Fill(own, 4096, 0);
            status = side.Read(own, theirs, size);
            if (status.ok()) CHECK(Holds(own, size, 1));
        } while (status.ok());
        killer.join();
        CHECK_FAILS(LLDD_TIMEOUT, kGone, status);
        CHECK_FAILS(LLDD_TIMEOUT, kGone, side.Write(own, theirs, size));
        // Nobody waits for a peer that is gone.
        CHECK_OK(side.device().Unregister(own, size, Deadline::InMs(1)));
    }
}

// A dead peer is noticed without the engine's word as soon as its process is touched.
void KilledUnnoticed() {
    Side side;
    PeerProcess peer;
    const uint64_t theirs = peer.Registered(kMiB);
    const uint64_t own = side.Registered(kMiB);
    CHECK_OK(peer.Link(&side));
    CHECK_OK(side.Read(own, theirs, kMiB));
    peer.Kill();
    CHECK_FAILS(LLDD_TIMEOUT, kGone, side.Read(own, theirs, kMiB));
    CHECK_FAILS(LLDD_TIMEOUT, kGone, side.Write(own, theirs, kMiB));
}

// The peer ends the link: transfers over it end, its memory is its own again.
void Unlinked() {
    const char *value = std::getenv("LLM_DATADIST_MOCK_TRANSPORT");
    const std::string transport = value != nullptr ? value : "";
    Side side;
    PeerProcess peer;
    const uint64_t theirs = transport == "mapped" ? peer.Pool(kMiB) : peer.Registered(kMiB);
    const uint64_t own = side.Registered(kMiB);
    CHECK_OK(peer.Link(&side));
    CHECK_OK(side.Read(own, theirs, kMiB));
    peer.Tell("disconnect 1000");
    CHECK_FAILS(LLDD_TIMEOUT, kGone, side.Write(own, theirs, kMiB));
    CHECK_OK(side.Disconnect());
    // A new link between the same two works.
    CHECK_OK(peer.Link(&side, 2));
    CHECK_OK(side.Read(own, theirs, kMiB));
}

// A stopped peer: the time is over, and when it goes on so does the link.
void StoppedPeer() {
    Side side;
    PeerProcess peer;
    const uint64_t size = 32 * kMiB;
    const uint64_t theirs = peer.Registered(size);
    const uint64_t own = side.Registered(size);
    CHECK_OK(peer.Link(&side));
    peer.Fill(theirs, size, 1);
    CHECK_OK(side.Read(own, theirs, 4096));
    peer.Signal(SIGSTOP);
    CHECK_FAILS(LLDD_TIMEOUT, "not done in time", side.Read(own, theirs, size, 100));
    CHECK_FAILS(LLDD_TIMEOUT, "not done in time", side.Write(own, theirs, size, 100));
    peer.Signal(SIGCONT);
    // The late request that the write left behind must not overwrite what follows it.
    Fill(own, size, 2);
    CHECK_OK(side.Write(own, theirs, size));
    CHECK(peer.Holds(theirs, size, 2));
    CHECK(side.streams_opened() >= 2);
}

void PassedDeadline() {
    Side side;
    PeerProcess peer;
    const char *value = std::getenv("LLM_DATADIST_MOCK_TRANSPORT");
    const bool mapped = value != nullptr && std::string(value) == "mapped";
    const uint64_t theirs = mapped ? peer.Pool(kMiB) : peer.Registered(kMiB);
    const uint64_t own = side.Registered(kMiB);
    CHECK_OK(peer.Link(&side));
    const Run run{own, theirs, kMiB};
    CHECK_FAILS(LLDD_TIMEOUT, "not done in time",
                side.connection().Read(&run, 1, Deadline::Passed()));
    CHECK_OK(side.Read(own, theirs, kMiB));
}

// A transfer of the peer that does not end holds up the owner, until its deadline or the peer's
// end.
void OwnerWaitsForPeer() {
    Side side;
    PeerProcess peer;
    const uint64_t size = 512 * kMiB;
    const uint64_t own = side.Registered(size);
    const uint64_t theirs = peer.Registered(size);
    Fill(own, size, 1);
    CHECK_OK(peer.Link(&side));
    const std::string read = "read " + std::to_string(theirs) + " " + std::to_string(own) + " " +
                             std::to_string(size) + " 20000";
    for (int attempt = 0; attempt < 50; ++attempt) {
        peer.Begin(read);
        usleep(20000);
        peer.Signal(SIGSTOP);
        // Stopped inside the transfer, unless it was over already; then once more.
        const Status status = side.device().Unregister(own, size, Deadline::InMs(50));
        if (status.ok()) {
            peer.Signal(SIGCONT);
            const Status finished = peer.Finish();
            CHECK(finished.ok() || finished.code() == LLDD_FAILED);
            CHECK_OK(side.Disconnect());
            CHECK_OK(peer.Try("disconnect 1000"));
            CHECK_OK(side.device().Register(own, size, Placement::kDevice));
            CHECK_OK(peer.Link(&side, static_cast<uint64_t>(attempt) + 2));
            continue;
        }
        CHECK_FAILS(LLDD_TIMEOUT, "still in the memory", status);
        CHECK_OK(side.device().Register(own, size, Placement::kDevice));
        // Woken by the peer's end, long before the deadline.
        std::thread killer([&] {
            usleep(50000);
            peer.Kill();
            side.connection().PeerGone();
        });
        const Deadline deadline = Deadline::InMs(20000);
        CHECK_OK(side.device().Unregister(own, size, deadline));
        CHECK(deadline.RemainingMs() > 10000);
        killer.join();
        return;
    }
    CHECK(!"the peer was never caught in a transfer");
}

// ------------------------------------------------------------------------------- refusals of
// process_vm

void ExpectPaths(const std::vector<std::string> &environment, const char *registered,
                 const std::string &reason, const std::function<void(PeerProcess *)> &before_link) {
    Side side;
    PeerProcess peer(environment);
    const uint64_t theirs = peer.Registered(kMiB);
    const uint64_t pool = peer.Pool(kMiB);
    if (before_link) before_link(&peer);
    CHECK_OK(peer.Link(&side));
    const std::vector<PathDescription> paths = side.connection().Paths();
    if (paths[1].path != registered || paths[1].reason.find(reason) == std::string::npos) {
        Fail(__FILE__, __LINE__,
             "registered memory: " + paths[1].path + " (" + paths[1].reason + ")");
    }
    CHECK(paths[0].path == "mapped");
    // And it works.
    peer.Fill(theirs, kMiB, 1);
    peer.Fill(pool, kMiB, 2);
    const uint64_t own = side.Registered(kMiB);
    CHECK_OK(side.Read(own, theirs, kMiB));
    CHECK(Holds(own, kMiB, 1));
    CHECK_OK(side.Read(own, pool, kMiB));
    CHECK(Holds(own, kMiB, 2));
}

std::string ScopeFile(const char *contents) {
    static int number = 0;
    const char *folder = std::getenv("TMPDIR");
    CHECK(folder != nullptr);
    const std::string path = std::string(folder) + "/scope-" + std::to_string(number++);
    std::ofstream(path) << contents;
    return path;
}

// Each scope as this process finds it.
void YamaScopes() {
    const auto with_scope = [](const char *contents, const char *path, const char *reason,
                               const std::vector<std::string> &peer_environment = {}) {
        const std::string file = ScopeFile(contents);
        setenv("LLM_DATADIST_MOCK_PTRACE_SCOPE_FILE", file.c_str(), 1);
        ExpectPaths(peer_environment, path, reason, nullptr);
        unlink(file.c_str());
        unsetenv("LLM_DATADIST_MOCK_PTRACE_SCOPE_FILE");
    };
    with_scope("0\n", "cma", "process_vm_readv");
    with_scope("1\n", "cma", "process_vm_readv");
    with_scope("3\n", "tcp", "ptrace_scope is 3");
    with_scope("rubbish\n", "tcp", "ptrace_scope is 3");
    // The others depend on a capability that only root may have here.
    std::ifstream status("/proc/self/status");
    std::string line;
    bool capable = false;
    while (std::getline(status, line)) {
        if (line.rfind("CapEff:", 0) == 0) {
            capable = ((std::stoull(line.substr(7), nullptr, 16) >> 19) & 1) != 0;
        }
    }
    with_scope("2\n", capable ? "cma" : "tcp", capable ? "process_vm_readv" : "CAP_SYS_PTRACE");
    if (!capable) {
        with_scope("1\n", "tcp", "PR_SET_PTRACER", {"LLM_DATADIST_MOCK_PTRACER=none"});
    }
}

// Exit code 77: this user cannot be refused. Root reads everybody's memory, so the reader gives up
// its rights.
void BecomeNobody() {
    if (getuid() != 0) return;
    CHECK(setgid(65534) == 0 && setuid(65534) == 0);
}

void NotDumpableOwner() {
    BecomeNobody();
    ExpectPaths({}, "tcp", "Operation not permitted",
                [](PeerProcess *peer) { peer->Tell("undumpable"); });
}

// The owner becomes so after the link was made: the next path takes over.
void NotDumpableLater() {
    BecomeNobody();
    Side side;
    PeerProcess peer;
    const uint64_t theirs = peer.Registered(kMiB);
    const uint64_t own = side.Registered(kMiB);
    CHECK_OK(peer.Link(&side));
    CHECK(side.connection().Paths()[1].path == "cma" || side.connection().Paths()[1].path == "tcp");
    peer.Tell("undumpable");
    peer.Fill(theirs, kMiB, 4);
    CHECK_OK(side.Read(own, theirs, kMiB));
    CHECK(Holds(own, kMiB, 4));
    CHECK(side.connection().Paths()[1].path == "tcp");
    Fill(own, kMiB, 5);
    CHECK_OK(side.Write(own, theirs, kMiB));
    CHECK(peer.Holds(theirs, kMiB, 5));
}

// The peer belongs to root, this process to nobody. The test runs it as root only.
void AnotherUser() {
    if (getuid() != 0) _exit(77);
    Side *side = nullptr;
    PeerProcess peer;  // started as root
    const uint64_t theirs = peer.Registered(kMiB);
    BecomeNobody();
    side = new Side;
    CHECK_OK(peer.Link(side));
    CHECK(side->connection().Paths()[1].path == "tcp");
    CHECK(side->connection().Paths()[1].reason.find("uid 0") != std::string::npos);
    peer.Fill(theirs, kMiB, 1);
    const uint64_t own = side->Registered(kMiB);
    CHECK_OK(side->Read(own, theirs, kMiB));
    CHECK(Holds(own, kMiB, 1));
    delete side;
}

// What neither end may use is not used; nothing left is told.
void NothingAllowed() {
    setenv("LLM_DATADIST_MOCK_TRANSPORT", "tcp", 1);
    Side side;
    PeerProcess peer({"LLM_DATADIST_MOCK_TRANSPORT=mapped,cma"});
    const uint64_t theirs = peer.Registered(kMiB);
    const uint64_t own = side.Registered(kMiB);
    CHECK_OK(peer.Link(&side));
    CHECK_FAILS(LLDD_FEATURE_NOT_ENABLED, "not in the peer's LLM_DATADIST_MOCK_TRANSPORT",
                side.Read(own, theirs, kMiB));
    CHECK(side.connection().Paths()[1].path == "none");
}

// ------------------------------------------------------------------------------- nonsense

// Closed by the other end, not merely silent.
bool IsClosed(int stream) {
    char byte = 0;
    return ReceiveAll(stream, &byte, 1, Deadline::InMs(1000)).code() == LLDD_FAILED;
}

// Sends bytes to a new stream of the peer; true if the peer closes it.
bool StreamIsClosedAfter(uint32_t port, const std::string &bytes) {
    SocketAddress address;
    CHECK_OK(SocketAddress::Parse("127.0.0.1", port, &address));
    Fd stream;
    CHECK_OK(Connect(address, {}, Deadline::InMs(1000), &stream));
    CHECK_OK(SendAll(stream.get(), bytes.data(), bytes.size(), Deadline::InMs(1000)));
    return IsClosed(stream.get());
}

template <typename... Parts>
std::string Bytes(const Parts &...parts) {
    std::string bytes;
    (bytes.append(reinterpret_cast<const char *>(&parts), sizeof parts), ...);
    return bytes;
}

void GarbageOnStream() {
    using namespace mock;
    Side side;
    PeerProcess peer;
    const uint64_t theirs = peer.Registered(kMiB);
    const uint64_t own = side.Registered(kMiB);
    CHECK_OK(peer.Link(&side));
    const auto port = static_cast<uint32_t>(std::stoul(peer.Tell("port")));
    const TcpRun run{0, 1, theirs, 4096};
    const TcpRequest good{kTcpRequestMagic, kTcpRead, 1, 1, 4096};
    std::vector<TcpRequest> bad(7, good);
    bad[0].magic = 0;
    bad[1].operation = 3;
    bad[2].run_count = 0;
    bad[3].run_count = 0xFFFFFFFF;
    bad[4].bytes = UINT64_MAX;
    bad[5].bytes = 0;
    bad[6].bytes = 4095;  // not the sum of the runs
    for (const TcpRequest &request : bad) CHECK(StreamIsClosedAfter(port, Bytes(request, run)));
    TcpRun endless = run;
    endless.length = UINT64_MAX;
    CHECK(StreamIsClosedAfter(port, Bytes(good, endless)));
    // A name that was never given, and one of memory that the run is not in: refused, not served.
    for (TcpRun wrong :
         {TcpRun{5, 9, theirs, 4096}, TcpRun{0xFFFFFFFF, 1, theirs, 4096},
          TcpRun{0, 1, theirs + kMiB - 1, 4096}, TcpRun{0, 1, UINT64_MAX - 1, 4096}}) {
        SocketAddress address;
        CHECK_OK(SocketAddress::Parse("127.0.0.1", port, &address));
        Fd stream;
        CHECK_OK(Connect(address, {}, Deadline::InMs(1000), &stream));
        const std::string bytes = Bytes(good, wrong);
        CHECK_OK(SendAll(stream.get(), bytes.data(), bytes.size(), Deadline::InMs(1000)));
        TcpAnswer answer{};
        CHECK_OK(ReceiveAll(stream.get(), &answer, sizeof answer, Deadline::InMs(1000)));
        CHECK(answer.magic == kTcpAnswerMagic);
        // Another region that covers the range serves; nothing else does.
        const bool covered = wrong.addr == theirs;
        CHECK((answer.status == kTcpDone) == covered && answer.bytes == (covered ? 4096 : 0));
    }
    // Registered late: not even under its right name.
    const uint64_t late = peer.Registered(4096);
    SocketAddress owner;
    CHECK_OK(SocketAddress::Parse("127.0.0.1", port, &owner));
    Fd asking;
    CHECK_OK(Connect(owner, {}, Deadline::InMs(1000), &asking));
    const std::string request = Bytes(good, TcpRun{1, 1, late, 4096});
    CHECK_OK(SendAll(asking.get(), request.data(), request.size(), Deadline::InMs(1000)));
    TcpAnswer refusal{};
    CHECK_OK(ReceiveAll(asking.get(), &refusal, sizeof refusal, Deadline::InMs(1000)));
    CHECK(refusal.status == kTcpUnknown && refusal.addr == late);
    // Half a request, and then nothing; then the client itself comes.
    SocketAddress address;
    CHECK_OK(SocketAddress::Parse("127.0.0.1", port, &address));
    Fd half;
    CHECK_OK(Connect(address, {}, Deadline::InMs(1000), &half));
    CHECK_OK(SendAll(half.get(), &good, sizeof good / 2, Deadline::InMs(1000)));
    CHECK_OK(side.Read(own, theirs, kMiB));
    // The client's new stream ends the old one: nothing late can come out of it.
    CHECK(IsClosed(half.get()));
}

// Dials the peer's channel and sends a packet, with descriptors if given.
Fd SendToChannel(const mock::ChannelName &name, const std::string &packet,
                 const std::vector<int> &fds) {
    Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::string text = "lldd-";
    for (const uint8_t byte : name) text += Format("%02x", byte);
    std::memcpy(address.sun_path + 1, text.data(), text.size());
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
    CHECK(connect(socket.get(), reinterpret_cast<sockaddr *>(&address), size) == 0);
    std::string message = packet;
    iovec data{message.data(), message.size()};
    char control[CMSG_SPACE(8 * sizeof(int))] = {};
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    if (!fds.empty()) {
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
        cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
        std::memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
    }
    CHECK(sendmsg(socket.get(), &header, MSG_NOSIGNAL) == static_cast<ssize_t>(packet.size()));
    return socket;
}

std::string OpenDescriptors() {
    std::string answer;
    CHECK_OK(ThisRuntime().Control("fds", "", &answer));
    return answer;
}

void GarbageOnChannel() {
    Side side;
    mock::EndpointData endpoint;
    CHECK_OK(mock::DecodeEndpoint(side.Endpoint(5), &endpoint));
    const std::string before = OpenDescriptors();
    const Fd memory(memfd_create("garbage", MFD_CLOEXEC));
    for (const size_t size : {size_t{1}, size_t{8}, size_t{1056}, size_t{4000}}) {
        const Fd channel = SendToChannel(endpoint.channel, std::string(size, 'x'),
                                         {memory.get(), memory.get(), memory.get()});
        char byte = 0;
        CHECK(recv(channel.get(), &byte, 1, 0) == 0);  // sent away
    }
    // Comes, says nothing, and must not hold up the next one.
    const Fd silent(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    PeerProcess peer;
    peer.Pool(kMiB);
    CHECK_OK(peer.Link(&side));
    CHECK(side.connection().Paths()[0].path == "mapped");
    CHECK_OK(side.Disconnect());
    EventLoop::Acquire()->RunAndWait([] {});
    // This test's own two descriptors, and the peer's order socket, are more than before.
    CHECK(std::stoul(OpenDescriptors()) == std::stoul(before) + 3);
}

// A pool that its sender could still shrink would kill who touches the mapping: it is not mapped.
void ShrinkablePool() {
    using namespace mock;
    LinkPage page;
    const Fd loose(memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    CHECK(ftruncate(loose.get(), 4096) == 0);
    SharedMemory mapped;
    CHECK_FAILS(LLDD_FAILED, "not sealed",
                SharedMemory::Map(Fd(dup(loose.get())), 4096, true, &mapped));
    CHECK_FAILS(LLDD_FAILED, "not sealed", LinkPage::Map(Fd(dup(loose.get())), &page));
    CHECK(fcntl(loose.get(), F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    CHECK_FAILS(LLDD_FAILED, "not sealed",
                SharedMemory::Map(Fd(dup(loose.get())), 4096, true, &mapped));
    CHECK(fcntl(loose.get(), F_ADD_SEALS, F_SEAL_GROW) == 0);
    CHECK_FAILS(LLDD_FAILED, "4096 bytes instead of 8192",
                SharedMemory::Map(Fd(dup(loose.get())), 8192, true, &mapped));
    CHECK_OK(SharedMemory::Map(Fd(dup(loose.get())), 4096, true, &mapped));
    const Fd file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    CHECK_FAILS(LLDD_FAILED, "not of tmpfs",
                SharedMemory::Map(Fd(dup(file.get())), 4096, false, &mapped));
}

void BadEndpoints() {
    Side side;
    Side other(1);
    other.Registered(4096);
    const std::string good = other.Endpoint(3);
    for (size_t length = 0; length < good.size(); ++length) {
        CHECK_FAILS(LLDD_FAILED, "malformed",
                    side.Connect(LinkEnd::kInitiator, 3, good.substr(0, length), other.port()));
    }
    CHECK_FAILS(LLDD_FAILED, "malformed",
                side.Connect(LinkEnd::kInitiator, 3, good + "x", other.port()));
    // Any byte may be wrong: never more than a refusal.
    for (size_t i = 0; i < good.size(); ++i) {
        std::string bad = good;
        bad[i] = static_cast<char>(bad[i] ^ 0xFF);
        Side victim(2);
        const Status status = victim.Connect(LinkEnd::kInitiator, 3, bad, other.port());
        if (status.ok()) continue;
        CHECK(status.code() == LLDD_FAILED);
    }
}

// The child's copy of the parent's state neither keeps links alive nor reaches the pools.
void ForkedChild() {
    Side side;
    PeerProcess peer;
    const uint64_t pool = side.Pool(kMiB);
    const uint64_t theirs = peer.Registered(kMiB);
    CHECK_OK(peer.Link(&side));
    CHECK_OK(side.Read(pool, theirs, kMiB));
    int pipe_ends[2];
    CHECK(pipe(pipe_ends) == 0);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        unsigned char present = 0;
        CHECK(mincore(reinterpret_cast<void *>(pool), 4096, &present) != 0);
        // It may open devices of its own, and move bytes with them.
        Side own(1);
        PeerProcess friend_of_child;
        const uint64_t far = friend_of_child.Registered(4 * kMiB);
        CHECK_OK(friend_of_child.Link(&own));
        friend_of_child.Fill(far, 4 * kMiB, 1);
        const uint64_t near = own.Registered(4 * kMiB);
        CHECK_OK(own.Read(near, far, 4 * kMiB));
        CHECK(Holds(near, 4 * kMiB, 1));
        CHECK(write(pipe_ends[1], "x", 1) == 1);
        CHECK_OK(own.Disconnect());
        _exit(0);
    }
    close(pipe_ends[1]);  // so that a child that fails is noticed
    char byte = 0;
    CHECK(read(pipe_ends[0], &byte, 1) == 1);
    CHECK_OK(side.Read(pool, theirs, kMiB));
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

}  // namespace

const std::vector<NamedCase> kFailureCases = {
    {"registered.late", RegisteredLate},
    {"registered.withdrawn", Withdrawn},
    {"registered.withdrawn_meanwhile", WithdrawnMeanwhile},
    {"registered.unmapped_remote", UnmappedRemote},
    {"transfer.unmapped_local", UnmappedLocal},
    {"transfer.killed", Killed},
    {"registered.killed_unnoticed", KilledUnnoticed},
    {"transfer.unlinked", Unlinked},
    {"tcp.stopped_peer", StoppedPeer},
    {"transfer.passed_deadline", PassedDeadline},
    {"cma.owner_waits_for_peer", OwnerWaitsForPeer},
    {"any.yama_scopes", YamaScopes},
    {"any.not_dumpable_owner", NotDumpableOwner},
    {"any.not_dumpable_later", NotDumpableLater},
    {"any.another_user", AnotherUser},
    {"any.nothing_allowed", NothingAllowed},
    {"tcp.garbage_on_stream", GarbageOnStream},
    {"any.garbage_on_channel", GarbageOnChannel},
    {"any.shrinkable_pool", ShrinkablePool},
    {"any.bad_endpoints", BadEndpoints},
    {"any.forked_child", ForkedChild},
};

}  // namespace lldd::test
