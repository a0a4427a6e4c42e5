// The fake CANN refuses what the real one refuses, or documents as wrong. Run by
// tests/runtimes/ascend/test_fake_cann.py: one case a process, named by the argument.
//
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "acl/acl.h"
#include "hixl/hixl.h"

namespace {

#define CHECK(condition)                                                             \
    do {                                                                             \
        if (!(condition)) {                                                          \
            const char *why = aclGetRecentErrMsg();                                  \
            std::fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, \
                         why == nullptr ? "" : why);                                 \
            std::exit(1);                                                            \
        }                                                                            \
    } while (false)

constexpr size_t kSize = 4 << 20;
constexpr bool kIs850 = FAKE_HIXL == 850;
constexpr bool kIs910 = FAKE_HIXL == 910;

using Options = std::map<hixl::AscendString, hixl::AscendString>;

std::string FreeAddress() {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0);
    socklen_t size = sizeof address;
    CHECK(getsockname(fd, reinterpret_cast<sockaddr *>(&address), &size) == 0);
    close(fd);
    return "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

char *DeviceMemory() {
    void *memory = nullptr;
    CHECK(aclrtMalloc(&memory, kSize, ACL_MEM_MALLOC_HUGE_ONLY) == ACL_SUCCESS);
    return static_cast<char *>(memory);
}

int next_device = 0;

// An engine with memory, on a device that no other side has.
struct Side {
    std::string name = FreeAddress();
    hixl::Hixl hixl;
    aclrtContext context = nullptr;
    char *memory = nullptr;

    explicit Side(bool registers = true, const Options &options = {}) {
        CHECK(aclrtSetDevice(next_device++) == ACL_SUCCESS);
        CHECK(aclrtGetCurrentContext(&context) == ACL_SUCCESS);
        memory = DeviceMemory();
        CHECK(hixl.Initialize(name.c_str(), options) == hixl::SUCCESS);
        if (registers) CHECK(Register(memory) != nullptr);
    }
    ~Side() { Here().Finalize(); }

    // On this thread, with the context that its calls need.
    hixl::Hixl &Here() {
        CHECK(aclrtSetCurrentContext(context) == ACL_SUCCESS);
        return hixl;
    }
    hixl::Status Register(char *at, size_t size, hixl::MemType type, hixl::MemHandle *handle) {
        hixl::MemDesc desc{};
        desc.addr = reinterpret_cast<uintptr_t>(at);
        desc.len = size;
        return Here().RegisterMem(desc, type, *handle);
    }
    hixl::MemHandle Register(char *at, size_t size = kSize) {
        hixl::MemHandle handle = nullptr;
        CHECK(Register(at, size, hixl::MEM_DEVICE, &handle) == hixl::SUCCESS);
        return handle;
    }
    hixl::Status Deregister(hixl::MemHandle handle) { return Here().DeregisterMem(handle); }
    hixl::Status Connect(const Side &other) { return Here().Connect(other.name.c_str(), 2000); }
    hixl::Status Disconnect(const Side &other) {
        return Here().Disconnect(other.name.c_str(), 2000);
    }
    hixl::Status Move(hixl::TransferOp operation, const Side &other,
                      const std::vector<std::pair<char *, char *>> &pairs, int32_t ms = 2000) {
        std::vector<hixl::TransferOpDesc> descs;
        for (const auto &[local, remote] : pairs) {
            descs.push_back(
                {reinterpret_cast<uintptr_t>(local), reinterpret_cast<uintptr_t>(remote), 4096});
        }
        return Here().TransferSync(other.name.c_str(), operation, descs, ms);
    }
};

// Two sides, the second of which is connected to the first.
struct Pair {
    Side owner;
    Side puller;

    explicit Pair(const Options &options = Options())
        : owner(true, options), puller(true, options) {
        CHECK(puller.Connect(owner) == hixl::SUCCESS);
    }
    hixl::Status Pull(int32_t ms = 2000) {
        return puller.Move(hixl::READ, owner, {{puller.memory, owner.memory}}, ms);
    }
};

void SetDevice() { CHECK(aclrtSetDevice(0) == ACL_SUCCESS); }

int64_t MsOf(const std::function<void()> &call) {
    const auto began = std::chrono::steady_clock::now();
    call();
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() -
                                                                 began)
        .count();
}

// The signal that ends a child which does that; 0: it exits with 0.
int SignalOfChild(const std::function<void()> &does) {
    const pid_t child = fork();
    if (child == 0) {
        // What a shell calls a crash is expected here: no file of it.
        const rlimit none{0, 0};
        setrlimit(RLIMIT_CORE, &none);
        does();
        _exit(0);
    }
    int ended = 0;
    CHECK(waitpid(child, &ended, 0) == child);
    CHECK(WIFSIGNALED(ended) || WEXITSTATUS(ended) == 0);
    return WIFSIGNALED(ended) ? WTERMSIG(ended) : 0;
}

void Moves() {
    Pair pair;
    Side &owner = pair.owner;
    Side &puller = pair.puller;
    std::memset(owner.memory, 7, kSize);
    CHECK(puller.Move(hixl::READ, owner, {{puller.memory, owner.memory + 4096}}) == hixl::SUCCESS);
    CHECK(puller.memory[4095] == 7 && puller.memory[4096] == 0);
    std::memset(puller.memory, 9, kSize);
    CHECK(puller.Move(hixl::WRITE, owner, {{puller.memory, owner.memory}}) == hixl::SUCCESS);
    CHECK(owner.memory[0] == 9 && owner.memory[4095] == 9 && owner.memory[4096] == 7);
    CHECK(puller.Disconnect(owner) == hixl::SUCCESS);
}

void ConnectionsServeWhoMadeThem() {
    Side owner;
    Side puller;
    CHECK(puller.Move(hixl::READ, owner, {{puller.memory, owner.memory}}) == hixl::NOT_CONNECTED);
    CHECK(puller.Connect(owner) == hixl::SUCCESS);
    CHECK(puller.Connect(owner) == hixl::ALREADY_CONNECTED);
    CHECK(owner.Move(hixl::READ, puller, {{owner.memory, puller.memory}}) == hixl::NOT_CONNECTED);
    CHECK(puller.Disconnect(owner) == hixl::SUCCESS);
    CHECK(puller.Disconnect(owner) == hixl::NOT_CONNECTED);
}

void MemoryAfterConnect() {
    Pair pair;
    Side &owner = pair.owner;
    Side &puller = pair.puller;
    owner.Here();
    char *late = DeviceMemory();
    CHECK(puller.Move(hixl::READ, owner, {{puller.memory, late}}) == hixl::PARAM_INVALID);
    owner.Register(late);
    CHECK(puller.Move(hixl::READ, owner, {{puller.memory, late}}) == hixl::PARAM_INVALID);
    CHECK(puller.Disconnect(owner) == hixl::SUCCESS);
    CHECK(puller.Connect(owner) == hixl::SUCCESS);
    CHECK(puller.Move(hixl::READ, owner, {{puller.memory, late}}) == hixl::SUCCESS);
    // On the own side: taken for host memory, which this is not.
    char *later = DeviceMemory();
    puller.Register(later);
    CHECK(puller.Move(hixl::READ, owner, {{later, late}}) == hixl::FAILED);
    CHECK(puller.Disconnect(owner) == hixl::SUCCESS);
}

void Staging() {
    Pair pair;
    Side &owner = pair.owner;
    Side &puller = pair.puller;
    std::memset(owner.memory, 7, kSize);
    std::vector<char> host(kSize);
    CHECK(puller.Move(hixl::READ, owner, {{host.data(), owner.memory}}) == hixl::SUCCESS);
    CHECK(host[0] == 7 && host[4096] == 0);
    // Two directions in a staged call.
    CHECK(puller.Move(hixl::READ, owner,
                      {{host.data(), owner.memory}, {puller.memory, owner.memory}}) ==
          hixl::PARAM_INVALID);
}

void NoBufferPool() {
    Pair pair(Options{{"BufferPool", "0:0"}});
    std::vector<char> host(kSize);
    CHECK(pair.puller.Move(hixl::READ, pair.owner, {{host.data(), pair.owner.memory}}) ==
          hixl::PARAM_INVALID);
    // Nothing is staged, so nothing overflows.
    CHECK(pair.Pull(INT32_MAX) == hixl::SUCCESS);
}

// In a child that makes all of it: one of a process with an engine could find a mutex that a thread
// of the engine held while it forked, and stand still.
void StagedTimeouts() {
    const auto pulls = [](int32_t ms) {
        Pair pair;
        CHECK(pair.Pull(ms) == hixl::SUCCESS);
    };
    CHECK(SignalOfChild([&] { pulls(2'147'484); }) == (kIs850 ? SIGABRT : 0));
    pulls(2'147'483);
}

void SegmentsThatAreForgotten() {
    Pair pair;
    CHECK(pair.owner.Connect(pair.puller) == hixl::SUCCESS);
    CHECK(pair.owner.Disconnect(pair.puller) == hixl::SUCCESS);
    CHECK(pair.Pull(50) == (kIs850 ? hixl::TIMEOUT : hixl::SUCCESS));
    Pair unstaged(Options{{"BufferPool", "0:0"}});
    CHECK(unstaged.owner.Connect(unstaged.puller) == hixl::SUCCESS);
    CHECK(unstaged.owner.Disconnect(unstaged.puller) == hixl::SUCCESS);
    CHECK(unstaged.Pull() == hixl::SUCCESS);
}

void FailedTransfers() {
    Pair pair;
    Side &owner = pair.owner;
    Side &puller = pair.puller;
    auto *nowhere = reinterpret_cast<char *>(4096);
    CHECK(puller.Move(hixl::READ, owner, {{nowhere, owner.memory}}) == hixl::FAILED);
    CHECK(pair.Pull() == hixl::FAILED);
    CHECK(puller.Connect(owner) == hixl::ALREADY_CONNECTED);
    CHECK(puller.Disconnect(owner) == hixl::SUCCESS);
    CHECK(puller.Connect(owner) == hixl::SUCCESS);
    CHECK(pair.Pull() == hixl::SUCCESS);
    CHECK(puller.Disconnect(owner) == hixl::SUCCESS);
}

void Registering() {
    Side owner(false);
    Side puller;
    owner.Here();
    hixl::MemHandle handle = nullptr;
    CHECK(owner.Register(owner.memory, kSize, hixl::MEM_HOST, &handle) == hixl::PARAM_INVALID);
    hixl::MemDesc dirty;
    std::memset(static_cast<void *>(&dirty), 0xA5, sizeof dirty);
    dirty.addr = reinterpret_cast<uintptr_t>(owner.memory);
    dirty.len = kSize;
    CHECK(owner.hixl.RegisterMem(dirty, hixl::MEM_DEVICE, handle) == hixl::PARAM_INVALID);
    handle = owner.Register(owner.memory);
    CHECK(owner.Register(owner.memory) == handle);
    // Not while a connection knows it, of either side.
    CHECK(puller.Connect(owner) == hixl::SUCCESS);
    CHECK(owner.Deregister(handle) == hixl::PARAM_INVALID);
    CHECK(puller.Disconnect(owner) == hixl::SUCCESS);
    CHECK(owner.Deregister(handle) == hixl::SUCCESS);
    CHECK(owner.Deregister(handle) == hixl::SUCCESS);
    void *small = nullptr;
    CHECK(aclrtMalloc(&small, kSize, ACL_MEM_MALLOC_NORMAL_ONLY) == ACL_SUCCESS);
    CHECK(owner.Register(static_cast<char *>(small), kSize, hixl::MEM_DEVICE, &handle) ==
          hixl::PARAM_INVALID);
    CHECK(aclrtFree(small) == ACL_SUCCESS);
}

void Overlaps() {
    Side owner(false);
    hixl::MemHandle handle = nullptr;
    owner.Register(owner.memory + 4096, kSize / 2);
    for (const size_t at : {size_t{0}, size_t{8192}, kSize / 2}) {
        CHECK(owner.Register(owner.memory + at, kSize / 4 + 4096, hixl::MEM_DEVICE, &handle) ==
              hixl::PARAM_INVALID);
    }
    owner.Register(owner.memory + 4096 + kSize / 2, 4096);
    // The registry is the device's: engines share it, and the first to end takes its memory away.
    hixl::Hixl beside;
    CHECK(beside.Initialize("127.0.0.1", {}) == hixl::SUCCESS);
    hixl::MemDesc desc{};
    desc.addr = reinterpret_cast<uintptr_t>(owner.memory) + 4096;
    desc.len = kSize / 2;
    CHECK(beside.RegisterMem(desc, hixl::MEM_DEVICE, handle) == hixl::SUCCESS);
    CHECK(owner.Register(owner.memory + 4096, kSize / 2) == handle);
    beside.Finalize();
    owner.Register(owner.memory, kSize / 2);
}

// What is refused is not among what later connections learn, until it is registered again.
void RefusedDeregistrations() {
    Pair pair;
    Side other;
    const hixl::MemHandle handle = pair.owner.Register(pair.owner.memory);
    CHECK(pair.owner.Deregister(handle) == hixl::PARAM_INVALID);
    CHECK(pair.Pull() == hixl::SUCCESS);
    CHECK(other.Connect(pair.owner) == hixl::SUCCESS);
    CHECK(other.Move(hixl::READ, pair.owner, {{other.memory, pair.owner.memory}}) ==
          hixl::PARAM_INVALID);
    CHECK(other.Disconnect(pair.owner) == hixl::SUCCESS);
    CHECK(pair.owner.Register(pair.owner.memory) == handle);
    CHECK(other.Connect(pair.owner) == hixl::SUCCESS);
    CHECK(other.Move(hixl::READ, pair.owner, {{other.memory, pair.owner.memory}}) == hixl::SUCCESS);
}

void CommResource() {
    Pair pair(Options{{"LocalCommRes", "{\"version\": \"1.3\"}"}});
    pair.owner.Here();
    const hixl::MemHandle handle = pair.owner.Register(DeviceMemory());
    CHECK(pair.owner.Deregister(handle) == (kIs850 ? hixl::SUCCESS : hixl::FAILED));
    CHECK(pair.puller.Disconnect(pair.owner) == hixl::SUCCESS);
    CHECK(pair.owner.Deregister(handle) == hixl::SUCCESS);
}

void TheSameDevice() {
    Side owner;
    hixl::Hixl beside;
    CHECK(beside.Initialize("127.0.0.1", {}) == hixl::SUCCESS);
    CHECK(beside.Connect(owner.name.c_str(), 2000) == hixl::PARAM_INVALID);
    CHECK(aclrtSetDevice(9) == ACL_SUCCESS);
    hixl::Hixl elsewhere;
    CHECK(elsewhere.Initialize("127.0.0.1", {}) == hixl::SUCCESS);
    CHECK(elsewhere.Connect(owner.name.c_str(), 2000) == hixl::SUCCESS);
}

void Initializing() {
    Side owner;
    // An object whose Initialize failed is kept: 8.5.0 dies of its end.
    auto &other = *new hixl::Hixl;
    CHECK(other.Initialize(owner.name.c_str(), {}) == hixl::FAILED);  // not unique
    CHECK(other.Initialize("no address", {}) == hixl::PARAM_INVALID);
    CHECK(other.Initialize("127.0.0.1:70000", {}) == hixl::PARAM_INVALID);
    for (const char *wrong : {"133", "256", "-4", "", "x"})
        CHECK(other.Initialize("127.0.0.1", {{"RdmaTrafficClass", wrong}}) == hixl::PARAM_INVALID);
    CHECK(other.Initialize("127.0.0.1", {{"RdmaServiceLevel", "8"}}) == hixl::PARAM_INVALID);
    CHECK(other.Initialize("127.0.0.1", {{"BufferPool", "4"}}) == hixl::PARAM_INVALID);
    CHECK(other.Connect(owner.name.c_str(), 2000) == hixl::FAILED);  // not initialized
    // A client alone, and IPv6.
    CHECK(aclrtSetDevice(9) == ACL_SUCCESS);
    CHECK(other.Initialize("127.0.0.1", {{"RdmaTrafficClass", "132"}}) == hixl::SUCCESS);
    CHECK(other.Connect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(other.Disconnect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(other.Connect(FreeAddress().c_str(), 2000) == hixl::FAILED);
    CHECK(other.Connect("127.0.0.1", 2000) == hixl::PARAM_INVALID);
    hixl::Hixl six;
    CHECK(six.Initialize("[::1]:0", {}) == hixl::SUCCESS);
}

void OptionsOfVersions() {
    SetDevice();
    const auto with = [](const char *key, const std::string &value) {
        auto &hixl = *new hixl::Hixl;
        return hixl.Initialize("127.0.0.1", {{key, value.c_str()}});
    };
    const auto as = [](bool accepted) { return accepted ? hixl::SUCCESS : hixl::PARAM_INVALID; };
    char path[] = "/tmp/fake_cann_XXXXXX";
    const int file = mkstemp(path);
    CHECK(file >= 0 && write(file, "{}", 2) == 2);
    CHECK(with("GlobalResourceConfig", path) == as(kIs850));
    unlink(path);
    CHECK(with("GlobalResourceConfig", path) == hixl::PARAM_INVALID);
    CHECK(with("GlobalResourceConfig", "{}") == as(!kIs850));
    CHECK(with("LocalCommRes", "rubbish") == as(kIs850));
    CHECK(with("NoSuchOption", "1") == as(!kIs910));
}

void AStartThatFailed() {
    SetDevice();
    const int signal = SignalOfChild([] {
        hixl::Hixl hixl;
        (void)hixl.Initialize("no address", {});
    });
    CHECK(signal == (kIs850 ? SIGSEGV : 0));
}

// Neither call looks at its time: the process that is stopped has to go on.
void AStoppedPeer() {
    int to_parent[2];
    int to_child[2];
    CHECK(pipe(to_parent) == 0 && pipe(to_child) == 0);
    char name[64] = {};
    char word = 0;
    const pid_t child = fork();
    if (child == 0) {
        next_device = 9;
        Side owner;
        std::snprintf(name, sizeof name, "%s", owner.name.c_str());
        CHECK(write(to_parent[1], name, sizeof name) == sizeof name);
        CHECK(read(to_child[0], &word, 1) == 1);
        _exit(0);
    }
    CHECK(read(to_parent[0], name, sizeof name) == sizeof name);
    Side first;
    Side second;
    CHECK(second.Here().Connect(name, 2000) == hixl::SUCCESS);
    CHECK(kill(child, SIGSTOP) == 0);
    std::thread goes_on([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(700));
        CHECK(kill(child, SIGCONT) == 0);
    });
    std::thread disconnects(
        [&] { CHECK(MsOf([&] { (void)second.Here().Disconnect(name, 100); }) > 500); });
    CHECK(MsOf([&] { CHECK(first.Here().Connect(name, 100) == hixl::SUCCESS); }) > 500);
    disconnects.join();
    goes_on.join();
    CHECK(write(to_child[1], &word, 1) == 1);
    CHECK(waitpid(child, nullptr, 0) == child);
}

// Its memory is bound for a while yet, and what disconnects from it hits somebody else's descriptor.
void AKilledPeer() {
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    Side owner;
    const hixl::MemHandle handle = owner.Register(owner.memory);
    char name[64] = {};
    const pid_t child = fork();
    if (child == 0) {
        next_device = 8;
        Side peer;
        CHECK(peer.Connect(owner) == hixl::SUCCESS);
        std::snprintf(name, sizeof name, "%s", peer.name.c_str());
        CHECK(write(pipes[1], name, sizeof name) == sizeof name);
        pause();
    }
    CHECK(read(pipes[0], name, sizeof name) == sizeof name);
    CHECK(aclrtSetDevice(9) == ACL_SUCCESS);
    hixl::Hixl client;
    CHECK(client.Initialize("127.0.0.1", {}) == hixl::SUCCESS);
    // A connection has two descriptors, of which the second is its socket.
    const int first = dup(0);
    const int before = dup(0);
    close(before);
    close(first);
    CHECK(client.Connect(name, 2000) == hixl::SUCCESS);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, nullptr, 0) == child);
    CHECK(owner.Deregister(handle) == hixl::PARAM_INVALID);
    // The heartbeat closes the socket, and something else gets its number.
    int mine[2] = {-1, -1};
    for (int tries = 0; tries < 500 && mine[1] != before; ++tries) {
        for (const int fd : mine) close(fd);
        CHECK(pipe(mine) == 0);
        if (mine[0] == before || mine[1] == before) break;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    CHECK(aclrtSetDevice(9) == ACL_SUCCESS);
    CHECK(client.Disconnect(name, 2000) == hixl::SUCCESS);
    CHECK(fcntl(before, F_GETFD) < 0);
    for (int tries = 0; tries < 500; ++tries) {
        if (owner.Deregister(handle) == hixl::SUCCESS) return;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    CHECK(!"the memory is given back");
}

int Count(const char *folder, const char *what) {
    const std::string command = std::string("ls -l /proc/") + std::to_string(getpid()) + folder +
                                " | grep -c '" + what + "'";
    FILE *output = popen(command.c_str(), "r");
    int count = 0;
    CHECK(std::fscanf(output, "%d", &count) == 1);
    pclose(output);
    return count;
}

void WhatStays() {
    {
        Side side;
    }
    CHECK(Count("/fd", "eventpoll") == 1);
    const std::string tasks = "/proc/" + std::to_string(getpid()) + "/task";
    FILE *output = popen(("cat " + tasks + "/*/comm").c_str(), "r");
    char line[64];
    int threads = 0;
    while (std::fgets(line, sizeof line, output) != nullptr)
        threads += std::strcmp(line, "ge_llm_stats\n") == 0;
    pclose(output);
    CHECK(threads == (kIs910 ? 1 : 0));
}

void AForkedChild() {
    Side side;
    const pid_t child = fork();
    if (child == 0) {
        const rlimit none{0, 0};
        setrlimit(RLIMIT_CORE, &none);
        std::exit(0);
    }
    int ended = 0;
    for (int tries = 0; tries < 30; ++tries) {
        if (waitpid(child, &ended, WNOHANG) == child) {
            CHECK(!kIs910);
            CHECK(kIs850 ? WIFSIGNALED(ended) && WTERMSIG(ended) == SIGABRT : ended == 0);
            return;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    CHECK(kIs910);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, nullptr, 0) == child);
}

void Contexts() {
    void *memory = nullptr;
    CHECK(aclrtMalloc(&memory, kSize, ACL_MEM_MALLOC_HUGE_ONLY) != ACL_SUCCESS);
    CHECK(aclrtSetDevice(4711) != ACL_SUCCESS);
    Pair pair;
    CHECK(pair.puller.Disconnect(pair.owner) == hixl::SUCCESS);
    std::thread([&] {
        const char *name = pair.owner.name.c_str();
        hixl::Hixl &hixl = pair.puller.hixl;
        aclrtContext none = nullptr;
        CHECK(aclrtGetCurrentContext(&none) != ACL_SUCCESS);
        CHECK(hixl.Connect(name, 2000) == hixl::PARAM_INVALID);
        CHECK(aclrtSetDevice(5) == ACL_SUCCESS);
        CHECK(hixl.Connect(name, 2000) == hixl::PARAM_INVALID);
        CHECK(aclrtResetDevice(5) == ACL_SUCCESS);
        CHECK(pair.puller.Connect(pair.owner) == hixl::SUCCESS);
        CHECK(pair.puller.Disconnect(pair.owner) == hixl::SUCCESS);
    }).join();
    CHECK(aclrtSetDevice(6) == ACL_SUCCESS);
    CHECK(aclrtResetDevice(6) == ACL_SUCCESS);
    CHECK(aclrtMalloc(&memory, kSize, ACL_MEM_MALLOC_HUGE_ONLY) != ACL_SUCCESS);
    CHECK(aclrtResetDevice(6) != ACL_SUCCESS);
}

// Memory that only copies and transfers may touch.
void Opaque() {
    CHECK(setenv("FAKE_CANN_DEVICE_MEMORY", "opaque", 1) == 0);
    Pair pair;
    Side &owner = pair.owner;
    Side &puller = pair.puller;
    owner.Here();
    CHECK(SignalOfChild([] {
              char *own = DeviceMemory();
              _exit(*static_cast<volatile char *>(own));
          }) == SIGSEGV);
    std::vector<char> host(kSize, 7);
    CHECK(aclrtMemcpy(owner.memory, kSize, host.data(), kSize, ACL_MEMCPY_HOST_TO_DEVICE) ==
          ACL_SUCCESS);
    CHECK(aclrtMemcpy(owner.memory, kSize, host.data(), kSize, ACL_MEMCPY_DEVICE_TO_DEVICE) !=
          ACL_SUCCESS);
    CHECK(aclrtMemcpy(host.data(), kSize, puller.memory, kSize, ACL_MEMCPY_HOST_TO_HOST) !=
          ACL_SUCCESS);
    CHECK(aclrtMemcpy(puller.memory + kSize - 1, 2, host.data(), 2, ACL_MEMCPY_HOST_TO_DEVICE) !=
          ACL_SUCCESS);
    CHECK(puller.Move(hixl::READ, owner, {{puller.memory + 5, owner.memory + kSize - 4096}}) ==
          hixl::SUCCESS);
    CHECK(aclrtMemcpy(host.data(), kSize, puller.memory, kSize, ACL_MEMCPY_DEVICE_TO_HOST) ==
          ACL_SUCCESS);
    CHECK(host[4] == 0 && host[5] == 7 && host[4100] == 7 && host[4101] == 0);
    // A device's memory is what aclrtMalloc gave; that of the host may be touched.
    hixl::MemHandle handle = nullptr;
    CHECK(owner.Register(host.data(), kSize, hixl::MEM_DEVICE, &handle) == hixl::PARAM_INVALID);
    CHECK(owner.Register(host.data(), kSize, hixl::MEM_HOST, &handle) == hixl::SUCCESS);
    void *pinned = nullptr;
    CHECK(aclrtMallocHost(&pinned, kSize) == ACL_SUCCESS);
    std::memset(pinned, 1, kSize);
    CHECK(aclrtFreeHost(pinned) == ACL_SUCCESS);
}

void Copies() {
    SetDevice();
    char *device = DeviceMemory();
    void *host = nullptr;
    CHECK(aclrtMallocHost(&host, kSize) == ACL_SUCCESS);
    std::memset(host, 5, kSize);
    CHECK(aclrtMemcpy(device, kSize, host, kSize, ACL_MEMCPY_HOST_TO_DEVICE) == ACL_SUCCESS);
    CHECK(device[kSize - 1] == 5);
    CHECK(aclrtMemcpy(device, kSize, host, kSize, ACL_MEMCPY_DEVICE_TO_DEVICE) != ACL_SUCCESS);
    CHECK(aclrtMemcpy(device, 1, host, 2, ACL_MEMCPY_HOST_TO_DEVICE) != ACL_SUCCESS);
    aclrtStream stream = nullptr;
    CHECK(aclrtCreateStream(&stream) == ACL_SUCCESS);
    // A device's failure is told by whoever waits.
    auto *nowhere = reinterpret_cast<void *>(4096);
    CHECK(aclrtMemcpyAsync(nowhere, 8, device, 8, ACL_MEMCPY_DEVICE_TO_DEVICE, stream) ==
          ACL_SUCCESS);
    CHECK(aclrtSynchronizeStreamWithTimeout(stream, 1000) != ACL_SUCCESS);
    CHECK(aclrtSynchronizeStreamWithTimeout(stream, 1000) == ACL_SUCCESS);
    // What is not a device's work is not a stream's.
    CHECK(aclrtMemcpyAsync(host, 8, static_cast<char *>(host) + 8, 8, ACL_MEMCPY_HOST_TO_HOST,
                           stream) != ACL_SUCCESS);
    CHECK(aclrtMemcpy(host, 8, static_cast<char *>(host) + 8, 8, ACL_MEMCPY_HOST_TO_HOST) ==
          ACL_SUCCESS);
    CHECK(aclrtMemcpyAsync(device, size_t{8} << 30, host, size_t{5} << 30,
                           ACL_MEMCPY_HOST_TO_DEVICE, stream) != ACL_SUCCESS);
    CHECK(aclrtDestroyStream(stream) == ACL_SUCCESS);
    CHECK(aclrtFree(host) != ACL_SUCCESS);
    CHECK(aclrtFreeHost(host) == ACL_SUCCESS);
    CHECK(aclrtFree(device) == ACL_SUCCESS);
    CHECK(aclrtFree(device) != ACL_SUCCESS);
}

}  // namespace

int main(int argc, char **argv) {
    const std::vector<std::pair<std::string, std::function<void()>>> cases = {
        {"moves", Moves},
        {"connections_serve_who_made_them", ConnectionsServeWhoMadeThem},
        {"memory_after_connect", MemoryAfterConnect},
        {"staging", Staging},
        {"no_buffer_pool", NoBufferPool},
        {"staged_timeouts", StagedTimeouts},
        {"segments_that_are_forgotten", SegmentsThatAreForgotten},
        {"failed_transfers", FailedTransfers},
        {"registering", Registering},
        {"overlaps", Overlaps},
        {"refused_deregistrations", RefusedDeregistrations},
        {"comm_resource", CommResource},
        {"the_same_device", TheSameDevice},
        {"initializing", Initializing},
        {"options_of_versions", OptionsOfVersions},
        {"a_start_that_failed", AStartThatFailed},
        {"a_stopped_peer", AStoppedPeer},
        {"a_killed_peer", AKilledPeer},
        {"what_stays", WhatStays},
        {"a_forked_child", AForkedChild},
        {"contexts", Contexts},
        {"copies", Copies},
        {"opaque", Opaque},
    };
    for (const auto &[name, run] : cases) {
        if (argc == 1) std::puts(name.c_str());
        if (argc == 2 && name == argv[1]) {
            run();
            return 0;
        }
    }
    return argc == 1 ? 0 : 2;
}
