// The fake CANN refuses what the real one refuses, or documents as wrong. Run by
// tests/runtimes/ascend/test_fake_cann.py: one case a process, named by the argument.
//
// SPDX-License-Identifier: Apache-2.0
#include <netinet/in.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
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

struct Side {
    std::string name = FreeAddress();
    hixl::Hixl hixl;
    char *memory = DeviceMemory();

    explicit Side(bool registers = true) {
        CHECK(hixl.Initialize(name.c_str(), {}) == hixl::SUCCESS);
        hixl::MemHandle handle = nullptr;
        if (registers) CHECK(Register(memory, hixl::MEM_DEVICE, &handle) == hixl::SUCCESS);
    }
    ~Side() { hixl.Finalize(); }

    hixl::Status Register(char *at, hixl::MemType type, hixl::MemHandle *handle) {
        hixl::MemDesc desc{};
        desc.addr = reinterpret_cast<uintptr_t>(at);
        desc.len = kSize;
        return hixl.RegisterMem(desc, type, *handle);
    }
    hixl::Status Move(hixl::TransferOp operation, const Side &other,
                      const std::vector<std::pair<char *, char *>> &pairs) {
        std::vector<hixl::TransferOpDesc> descs;
        for (const auto &[local, remote] : pairs) {
            descs.push_back(
                {reinterpret_cast<uintptr_t>(local), reinterpret_cast<uintptr_t>(remote), 4096});
        }
        return hixl.TransferSync(other.name.c_str(), operation, descs, 2000);
    }
};

void SetDevice() { CHECK(aclrtSetDevice(0) == ACL_SUCCESS); }

void Moves() {
    SetDevice();
    Side owner;
    Side puller;
    std::memset(owner.memory, 7, kSize);
    CHECK(puller.hixl.Connect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(puller.Move(hixl::READ, owner, {{puller.memory, owner.memory + 4096}}) == hixl::SUCCESS);
    CHECK(puller.memory[4095] == 7 && puller.memory[4096] == 0);
    std::memset(puller.memory, 9, kSize);
    CHECK(puller.Move(hixl::WRITE, owner, {{puller.memory, owner.memory}}) == hixl::SUCCESS);
    CHECK(owner.memory[0] == 9 && owner.memory[4095] == 9 && owner.memory[4096] == 7);
    CHECK(puller.hixl.Disconnect(owner.name.c_str(), 2000) == hixl::SUCCESS);
}

void ConnectionsServeWhoMadeThem() {
    SetDevice();
    Side owner;
    Side puller;
    CHECK(puller.Move(hixl::READ, owner, {{puller.memory, owner.memory}}) == hixl::NOT_CONNECTED);
    CHECK(puller.hixl.Connect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(puller.hixl.Connect(owner.name.c_str(), 2000) == hixl::ALREADY_CONNECTED);
    CHECK(owner.Move(hixl::READ, puller, {{owner.memory, puller.memory}}) == hixl::NOT_CONNECTED);
    CHECK(puller.hixl.Disconnect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(puller.hixl.Disconnect(owner.name.c_str(), 2000) == hixl::NOT_CONNECTED);
}

void MemoryAfterConnect() {
    SetDevice();
    Side owner;
    Side puller;
    CHECK(puller.hixl.Connect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    char *late = DeviceMemory();
    CHECK(puller.Move(hixl::READ, owner, {{puller.memory, late}}) == hixl::PARAM_INVALID);
    hixl::MemHandle handle = nullptr;
    CHECK(owner.Register(late, hixl::MEM_DEVICE, &handle) == hixl::SUCCESS);
    CHECK(puller.Move(hixl::READ, owner, {{puller.memory, late}}) == hixl::PARAM_INVALID);
    CHECK(puller.hixl.Disconnect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(puller.hixl.Connect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(puller.Move(hixl::READ, owner, {{puller.memory, late}}) == hixl::SUCCESS);
    // On the own side: taken for host memory, which this is not.
    char *later = DeviceMemory();
    CHECK(puller.Register(later, hixl::MEM_DEVICE, &handle) == hixl::SUCCESS);
    CHECK(puller.Move(hixl::READ, owner, {{later, late}}) == hixl::FAILED);
    CHECK(puller.Move(hixl::READ, owner, {{puller.memory, late}}) == hixl::FAILED);
    CHECK(puller.hixl.Disconnect(owner.name.c_str(), 2000) == hixl::SUCCESS);
}

void Staging() {
    SetDevice();
    Side owner;
    Side puller;
    std::memset(owner.memory, 7, kSize);
    std::vector<char> host(kSize);
    CHECK(puller.hixl.Connect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(puller.Move(hixl::READ, owner, {{host.data(), owner.memory}}) == hixl::SUCCESS);
    CHECK(host[0] == 7 && host[4096] == 0);
    // Two directions in a staged call.
    CHECK(puller.Move(hixl::READ, owner,
                      {{host.data(), owner.memory}, {puller.memory, owner.memory}}) ==
          hixl::PARAM_INVALID);
    CHECK(puller.hixl.Disconnect(owner.name.c_str(), 2000) == hixl::SUCCESS);
}

void FailedTransfers() {
    SetDevice();
    Side owner;
    Side puller;
    CHECK(puller.hixl.Connect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    auto *nowhere = reinterpret_cast<char *>(4096);
    CHECK(puller.Move(hixl::READ, owner, {{nowhere, owner.memory}}) == hixl::FAILED);
    CHECK(puller.Move(hixl::READ, owner, {{puller.memory, owner.memory}}) == hixl::FAILED);
    CHECK(puller.hixl.Connect(owner.name.c_str(), 2000) == hixl::ALREADY_CONNECTED);
    CHECK(puller.hixl.Disconnect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(puller.hixl.Connect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(puller.Move(hixl::READ, owner, {{puller.memory, owner.memory}}) == hixl::SUCCESS);
    CHECK(puller.hixl.Disconnect(owner.name.c_str(), 2000) == hixl::SUCCESS);
}

void Registering() {
    SetDevice();
    Side owner(false);
    Side puller;
    hixl::MemHandle handle = nullptr;
    hixl::MemHandle again = nullptr;
    CHECK(owner.Register(owner.memory, hixl::MEM_HOST, &handle) == hixl::PARAM_INVALID);
    hixl::MemDesc dirty;
    std::memset(&dirty, 0xA5, sizeof dirty);
    dirty.addr = reinterpret_cast<uintptr_t>(owner.memory);
    dirty.len = kSize;
    CHECK(owner.hixl.RegisterMem(dirty, hixl::MEM_DEVICE, handle) == hixl::PARAM_INVALID);
    CHECK(owner.Register(owner.memory, hixl::MEM_DEVICE, &handle) == hixl::SUCCESS);
    CHECK(owner.Register(owner.memory, hixl::MEM_DEVICE, &again) == hixl::SUCCESS);
    CHECK(handle == again);
    // Not while a connection knows it, of either side.
    CHECK(puller.hixl.Connect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(owner.hixl.DeregisterMem(handle) == hixl::FAILED);
    CHECK(puller.hixl.Disconnect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(owner.hixl.DeregisterMem(handle) == hixl::SUCCESS);
    CHECK(owner.hixl.DeregisterMem(handle) == hixl::SUCCESS);
    void *small = nullptr;
    CHECK(aclrtMalloc(&small, kSize, ACL_MEM_MALLOC_NORMAL_ONLY) == ACL_SUCCESS);
    CHECK(owner.Register(static_cast<char *>(small), hixl::MEM_DEVICE, &handle) ==
          hixl::PARAM_INVALID);
    CHECK(aclrtFree(small) == ACL_SUCCESS);
}

void Initializing() {
    SetDevice();
    Side owner;
    hixl::Hixl other;
    CHECK(other.Initialize(owner.name.c_str(), {}) == hixl::FAILED);  // not unique
    CHECK(other.Initialize("no address", {}) == hixl::PARAM_INVALID);
    CHECK(other.Initialize("127.0.0.1:70000", {}) == hixl::PARAM_INVALID);
    CHECK(other.Initialize("127.0.0.1", {{"NoSuchOption", "1"}}) == hixl::PARAM_INVALID);
    CHECK(other.Initialize("127.0.0.1", {{"GlobalResourceConfig", "x"}}) == hixl::PARAM_INVALID);
    for (const char *wrong : {"133", "256", "-4", "", "x"})
        CHECK(other.Initialize("127.0.0.1", {{"RdmaTrafficClass", wrong}}) == hixl::PARAM_INVALID);
    CHECK(other.Initialize("127.0.0.1", {{"RdmaServiceLevel", "8"}}) == hixl::PARAM_INVALID);
    CHECK(other.Connect(owner.name.c_str(), 2000) == hixl::FAILED);  // not initialized
    // A client alone, and IPv6.
    CHECK(other.Initialize("127.0.0.1", {{"RdmaTrafficClass", "132"}}) == hixl::SUCCESS);
    CHECK(other.Connect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(other.Disconnect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(other.Connect(FreeAddress().c_str(), 2000) == hixl::FAILED);
    CHECK(other.Connect("127.0.0.1", 2000) == hixl::PARAM_INVALID);
    hixl::Hixl six;
    CHECK(six.Initialize("[::1]:0", {}) == hixl::SUCCESS);
}

void Contexts() {
    void *memory = nullptr;
    CHECK(aclrtMalloc(&memory, kSize, ACL_MEM_MALLOC_HUGE_ONLY) != ACL_SUCCESS);
    CHECK(aclrtSetDevice(4711) != ACL_SUCCESS);
    SetDevice();
    Side owner;
    Side puller;
    aclrtContext context = nullptr;
    CHECK(aclrtGetCurrentContext(&context) == ACL_SUCCESS);
    std::thread([&] {
        aclrtContext none = nullptr;
        CHECK(aclrtGetCurrentContext(&none) != ACL_SUCCESS);
        CHECK(puller.hixl.Connect(owner.name.c_str(), 2000) == hixl::PARAM_INVALID);
        CHECK(aclrtSetDevice(1) == ACL_SUCCESS);
        CHECK(puller.hixl.Connect(owner.name.c_str(), 2000) == hixl::PARAM_INVALID);
        CHECK(aclrtResetDevice(1) == ACL_SUCCESS);
        CHECK(aclrtSetCurrentContext(context) == ACL_SUCCESS);
        CHECK(puller.hixl.Connect(owner.name.c_str(), 2000) == hixl::SUCCESS);
        CHECK(puller.hixl.Disconnect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    }).join();
    CHECK(aclrtResetDevice(0) == ACL_SUCCESS);
    CHECK(aclrtMalloc(&memory, kSize, ACL_MEM_MALLOC_HUGE_ONLY) != ACL_SUCCESS);
    CHECK(aclrtResetDevice(0) != ACL_SUCCESS);
    SetDevice();
}

// Memory that only copies and transfers may touch.
void Opaque() {
    CHECK(setenv("FAKE_CANN_DEVICE_MEMORY", "opaque", 1) == 0);
    SetDevice();
    Side owner;
    Side puller;
    const pid_t child = fork();
    if (child == 0) {
        // What a shell calls a segmentation fault is expected here: no file of it.
        const rlimit none{0, 0};
        setrlimit(RLIMIT_CORE, &none);
        char *own = DeviceMemory();
        _exit(*static_cast<volatile char *>(own));
    }
    int ended = 0;
    CHECK(waitpid(child, &ended, 0) == child && WIFSIGNALED(ended) && WTERMSIG(ended) == SIGSEGV);
    std::vector<char> host(kSize, 7);
    CHECK(aclrtMemcpy(owner.memory, kSize, host.data(), kSize, ACL_MEMCPY_HOST_TO_DEVICE) ==
          ACL_SUCCESS);
    CHECK(aclrtMemcpy(owner.memory, kSize, host.data(), kSize, ACL_MEMCPY_DEVICE_TO_DEVICE) !=
          ACL_SUCCESS);
    CHECK(aclrtMemcpy(host.data(), kSize, puller.memory, kSize, ACL_MEMCPY_HOST_TO_HOST) !=
          ACL_SUCCESS);
    CHECK(aclrtMemcpy(puller.memory + kSize - 1, 2, host.data(), 2, ACL_MEMCPY_HOST_TO_DEVICE) !=
          ACL_SUCCESS);
    CHECK(puller.hixl.Connect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(puller.Move(hixl::READ, owner, {{puller.memory + 5, owner.memory + kSize - 4096}}) ==
          hixl::SUCCESS);
    CHECK(puller.hixl.Disconnect(owner.name.c_str(), 2000) == hixl::SUCCESS);
    CHECK(aclrtMemcpy(host.data(), kSize, puller.memory, kSize, ACL_MEMCPY_DEVICE_TO_HOST) ==
          ACL_SUCCESS);
    CHECK(host[4] == 0 && host[5] == 7 && host[4100] == 7 && host[4101] == 0);
    // A device's memory is what aclrtMalloc gave; that of the host may be touched.
    hixl::MemHandle handle = nullptr;
    CHECK(owner.Register(host.data(), hixl::MEM_DEVICE, &handle) == hixl::PARAM_INVALID);
    CHECK(owner.Register(host.data(), hixl::MEM_HOST, &handle) == hixl::SUCCESS);
    void *pinned = nullptr;
    CHECK(aclrtMallocHost(&pinned, kSize) == ACL_SUCCESS);
    std::memset(pinned, 1, kSize);
    CHECK(aclrtFreeHost(pinned) == ACL_SUCCESS);
    CHECK(aclrtFree(puller.memory) == ACL_SUCCESS);
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
        {"failed_transfers", FailedTransfers},
        {"registering", Registering},
        {"initializing", Initializing},
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
