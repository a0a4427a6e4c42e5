// SPDX-License-Identifier: Apache-2.0
#include "side.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstring>
#include <optional>
#include <sstream>

namespace lldd::test {
namespace {

constexpr size_t kMostMessage = 1U << 18;

uint64_t Pattern(uint64_t seed, uint64_t place) {
    return (place + 1) * 0x9E3779B97F4A7C15u ^ seed * 0xD1B54A32D192ED03u;
}

std::string Hex(const std::string &bytes) {
    std::string text;
    for (const char byte : bytes) text += Format("%02x", static_cast<unsigned char>(byte));
    return text.empty() ? "-" : text;
}

std::string Unhex(const std::string &text) {
    std::string bytes;
    for (size_t i = 0; i + 1 < text.size(); i += 2) {
        bytes += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
    }
    return bytes;
}

// "0" or the status, a blank, the text.
std::string Encode(const Status &status, const std::string &text) {
    return Format("%u ", status.code()) + (status.ok() ? text : status.text());
}

// The words of one command, read from left to right.
class Words {
public:
    explicit Words(const std::string &command) : in_(command) {}

    std::string Word() {
        std::string word;
        in_ >> word;
        return word;
    }

    uint64_t Number() {
        uint64_t value = 0;
        in_ >> value;
        CHECK(!in_.fail());
        return value;
    }

private:
    std::istringstream in_;
};

// Carries out a command that is about memory of the peer; nullopt: the verb is another.
std::optional<Status> ObeyOnMemory(Side *side, const std::string &verb, Words *words,
                                   std::string *text) {
    if (verb == "pool") {
        *text = std::to_string(side->Pool(words->Number()));
    } else if (verb == "registered") {
        *text = std::to_string(side->Registered(words->Number()));
    } else if (verb == "memory") {
        *text = std::to_string(MapMemory(words->Number()));
    } else if (verb == "unmap") {
        const uint64_t addr = words->Number();
        UnmapMemory(addr, words->Number());
    } else if (verb == "protect") {  // read-only
        const uint64_t addr = words->Number();
        CHECK(mprotect(reinterpret_cast<void *>(addr), words->Number(), PROT_READ) == 0);
    } else if (verb == "register") {
        const uint64_t addr = words->Number();
        return side->device().Register(addr, words->Number(), Placement::kDevice);
    } else if (verb == "unregister") {
        const uint64_t addr = words->Number();
        const uint64_t size = words->Number();
        return side->device().Unregister(addr, size, Deadline::InMs(words->Number()));
    } else if (verb == "withdraw_and_fill") {  // what an owner does: nobody may be there any more
        const uint64_t addr = words->Number();
        const uint64_t size = words->Number();
        const Status status = side->device().Unregister(addr, size, Deadline::InMs(5000));
        if (!status.ok()) return status;
        Fill(addr, size, words->Number());
    } else if (verb == "fill") {
        const uint64_t addr = words->Number();
        const uint64_t size = words->Number();
        Fill(addr, size, words->Number());
    } else if (verb == "holds") {
        const uint64_t addr = words->Number();
        const uint64_t size = words->Number();
        *text = Holds(addr, size, words->Number()) ? "yes" : "no";
    } else {
        return std::nullopt;
    }
    return Status::Ok();
}

// Carries out a command that is about the peer's end of the link; nullopt: the verb is another.
std::optional<Status> ObeyOnLink(Side *side, const std::string &verb, Words *words,
                                 std::string *text) {
    if (verb == "port") {
        *text = std::to_string(side->port());
    } else if (verb == "endpoint") {
        *text = Hex(side->Endpoint(words->Number()));
    } else if (verb == "connect") {
        const LinkEnd end = words->Number() == 0 ? LinkEnd::kInitiator : LinkEnd::kAcceptor;
        const uint64_t nonce = words->Number();
        const auto port = static_cast<uint32_t>(words->Number());
        return side->Connect(end, nonce, Unhex(words->Word()), port);
    } else if (verb == "confirm") {
        return side->Confirm();
    } else if (verb == "read" || verb == "write") {
        const uint64_t local = words->Number();
        const uint64_t remote = words->Number();
        const uint64_t length = words->Number();
        const uint64_t ms = words->Number();
        return verb == "read" ? side->Read(local, remote, length, ms)
                              : side->Write(local, remote, length, ms);
    } else if (verb == "paths") {
        for (const PathDescription &path : side->connection().Paths()) {
            *text += path.path + " (" + path.reason + ") ";
        }
    } else if (verb == "disconnect") {
        return side->Disconnect(Deadline::InMs(words->Number()));
    } else {
        return std::nullopt;
    }
    return Status::Ok();
}

// One command of the peer. Unknown words end it: the test is wrong.
Status Obey(Side *side, const std::string &command, std::string *text) {
    Words words(command);
    const std::string verb = words.Word();
    if (const auto status = ObeyOnMemory(side, verb, &words, text)) return *status;
    if (const auto status = ObeyOnLink(side, verb, &words, text)) return *status;
    if (verb == "undumpable") {
        CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
    } else if (verb == "user") {
        CHECK(setuid(static_cast<uid_t>(words.Number())) == 0);
    } else {
        Fail(__FILE__, __LINE__, "no such command: " + command);
    }
    return Status::Ok();
}

}  // namespace

void Fail(const char *file, int line, const std::string &text) {
    std::fprintf(stderr, "%s:%d: pid %d: %s\n", file, line, static_cast<int>(getpid()),
                 text.c_str());
    std::fflush(stderr);
    _exit(1);
}

void CheckFails(const char *file, int line, lldd_status expected, const std::string &words,
                const Status &status) {
    if (status.code() == expected && status.text().find(words) != std::string::npos) return;
    Fail(file, line,
         Format("expected %#x with \"%s\", got %#x with \"%s\"", expected, words.c_str(),
                status.code(), status.text().c_str()));
}

void Fill(uint64_t addr, uint64_t size, uint64_t seed) {
    auto *bytes = reinterpret_cast<char *>(addr);
    for (uint64_t i = 0; i < size; i += 8) {
        const uint64_t word = Pattern(seed, i / 8);
        std::memcpy(bytes + i, &word, size - i < 8 ? size - i : 8);
    }
}

bool Holds(uint64_t addr, uint64_t size, uint64_t seed) {
    const auto *bytes = reinterpret_cast<const char *>(addr);
    for (uint64_t i = 0; i < size; i += 8) {
        const uint64_t word = Pattern(seed, i / 8);
        if (std::memcmp(bytes + i, &word, size - i < 8 ? size - i : 8) != 0) return false;
    }
    return true;
}

uint64_t MapMemory(uint64_t size) {
    void *addr = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(addr != MAP_FAILED);
    return reinterpret_cast<uint64_t>(addr);
}

void UnmapMemory(uint64_t addr, uint64_t size) {
    CHECK(munmap(reinterpret_cast<void *>(addr), size) == 0);
}

LinkNonce NonceOf(uint64_t number) {
    LinkNonce nonce{};
    std::memcpy(nonce.data(), &number, sizeof number);
    return nonce;
}

Side::Side(int32_t device_id) : loop_(EventLoop::Acquire()) {
    DeviceOptions options;
    options.device_id = device_id;
    CHECK_OK(ThisRuntime().OpenDevice(options, &device_));
    SocketAddress any;
    CHECK_OK(SocketAddress::Parse("127.0.0.1", 0, &any));
    CHECK_OK(Listen(any, &listener_));
    port_ = SocketAddress::OfSocket(listener_.get()).port();
    token_ = loop_->Watch(listener_.get(), EPOLLIN, [this](uint32_t) { Accept(); });
}

Side::~Side() {
    StopListening();
    if (linked()) CHECK_OK(Disconnect());
}

void Side::StopListening() {
    if (token_ != 0) loop_->Remove(token_);
    token_ = 0;
    listener_.Close();
}

void Side::Accept() {
    Fd stream(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!stream) return;
    SetNoDelay(stream.get());
    if (linked()) connection_->ServeStream(std::move(stream));
}

Status Side::OpenStream(const Deadline &deadline, Fd *stream) {
    ++streams_opened_;
    SocketAddress peer;
    CHECK_OK(SocketAddress::Parse("127.0.0.1", peer_port_, &peer));
    return lldd::Connect(peer, {}, deadline, stream);
}

void Side::Break() {
    if (linked()) connection_->PeerGone();
}

Status Side::Ask(std::string_view, const Deadline &) {
    return Failure(LLDD_FAILED, "a side has no control connection");
}

Status Side::Connect(LinkEnd end, uint64_t nonce, const std::string &peer_endpoint,
                     uint32_t peer_port, const Deadline &deadline) {
    peer_port_ = peer_port;
    ConnectionSetup setup;
    setup.end = end;
    setup.nonce = NonceOf(nonce);
    setup.peer_endpoint = peer_endpoint;
    setup.streams = this;
    Status status;
    std::unique_ptr<Connection> made;
    if (end == LinkEnd::kInitiator) status = device_->Connect(setup, deadline, &made);
    // What accepts streams must find the connection, or not, on its own thread.
    loop_->RunAndWait([&] {
        if (end == LinkEnd::kAcceptor) status = device_->Connect(setup, deadline, &made);
        connection_ = std::move(made);
    });
    return status;
}

Status Side::Confirm() {
    Status status;
    loop_->RunAndWait([&] { status = connection_->Confirm(); });
    return status;
}

void Side::Synchronise() {
    loop_->RunAndWait([] {});
}

Status Side::Disconnect(const Deadline &deadline) {
    Status status = connection_->Close(deadline);
    loop_->RunAndWait([this] { connection_.reset(); });
    return status;
}

std::string Side::Endpoint(uint64_t nonce) {
    std::string endpoint;
    CHECK_OK(device_->Endpoint(NonceOf(nonce), &endpoint));
    return endpoint;
}

uint64_t Side::Pool(uint64_t size) {
    uint64_t addr = 0;
    CHECK_OK(device_->AllocatePool(Placement::kDevice, size, &addr));
    CHECK_OK(device_->Commit(addr, size));
    return addr;
}

uint64_t Side::Registered(uint64_t size) {
    const uint64_t addr = MapMemory(size);
    CHECK_OK(device_->Register(addr, size, Placement::kDevice));
    return addr;
}

Status Side::Read(uint64_t local, uint64_t remote, uint64_t length, uint64_t ms) {
    const Run run{local, remote, length};
    return connection_->Read(&run, 1, Deadline::InMs(ms));
}

Status Side::Write(uint64_t local, uint64_t remote, uint64_t length, uint64_t ms) {
    const Run run{local, remote, length};
    return connection_->Write(&run, 1, Deadline::InMs(ms));
}

PeerProcess::PeerProcess() : PeerProcess(std::vector<std::string>{}) {}

PeerProcess::PeerProcess(const std::vector<std::string> &environment) {
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    socket_ = Fd(pair[0]);
    pid_ = fork();
    CHECK(pid_ >= 0);
    if (pid_ == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        fcntl(pair[1], F_SETFD, 0);
        for (const std::string &variable : environment) {
            const size_t equals = variable.find('=');
            setenv(variable.substr(0, equals).c_str(), variable.c_str() + equals + 1, 1);
        }
        const std::string fd = std::to_string(pair[1]);
        execl("/proc/self/exe", "driver", "peer", fd.c_str(), nullptr);
        _exit(127);
    }
    close(pair[1]);
}

PeerProcess::~PeerProcess() {
    if (pid_ < 0) return;
    socket_.Close();  // the peer ends when its orders do
    int status = 0;
    CHECK(waitpid(pid_, &status, 0) == pid_);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void PeerProcess::Begin(const std::string &command) {
    CHECK(send(socket_.get(), command.data(), command.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(command.size()));
}

Status PeerProcess::Finish(std::string *text) {
    std::string answer(kMostMessage, '\0');
    const ssize_t size = recv(socket_.get(), answer.data(), answer.size(), 0);
    CHECK(size > 0);
    answer.resize(static_cast<size_t>(size));
    const size_t blank = answer.find(' ');
    const auto code = static_cast<lldd_status>(std::stoul(answer.substr(0, blank)));
    const std::string rest = answer.substr(blank + 1);
    if (code != LLDD_SUCCESS) return Status(code, rest);
    if (text != nullptr) *text = rest;
    return Status::Ok();
}

Status PeerProcess::Try(const std::string &command) {
    Begin(command);
    return Finish();
}

std::string PeerProcess::Tell(const std::string &command) {
    std::string text;
    Begin(command);
    CHECK_OK(Finish(&text));
    return text;
}

uint64_t PeerProcess::Address(const char *command, uint64_t size) {
    return std::stoull(Tell(Format("%s %" PRIu64, command, size)));
}

void PeerProcess::Fill(uint64_t addr, uint64_t size, uint64_t seed) {
    Tell(Format("fill %" PRIu64 " %" PRIu64 " %" PRIu64, addr, size, seed));
}

bool PeerProcess::Holds(uint64_t addr, uint64_t size, uint64_t seed) {
    return Tell(Format("holds %" PRIu64 " %" PRIu64 " %" PRIu64, addr, size, seed)) == "yes";
}

Status PeerProcess::Link(Side *side, uint64_t nonce, bool initiator) {
    const auto peer_port = static_cast<uint32_t>(std::stoul(Tell("port")));
    const std::string peer = Unhex(Tell(Format("endpoint %" PRIu64, nonce)));
    const std::string own = side->Endpoint(nonce);
    const std::string connect =
        Format("connect %d %" PRIu64 " %u ", initiator ? 1 : 0, nonce, side->port()) + Hex(own);
    if (initiator) {
        LLDD_RETURN_IF_ERROR(Try(connect));
        LLDD_RETURN_IF_ERROR(side->Connect(LinkEnd::kInitiator, nonce, peer, peer_port));
        return Try("confirm");
    }
    LLDD_RETURN_IF_ERROR(side->Connect(LinkEnd::kAcceptor, nonce, peer, peer_port));
    LLDD_RETURN_IF_ERROR(Try(connect));
    return side->Confirm();
}

void PeerProcess::Signal(int signal) { CHECK(kill(pid_, signal) == 0); }

void PeerProcess::Kill() {
    Signal(SIGKILL);
    CHECK(waitpid(pid_, nullptr, 0) == pid_);
    pid_ = -1;
}

int ServeCommands(int socket) {
    const Fd orders(socket);
    Side side;
    std::string message(kMostMessage, '\0');
    for (;;) {
        const ssize_t size = recv(orders.get(), message.data(), message.size(), 0);
        if (size < 0 && errno == EINTR) continue;
        if (size <= 0) return 0;
        std::string text;
        side.Synchronise();
        const Status status = Obey(&side, message.substr(0, static_cast<size_t>(size)), &text);
        side.Synchronise();
        const std::string answer = Encode(status, text);
        if (send(orders.get(), answer.data(), answer.size(), MSG_NOSIGNAL) < 0) return 0;
    }
}

}  // namespace lldd::test
