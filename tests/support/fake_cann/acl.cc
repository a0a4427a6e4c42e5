// libacl_rt.so of the fake CANN: devices whose memory is host memory. With FAKE_CANN_DEVICE_MEMORY
// set to "opaque" it is so behind the curtain only: whoever touches it by its address ends.
//
// SPDX-License-Identifier: Apache-2.0
#include "acl/acl.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <utility>

#include "fake.h"

namespace fake_cann {
namespace {

constexpr aclError kInvalidParameter = 107000;
constexpr aclError kInvalidDevice = 107001;
constexpr aclError kNoContext = 107002;
constexpr aclError kNoMemory = 207001;
constexpr aclError kMemoryFault = 507899;
constexpr size_t kHugePage = 2 << 20;
constexpr size_t kLargestAsyncCopy = size_t{4} << 30;
constexpr size_t kDeviceBytes = size_t{64} << 30;
constexpr int kMostDevices = 64;

struct Context {
    int device;
    int users;  // how often the device is set; guarded by State
};

struct Allocation {
    size_t size;
    Kind kind;
    char *bytes;  // where they are: at the address itself, if that may be touched
};

struct State {
    std::mutex mutex;
    Context contexts[kMostDevices] = {};
    std::map<uintptr_t, Allocation> allocations;
    std::set<uintptr_t> small_pages;  // the allocations that may not be in huge ones
    size_t device_bytes = 0;
    std::mutex copy_mutex;
    std::unique_ptr<Bounce> bounce = std::make_unique<Bounce>();

    static State &Get() {
        static State *state = Make();
        return *state;
    }
    // What the address is in; null: nothing that was allocated here. With the mutex.
    const std::pair<const uintptr_t, Allocation> *Find(const void *memory) const {
        const auto addr = reinterpret_cast<uintptr_t>(memory);
        const auto after = allocations.upper_bound(addr);
        if (after == allocations.begin()) return nullptr;
        const auto found = std::prev(after);
        return addr - found->first < found->second.size ? &*found : nullptr;
    }
    void Unlock() {
        copy_mutex.unlock();
        mutex.unlock();
    }
    static State *Make() {
        auto *state = new State;
        for (int i = 0; i < kMostDevices; ++i) state->contexts[i].device = i;
        // The child must not find a mutex locked by a thread that it lacks, nor share the parent's
        // file.
        pthread_atfork(
            [] {
                // In this order, as copies take them.
                Get().copy_mutex.lock();
                Get().mutex.lock();
            },
            [] { Get().Unlock(); },
            [] {
                Get().bounce = std::make_unique<Bounce>();
                Get().Unlock();
            });
        return state;
    }
};

// Made when the library is loaded: nothing of it is a leak of whoever calls first.
const State &loaded = State::Get();

thread_local Context *current = nullptr;
thread_local std::string error_text;
thread_local std::string told_text;

uint32_t DeviceCount() {
    const char *value = std::getenv("FAKE_CANN_DEVICES");
    return value == nullptr ? 16 : static_cast<uint32_t>(std::atoi(value));
}

aclError Refuse(aclError number, const std::string &text) {
    SetErrorText(text.c_str());
    return number;
}

// The refusal of a thread without a context, or an ordered fault.
aclError Enter(const char *point) {
    if (!HasContext()) return Refuse(kNoContext, "fake CANN: the thread has no context");
    const uint32_t fault = point == nullptr ? 0 : Fault(point);
    return fault == 0 ? ACL_SUCCESS
                      : Refuse(static_cast<aclError>(fault),
                               "fake CANN: ordered fault at " + std::string(point));
}

// Pages that no forked child has.
void *Map(size_t size, int protection) {
    void *mapped =
        mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    madvise(mapped, size, MADV_DONTFORK);
    return mapped;
}

aclError Allocate(void **memory, size_t size, Kind kind) {
    if (memory == nullptr || size == 0) return Refuse(kInvalidParameter, "fake CANN: no size");
    const size_t rounded = (size + kHugePage - 1) / kHugePage * kHugePage;
    State &state = State::Get();
    std::lock_guard<std::mutex> lock(state.mutex);
    if (rounded < size || rounded > kDeviceBytes - state.device_bytes)
        return Refuse(kNoMemory, "fake CANN: out of memory");
    const bool apart = kind == Kind::kDevice && Opaque();
    // Starts at a huge page: one more is mapped, and what is too much is given back.
    void *mapped = Map(rounded + kHugePage, apart ? PROT_NONE : PROT_READ | PROT_WRITE);
    void *bytes = apart ? Map(rounded, PROT_READ | PROT_WRITE) : nullptr;
    if (mapped == nullptr || (apart && bytes == nullptr))
        return Refuse(kNoMemory, "fake CANN: mmap fails");
    const auto start = reinterpret_cast<uintptr_t>(mapped);
    const uintptr_t base = (start + kHugePage - 1) / kHugePage * kHugePage;
    if (base != start) munmap(mapped, base - start);
    if (base + rounded != start + rounded + kHugePage)
        munmap(reinterpret_cast<void *>(base + rounded), start + kHugePage - base);
    *memory = reinterpret_cast<void *>(base);
    state.allocations[base] = {rounded, kind, static_cast<char *>(apart ? bytes : *memory)};
    state.device_bytes += rounded;
    return ACL_SUCCESS;
}

aclError Free(void *memory, Kind kind) {
    State &state = State::Get();
    std::lock_guard<std::mutex> lock(state.mutex);
    const auto found = state.allocations.find(reinterpret_cast<uintptr_t>(memory));
    if (found == state.allocations.end() || found->second.kind != kind)
        return Refuse(kInvalidParameter, "fake CANN: not allocated like this");
    munmap(memory, found->second.size);
    if (found->second.bytes != memory) munmap(found->second.bytes, found->second.size);
    state.device_bytes -= found->second.size;
    state.allocations.erase(found);
    state.small_pages.erase(reinterpret_cast<uintptr_t>(memory));
    return ACL_SUCCESS;
}

// Null: calls are done, not written down.
const char *CallsFile() {
    const char *path = std::getenv("FAKE_CANN_CALLS");
    return path == nullptr || *path == '\0' ? nullptr : path;
}

aclError Copy(void *dst, size_t dst_max, const void *src, size_t count, aclrtMemcpyKind kind) {
    const bool to_device = kind == ACL_MEMCPY_HOST_TO_DEVICE || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
    const bool from_device =
        kind == ACL_MEMCPY_DEVICE_TO_HOST || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
    const auto fits = [](const void *memory, bool device) {
        const Kind is = KindOf(memory);
        return is == Kind::kUnknown ? !(device && Opaque()) : (is == Kind::kDevice) == device;
    };
    if (count == 0 || count > dst_max || !fits(dst, to_device) || !fits(src, from_device))
        return Refuse(kInvalidParameter, "fake CANN: sizes or the kind of the copy are wrong");
    if (InsteadWriteDown("copy " + std::to_string(count))) return ACL_SUCCESS;
    State &state = State::Get();
    std::lock_guard<std::mutex> lock(state.copy_mutex);
    for (size_t done = 0; done < count;) {
        const size_t piece = std::min(count - done, Bounce::kSize);
        if (!state.bounce->Copy(static_cast<char *>(dst) + done,
                                static_cast<const char *>(src) + done, piece))
            return Refuse(kMemoryFault, "fake CANN: memory of the copy is not mapped");
        done += piece;
    }
    return ACL_SUCCESS;
}

// Where the bytes of this memory are; null: not all of it is of one allocation.
void *Bytes(const void *memory, size_t size) {
    State &state = State::Get();
    std::lock_guard<std::mutex> lock(state.mutex);
    const auto *found = state.Find(memory);
    if (found == nullptr) return const_cast<void *>(memory);
    const size_t offset = reinterpret_cast<uintptr_t>(memory) - found->first;
    return size <= found->second.size - offset ? found->second.bytes + offset : nullptr;
}

}  // namespace

bool Opaque() {
    static const char *const how = std::getenv("FAKE_CANN_DEVICE_MEMORY");
    static const bool opaque = how != nullptr && std::string(how) == "opaque";
    return opaque;
}

uint32_t Fault(const char *point) {
    const char *path = std::getenv("FAKE_CANN_FAULTS");
    if (path == nullptr || *path == '\0') return 0;
    const int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return 0;
    flock(file, LOCK_EX);
    char buffer[4096];
    const ssize_t size = pread(file, buffer, sizeof buffer, 0);
    std::istringstream lines(std::string(buffer, size > 0 ? static_cast<size_t>(size) : 0));
    std::ostringstream left;
    std::string name;
    uint32_t number = 0;
    uint32_t times = 0;
    uint32_t fault = 0;
    while (lines >> name >> number >> times) {
        if (fault == 0 && times > 0 && name == point) {
            fault = number;
            --times;
        }
        left << name << ' ' << number << ' ' << times << '\n';
    }
    const std::string text = left.str();
    if (fault != 0 && (ftruncate(file, 0) != 0 || pwrite(file, text.data(), text.size(), 0) !=
                                                      static_cast<ssize_t>(text.size())))
        std::abort();
    close(file);
    return fault;
}

bool InsteadWriteDown(const std::string &call) {
    const char *const path = CallsFile();
    if (path == nullptr) return false;
    const std::string line = call + "\n";
    const int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file < 0 || write(file, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
        std::abort();
    close(file);
    return true;
}

void SetErrorText(const char *text) { error_text = text; }

const void *CurrentContext() { return HasContext() ? current : nullptr; }

int CurrentDevice() { return HasContext() ? current->device : -1; }

bool HasContext() {
    State &state = State::Get();
    std::lock_guard<std::mutex> lock(state.mutex);
    return current != nullptr && current->users > 0;
}

Kind KindOf(const void *memory) {
    State &state = State::Get();
    std::lock_guard<std::mutex> lock(state.mutex);
    const auto *found = state.Find(memory);
    return found == nullptr ? Kind::kUnknown : found->second.kind;
}

bool InHugePages(const void *memory) {
    State &state = State::Get();
    std::lock_guard<std::mutex> lock(state.mutex);
    const auto *found = state.Find(memory);
    return found == nullptr || state.small_pages.count(found->first) == 0;
}

Bounce::Bounce() : file_(memfd_create("fake_cann", MFD_CLOEXEC)) {
    if (file_ < 0) std::abort();
}

Bounce::~Bounce() { close(file_); }

bool Bounce::Copy(void *dst, const void *src, size_t size) {
    if (Opaque()) {
        dst = Bytes(dst, size);
        src = Bytes(src, size);
        if (dst == nullptr || src == nullptr) return false;
    }
    // Past the C library: hardware writes where it is told to, and no sanitizer asks whether
    // another device does so, too.
    return syscall(SYS_pwrite64, file_, src, size, 0) == static_cast<long>(size) &&
           syscall(SYS_pread64, file_, dst, size, 0) == static_cast<long>(size);
}

}  // namespace fake_cann

using namespace fake_cann;

namespace {

struct Stream {
    aclError result = ACL_SUCCESS;
};

}  // namespace

aclError aclrtGetDeviceCount(uint32_t *count) {
    *count = DeviceCount();
    return ACL_SUCCESS;
}

aclError aclrtSetDevice(int32_t device) {
    if (device < 0 ||
        static_cast<uint32_t>(device) >= std::min<uint32_t>(DeviceCount(), kMostDevices))
        return Refuse(kInvalidDevice, "fake CANN: no such device");
    State &state = State::Get();
    std::lock_guard<std::mutex> lock(state.mutex);
    current = &state.contexts[device];
    ++current->users;
    return ACL_SUCCESS;
}

aclError aclrtResetDevice(int32_t device) {
    State &state = State::Get();
    std::lock_guard<std::mutex> lock(state.mutex);
    if (device < 0 || device >= kMostDevices || state.contexts[device].users == 0)
        return Refuse(kInvalidDevice, "fake CANN: the device is not set");
    --state.contexts[device].users;
    return ACL_SUCCESS;
}

aclError aclrtGetCurrentContext(aclrtContext *context) {
    if (!HasContext()) return Refuse(kNoContext, "fake CANN: the thread has no context");
    *context = current;
    return ACL_SUCCESS;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
    if (context == nullptr) return Refuse(kInvalidParameter, "fake CANN: a null context");
    current = static_cast<Context *>(context);
    return ACL_SUCCESS;
}

aclError aclrtMalloc(void **memory, size_t size, aclrtMemMallocPolicy policy) {
    aclError error = Enter("malloc");
    if (error == ACL_SUCCESS) error = Allocate(memory, size, Kind::kDevice);
    if (error != ACL_SUCCESS || policy == ACL_MEM_MALLOC_HUGE_ONLY) return error;
    State &state = State::Get();
    std::lock_guard<std::mutex> lock(state.mutex);
    state.small_pages.insert(reinterpret_cast<uintptr_t>(*memory));
    return ACL_SUCCESS;
}

aclError aclrtFree(void *memory) {
    const aclError entered = Enter(nullptr);
    return entered != ACL_SUCCESS ? entered : Free(memory, Kind::kDevice);
}

aclError aclrtMallocHost(void **memory, size_t size) {
    const aclError entered = Enter("malloc");
    return entered != ACL_SUCCESS ? entered : Allocate(memory, size, Kind::kHost);
}

aclError aclrtFreeHost(void *memory) {
    const aclError entered = Enter(nullptr);
    return entered != ACL_SUCCESS ? entered : Free(memory, Kind::kHost);
}

aclError aclrtMemcpy(void *dst, size_t dst_max, const void *src, size_t count,
                     aclrtMemcpyKind kind) {
    const aclError entered = Enter("memcpy");
    return entered != ACL_SUCCESS ? entered : Copy(dst, dst_max, src, count, kind);
}

aclError aclrtCreateStream(aclrtStream *stream) {
    const aclError entered = Enter(nullptr);
    if (entered != ACL_SUCCESS) return entered;
    InsteadWriteDown("stream");
    *stream = new Stream;
    return ACL_SUCCESS;
}

aclError aclrtDestroyStream(aclrtStream stream) {
    const aclError entered = Enter(nullptr);
    if (entered == ACL_SUCCESS) delete static_cast<Stream *>(stream);
    return entered;
}

// Done at once; what went wrong is told when the stream is waited for, as by a device.
aclError aclrtMemcpyAsync(void *dst, size_t dst_max, const void *src, size_t count,
                          aclrtMemcpyKind kind, aclrtStream stream) {
    const aclError entered = Enter("memcpy");
    if (entered != ACL_SUCCESS) return entered;
    if (stream == nullptr || count > kLargestAsyncCopy)
        return Refuse(kInvalidParameter, "fake CANN: no stream, or more than 4 GiB");
    // A stream's copies are the device's, which has no part in this one.
    if (kind == ACL_MEMCPY_HOST_TO_HOST)
        return Refuse(kInvalidParameter, "fake CANN: a stream copies nothing from host to host");
    auto *queue = static_cast<Stream *>(stream);
    if (queue->result == ACL_SUCCESS) queue->result = Copy(dst, dst_max, src, count, kind);
    return ACL_SUCCESS;
}

aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout_ms) {
    const aclError entered = Enter("synchronize");
    if (entered != ACL_SUCCESS) return entered;
    if (stream == nullptr || timeout_ms < -1)
        return Refuse(kInvalidParameter, "fake CANN: no stream, or a negative time");
    auto *queue = static_cast<Stream *>(stream);
    return std::exchange(queue->result, ACL_SUCCESS);
}

const char *aclGetRecentErrMsg() {
    if (error_text.empty()) return nullptr;
    told_text = std::exchange(error_text, "");
    return told_text.c_str();
}

const char *aclrtGetSocName() {
    const char *const given = std::getenv("FAKE_CANN_SOC");
    if (given != nullptr) return given;
    return Opaque() ? "FakeAscend" : "FakeAscend in host memory";
}
