// What a device does without a peer: memory, copies, the environment, what it leaves behind.
//
// SPDX-License-Identifier: Apache-2.0
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <utility>
#include <vector>

#include "base/control_groups.h"
#include "base/range_map.h"
#include "mock_runtime/copy_kernels.h"
#include "mock_runtime/host_cpus.h"
#include "mock_runtime/host_memory.h"
#include "mock_runtime/known_memory.h"
#include "mock_runtime/path_cma.h"
#include "side.h"

namespace lldd::test {
namespace {

constexpr uint64_t kMiB = 1U << 20;

std::string Control(const char *command) {
    std::string answer;
    CHECK_OK(ThisRuntime().Control(command, "", &answer));
    return answer;
}

uint64_t Resident(uint64_t addr, uint64_t size) {
    uint64_t absent = 0;
    CHECK(mock::CountAbsent({addr, size}, size, &absent));
    return size - absent;
}

// A pool far larger than the machine opens at once; only what is committed takes memory.
void LargePool() {
    Side side;
    const uint64_t size = (4 * FindAvailableMemory("").bytes / kMiB) * kMiB;
    uint64_t addr = 0;
    CHECK_OK(side.device().AllocatePool(Placement::kDevice, size, &addr));
    CHECK(Resident(addr, 64 * kMiB) == 0);
    CHECK_OK(side.device().Commit(addr + 5, 3 * kMiB));
    // Where the kernel gives pools huge pages, the last one is whole.
    const uint64_t resident = Resident(addr, 64 * kMiB);
    CHECK(resident == 3 * kMiB + 4096 || resident == 4 * kMiB);
    CHECK_OK(side.device().Commit(addr + 5, 3 * kMiB));
    CHECK_FAILS(LLDD_OUT_OF_MEMORY, "are available", side.device().Commit(addr, size / 2));
    CHECK_FAILS(LLDD_PARAM_INVALID, "not in a pool", side.device().Commit(addr + size - 1, 2));
    CHECK(Resident(addr, 64 * kMiB) == resident);
    side.device().FreePool(addr);
    CHECK_FAILS(LLDD_OUT_OF_MEMORY, "",
                side.device().AllocatePool(Placement::kHost, UINT64_MAX, &addr));
}

void Registration() {
    Side side;
    Device &device = side.device();
    CHECK_FAILS(LLDD_PARAM_INVALID, "address space",
                device.Register(UINT64_MAX - 10, 12, Placement::kDevice));
    CHECK_OK(device.Register(UINT64_MAX - 10, 11, Placement::kDevice));
    CHECK_OK(device.Unregister(UINT64_MAX - 10, 11, Deadline::Passed()));
    CHECK_FAILS(LLDD_PARAM_INVALID, "not registered",
                device.Unregister(UINT64_MAX - 10, 11, Deadline::Passed()));
    // Nothing is there; nothing is touched.
    CHECK_OK(device.Register(4096, 4096, Placement::kHost));
    CHECK(Control("devices").find("registrations 1 (0 known to be mapped)") != std::string::npos);
    const uint64_t addr = MapMemory(kMiB);
    CHECK_OK(device.Register(addr + 16, kMiB - 32, Placement::kDevice));
    CHECK_OK(device.Register(addr + 16, kMiB - 32, Placement::kDevice));
    CHECK(Control("devices").find("registrations 2 (1 known to be mapped)") != std::string::npos);
    CHECK(Resident(addr, kMiB) == kMiB);  // populated, so that the first transfer is no slower
    CHECK_OK(device.Unregister(addr + 16, kMiB - 32, Deadline::Passed()));
    CHECK_OK(device.Unregister(addr + 16, kMiB - 32, Deadline::Passed()));
    CHECK_OK(device.Unregister(4096, 4096, Deadline::Passed()));
    CHECK(Control("devices").find("registrations 0 ") != std::string::npos);
}

// Registration populates a quarter of what is free at most; the rest is found mapped all the same.
void RegistrationInBounds() {
    Side side;
    const uint64_t available = FindAvailableMemory("").bytes;
    const uint64_t size = (available / 2) & ~(kMiB - 1);
    void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(memory != MAP_FAILED);
    const auto addr = reinterpret_cast<uint64_t>(memory);
    CHECK_OK(side.device().Register(addr, size, Placement::kDevice));
    CHECK(Resident(addr, size) == 0);
    CHECK(Control("devices").find("(1 known to be mapped)") != std::string::npos);
}

void KnownMemoryMerges() {
    mock::KnownMemory known;
    known.Add(100, 100);
    known.Add(150, 100);
    known.Add(250, 50);
    known.Add(400, UINT64_MAX - 399);  // to the end of the address space
    mock::KnownMemory::View view(known);
    for (int round = 0; round < 2; ++round) {
        CHECK(view.Contains(100, 200));
        CHECK(!view.Contains(100, 201));
        CHECK(!view.Contains(99, 1));
        CHECK(!view.Contains(299, 2));
        CHECK(view.Contains(UINT64_MAX, 1));
        CHECK(!view.Contains(399, 2));
        CHECK(!view.Contains(250, UINT64_MAX));
    }
    CHECK(view.Contains(100, 200));
    known.Remove(150, 100);
    CHECK(!view.Contains(100, 101));
    CHECK(view.Contains(100, 100));
    CHECK(view.Contains(250, 50));
    known.Remove(400, UINT64_MAX - 399);
    CHECK(!view.Contains(UINT64_MAX, 1));
}

// A few hundred ranges of a small space come and go; the answers are those of a list.
void RangesAgreeWithAList() {
    std::mt19937_64 random(1);
    const auto below = [&](uint64_t bound) { return random() % bound; };
    using Range = std::pair<uint64_t, uint64_t>;  // start and size
    std::vector<Range> list;
    mock::KnownMemory known;
    mock::KnownMemory::View view(known);
    RangeMap<uint32_t> map;
    constexpr uint64_t kSpace = 5000;
    for (int step = 0; step < 4000; ++step) {
        if (list.empty() || below(100) < 50 + (list.size() < 200 ? 5 : 0)) {
            const Range range{below(kSpace), 1 + below(below(8) == 0 ? 1000 : 20)};
            list.push_back(range);
            known.Add(range.first, range.second);
            ++map.Get(range.first, range.second);
        } else {
            std::swap(list[below(list.size())], list.back());
            const auto [start, size] = list.back();
            list.pop_back();
            known.Remove(start, size);
            if (--*map.Find(start, size) == 0) map.Erase(start, size);
        }
        const uint64_t asked = below(kSpace);
        const uint64_t length = 1 + below(30);
        uint64_t overlapping = 0;
        std::vector<bool> covered(length);
        for (const auto &[start, size] : list) {
            if (start < asked + length && asked < start + size) ++overlapping;
            for (uint64_t i = 0; i < length; ++i) {
                if (asked + i >= start && asked + i < start + size) covered[i] = true;
            }
        }
        uint64_t found = 0;
        map.ForEachOverlapping(asked, length,
                               [&](uint64_t, uint64_t, uint32_t count) { found += count; });
        CHECK(found == overlapping);
        CHECK(view.Contains(asked, length) ==
              std::all_of(covered.begin(), covered.end(), [](bool yes) { return yes; }));
    }
    CHECK(!list.empty());
    CHECK(map.Find(kSpace, 1) == nullptr);
    map.Get(1, UINT64_MAX) = 7;
    uint32_t value = 0;
    map.ForEachOverlapping(UINT64_MAX, 1,
                           [&](uint64_t, uint64_t, uint32_t found) { value += found; });
    CHECK(value == 7);
}

void Copies() {
    Side side;
    const uint64_t size = 6 * kMiB;
    const uint64_t known = side.Registered(size);
    const uint64_t pool = side.Pool(size);
    const uint64_t unknown = MapMemory(size);
    Device &device = side.device();
    const auto copy = [&](uint64_t dst, uint64_t src, uint64_t length) {
        const Run run{dst, src, length};
        return device.Copy(&run, 1, Placement::kDevice, Placement::kDevice, Deadline::InMs(5000));
    };
    uint64_t seed = 0;
    for (const uint64_t from : {known, pool, unknown}) {
        for (const uint64_t to : {known, pool, unknown}) {
            if (from == to) continue;
            Fill(from + 3, size - 3, ++seed);
            CHECK_OK(copy(to + 1, from + 3, size - 3));
            CHECK(Holds(to + 1, size - 3, seed));
        }
    }
    // Overlapping sides: as if over a buffer.
    for (const uint64_t base : {known, pool}) {
        Fill(base, 3 * kMiB, 50);
        CHECK_OK(copy(base + 4096, base, 3 * kMiB));
        CHECK(Holds(base + 4096, 3 * kMiB, 50));
        CHECK_OK(copy(base, base + 4096, 3 * kMiB));
        CHECK(Holds(base, 3 * kMiB, 50));
        CHECK_OK(copy(base, base, kMiB));
    }
    UnmapMemory(unknown + kMiB, kMiB);
    CHECK_FAILS(LLDD_FAILED, "not mapped", copy(unknown, known, size));
    CHECK_FAILS(LLDD_FAILED, "not mapped", copy(known, unknown, size));
    CHECK_FAILS(LLDD_FAILED, "not mapped", copy(8, known, 8));
    const Run run{known, pool, size};
    CHECK_FAILS(LLDD_TIMEOUT, "not done in time",
                device.Copy(&run, 1, Placement::kDevice, Placement::kDevice, Deadline::Passed()));
}

std::vector<const mock::CopyKernel *> KernelsOfThisCpu() {
    std::vector<const mock::CopyKernel *> kernels;
    std::istringstream names(mock::UsableCopyKernels());
    for (std::string name; names >> name;) {
        kernels.push_back(mock::FindCopyKernel(name));
        CHECK(kernels.back() != nullptr && kernels.back()->name == name);
    }
    return kernels;
}

// Copies `size` bytes between two places and looks at what is there and around it.
void CheckCopy(const mock::CopyKernel &kernel, size_t to_shift, size_t from_shift, size_t size) {
    constexpr size_t kRoom = 5120;
    static const std::vector<unsigned char> from = [] {
        std::vector<unsigned char> bytes(kRoom);
        for (size_t i = 0; i < bytes.size(); ++i)
            bytes[i] = static_cast<unsigned char>(i * 7 + i / 256);
        return bytes;
    }();
    static std::vector<unsigned char> to(kRoom + 128);
    static const std::vector<unsigned char> untouched(kRoom + 128, 0xEE);
    std::memcpy(to.data(), untouched.data(), to.size());
    kernel.copy(to.data() + to_shift, from.data() + from_shift, size);
    kernel.finish();
    CHECK(std::memcmp(to.data() + to_shift, from.data() + from_shift, size) == 0);
    CHECK(std::memcmp(to.data(), untouched.data(), to_shift) == 0);
    const size_t end = to_shift + size;
    CHECK(std::memcmp(to.data() + end, untouched.data() + end, to.size() - end) == 0);
}

// Every kernel of this CPU: every size up to more than a page, and every pair of alignments around
// the sizes where something changes.
void Kernels() {
    const std::vector<const mock::CopyKernel *> kernels = KernelsOfThisCpu();
    CHECK(!kernels.empty() && mock::FindCopyKernel("auto") == kernels.front());
    CHECK(mock::FindCopyKernel("memcpy") != nullptr);
    for (const mock::CopyKernel *kernel : kernels) {
        for (size_t size = 0; size <= 4096 + 256; ++size) {
            CheckCopy(*kernel, size * 5 % 64, size * 11 % 64, size);
        }
        for (size_t to_shift = 0; to_shift < 64; ++to_shift) {
            for (size_t from_shift = 0; from_shift < 64; ++from_shift) {
                for (const size_t size : {0U, 1U, 127U, 128U, 255U, 1023U, 1024U, 1100U, 4096U}) {
                    CheckCopy(*kernel, to_shift, from_shift, size);
                }
            }
        }
    }
    CHECK(mock::FindCopyKernel("nonsense") == nullptr);
}

// The mock runtime counts the CPUs of the affinity as well.
void CpusOfTheAffinity() {
    cpu_set_t before;
    CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
    cpu_set_t one;
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu) {
        if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
    }
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(mock::FindUsableCpus("").count() == 1);
    CHECK(Control("threads").find("allowed: 1\n") != std::string::npos);
    CHECK(sched_setaffinity(0, sizeof before, &before) == 0);
}

class Open final : public mock::Gate {
public:
    mock::MoveFailure Check() const override { return {}; }
};

// The number of a process may be another process's by now: its cookie tells.
void StrangersCookie() {
    using namespace mock;
    Cookie cookie{1, 2, 3};
    ProcessIdentity peer;
    peer.cookie_addr = reinterpret_cast<uint64_t>(cookie.data());
    peer.cookie = cookie;
    char here[8] = "new";
    char there[8] = "old";
    Batch batch;
    batch.Clear(kLargestChunk);
    batch.Add(reinterpret_cast<uint64_t>(here), reinterpret_cast<uint64_t>(there), sizeof here);
    const Open gate;
    CmaMove write(batch, Direction::kWrite, gate, getpid(), getpid(), peer);
    CmaMove read(batch, Direction::kRead, gate, getpid(), getpid(), peer);
    cookie[0] = 9;
    CHECK(write.MoveChunk(0).kind == MoveFailure::kPeerGone);
    CHECK(std::strcmp(there, "old") == 0);
    CHECK(read.MoveChunk(0).kind == MoveFailure::kPeerGone);
    cookie[0] = 1;
    std::strcpy(here, "new");
    CHECK(!write.MoveChunk(0).failed());
    CHECK(std::strcmp(there, "new") == 0);
    peer.cookie_addr = 8;  // nothing is there any more
    CHECK(write.MoveChunk(0).kind == MoveFailure::kPeerGone);
    CHECK(read.MoveChunk(0).kind == MoveFailure::kPeerGone);
}

Status OpenWith(const char *name, const char *value) {
    setenv(name, value, 1);
    std::unique_ptr<Device> device;
    Status status = ThisRuntime().OpenDevice({}, &device);
    unsetenv(name);
    return status;
}

void Environment() {
    unsetenv("LLM_DATADIST_MOCK_TRANSPORT");
    CHECK_FAILS(LLDD_PARAM_INVALID, "mapped, cma, tcp",
                OpenWith("LLM_DATADIST_MOCK_TRANSPORT", "rdma"));
    CHECK_FAILS(LLDD_PARAM_INVALID, "mapped, cma, tcp",
                OpenWith("LLM_DATADIST_MOCK_TRANSPORT", "tcp,"));
    CHECK_FAILS(LLDD_PARAM_INVALID, "mapped, cma, tcp",
                OpenWith("LLM_DATADIST_MOCK_TRANSPORT", "tcp,tcp"));
    CHECK_OK(OpenWith("LLM_DATADIST_MOCK_TRANSPORT", "tcp,mapped"));
    CHECK_FAILS(LLDD_PARAM_INVALID, "1..64", OpenWith("LLM_DATADIST_MOCK_THREADS", "0"));
    CHECK_FAILS(LLDD_PARAM_INVALID, "1..64", OpenWith("LLM_DATADIST_MOCK_THREADS", "-1"));
    CHECK_FAILS(LLDD_PARAM_INVALID, "movsb", OpenWith("LLM_DATADIST_MOCK_COPY_KERNEL", "fast"));
    CHECK_FAILS(LLDD_PARAM_INVALID, "share, exclude", OpenWith("LLM_DATADIST_MOCK_FORK", "1"));
    CHECK_FAILS(LLDD_PARAM_INVALID, "1..1024", OpenWith("LLM_DATADIST_MOCK_DEVICES", "none"));
    DeviceOptions options;
    std::unique_ptr<Device> device;
    options.device_id = 15;
    CHECK_OK(ThisRuntime().OpenDevice(options, &device));
    options.device_id = 16;
    CHECK_FAILS(LLDD_PARAM_INVALID, "no device 16", ThisRuntime().OpenDevice(options, &device));
    options.device_id = -1;
    CHECK_FAILS(LLDD_PARAM_INVALID, "no device -1", ThisRuntime().OpenDevice(options, &device));
    CHECK(ThisRuntime().Describe().device_count == 16);
    setenv("LLM_DATADIST_MOCK_DEVICES", "2", 1);
    CHECK(ThisRuntime().Describe().device_count == 2);
    unsetenv("LLM_DATADIST_MOCK_DEVICES");
}

void ControlCommands() {
    const std::string help = Control("help");
    for (const char *command :
         {"environment", "devices", "kernel", "threads", "fds", "faults.counters"}) {
        CHECK(help.find(command) != std::string::npos);
        if (std::string(command) != "devices") CHECK(!Control(command).empty());
    }
    CHECK(Control("environment").find("LLM_DATADIST_MOCK_TRANSPORT") != std::string::npos);
    CHECK(Control("environment").find("LLM_DATADIST_MOCK_FAULTS") != std::string::npos);
    CHECK(Control("devices").empty());
    std::string answer;
    CHECK_FAILS(LLDD_PARAM_INVALID, "help", ThisRuntime().Control("nonsense", "", &answer));
}

// After many links and the end of the devices nothing is left: descriptors, threads, mappings of
// memfds.
void NothingLeaks() {
    setenv("LLM_DATADIST_MOCK_THREADS", "3", 1);
    const auto lines_of_maps = [] {
        size_t count = 0;
        std::FILE *file = std::fopen("/proc/self/maps", "r");
        char line[4096];
        while (std::fgets(line, sizeof line, file) != nullptr) {
            if (std::strstr(line, "memfd:lldd") != nullptr) ++count;
        }
        std::fclose(file);
        return count;
    };
    const auto threads = [] {
        size_t count = 0;
        for (const auto &task : std::filesystem::directory_iterator("/proc/self/task")) {
            std::string name;
            std::getline(std::ifstream(task.path() / "comm"), name);
            if (name.rfind("lldd-", 0) == 0) ++count;
        }
        return count;
    };
    const std::string descriptors = Control("fds");
    {
        Side side;
        const uint64_t own = side.Pool(4 * kMiB);
        std::string linked;
        for (uint64_t nonce = 1; nonce < 20; ++nonce) {
            PeerProcess peer;
            const uint64_t theirs = peer.Pool(4 * kMiB);
            CHECK_OK(peer.Link(&side, nonce, nonce % 2 == 0));
            CHECK_OK(side.Read(own, theirs, 4 * kMiB));
            CHECK_OK(side.Disconnect());
            const std::string now = Control("fds");
            CHECK(linked.empty() || linked == now);
            linked = now;
        }
        CHECK(Control("threads").find("helpers: 2\n") != std::string::npos);
        CHECK(threads() == 3);        // and the I/O thread
        CHECK(lines_of_maps() == 2);  // the pool and the table of regions
    }
    CHECK(Control("threads").find("helpers: 0\n") != std::string::npos);
    CHECK(Control("fds") == descriptors);
    CHECK(lines_of_maps() == 0);
    CHECK(threads() == 0);
}

// What a child finds at an address.
bool ChildHas(uint64_t addr) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        unsigned char present = 0;
        _exit(mincore(reinterpret_cast<void *>(addr), 1, &present) == 0 ? 1 : 0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status) == 1;
}

void ForkExclude() {
    const uint64_t addr = MapMemory(16 * 4096);
    {
        Side sharing;
        CHECK_OK(sharing.device().Register(addr, 16 * 4096, Placement::kDevice));
        CHECK(ChildHas(addr));
    }
    setenv("LLM_DATADIST_MOCK_FORK", "exclude", 1);
    Side side;
    Device &device = side.device();
    CHECK_OK(device.Register(addr + 100, 8 * 4096, Placement::kDevice));
    CHECK_OK(device.Register(addr + 4 * 4096, 8 * 4096, Placement::kDevice));
    CHECK(ChildHas(addr));  // shared with a neighbour: rounded inward
    CHECK(!ChildHas(addr + 4096));
    CHECK(ChildHas(addr + 12 * 4096));
    CHECK_OK(device.Unregister(addr + 100, 8 * 4096, Deadline::Passed()));
    CHECK(ChildHas(addr + 4096));
    CHECK(!ChildHas(addr + 4 * 4096));  // still another's
    CHECK_OK(device.Unregister(addr + 4 * 4096, 8 * 4096, Deadline::Passed()));
    CHECK(ChildHas(addr + 4 * 4096));
    CHECK(!ChildHas(side.Pool(4096)));
}

}  // namespace

const std::vector<NamedCase> kLocalCases = {
    {"local.large_pool", LargePool},
    {"local.registration", Registration},
    {"local.registration_in_bounds", RegistrationInBounds},
    {"local.known_memory_merges", KnownMemoryMerges},
    {"local.ranges_agree_with_a_list", RangesAgreeWithAList},
    {"local.copies", Copies},
    {"local.kernels", Kernels},
    {"local.cpus_of_the_affinity", CpusOfTheAffinity},
    {"local.strangers_cookie", StrangersCookie},
    {"local.environment", Environment},
    {"local.control", ControlCommands},
    {"local.nothing_leaks", NothingLeaks},
    {"local.fork_exclude", ForkExclude},
};

}  // namespace lldd::test
