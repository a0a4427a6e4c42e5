// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/process_vm.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <memory>

#include "base/address.h"
#include "base/status.h"

#ifndef PR_SET_PTRACER
#define PR_SET_PTRACER 0x59616d61
#define PR_SET_PTRACER_ANY (static_cast<unsigned long>(-1))
#endif

namespace lldd::mock {
namespace {

using VmCall = ssize_t (*)(pid_t, const iovec *, unsigned long, const iovec *, unsigned long,
                           unsigned long);

VmResult Move(VmCall call, pid_t pid, const iovec *local, const iovec *remote, size_t count,
              uint64_t bytes) {
    for (;;) {
        const ssize_t moved = call(pid, local, count, remote, count, 0);
        if (moved < 0 && errno == EINTR) continue;
        if (moved < 0) return {0, errno};
        const auto done = static_cast<uint64_t>(moved);
        // A call that ends early met an address that it could not touch.
        return {done, done == bytes ? 0 : EFAULT};
    }
}

// -1: there is no Yama.
int YamaScope(const std::string &path) {
    std::FILE *file = std::fopen(path.c_str(), "re");
    if (file == nullptr) return -1;
    int scope = -1;
    if (std::fscanf(file, "%d", &scope) != 1) scope = 3;  // unreadable: assume the worst
    std::fclose(file);
    return scope;
}

bool HasPtraceCapability() {
    constexpr int kCapSysPtrace = 19;
    std::FILE *file = std::fopen("/proc/self/status", "re");
    if (file == nullptr) return false;
    char line[256];
    uint64_t effective = 0;
    while (std::fgets(line, sizeof line, file) != nullptr) {
        if (std::sscanf(line, "CapEff: %" SCNx64, &effective) == 1) break;
    }
    std::fclose(file);
    return ((effective >> kCapSysPtrace) & 1) != 0;
}

std::string WhyYamaRefuses(const std::string &path, const ProcessIdentity &peer) {
    const int scope = YamaScope(path);
    if (scope <= 0) return "";
    if (scope == 1 && (peer.traceable_by_all || HasPtraceCapability())) return "";
    if (scope == 2 && HasPtraceCapability()) return "";
    const char *needs = scope == 1   ? "the owner's consent (PR_SET_PTRACER)"
                        : scope == 2 ? "CAP_SYS_PTRACE"
                                     : "a reboot with another scope";
    return Format("Yama ptrace_scope is %d: needs %s", scope, needs);
}

}  // namespace

VmResult VmRead(pid_t pid, const iovec *local, const iovec *remote, size_t count, uint64_t bytes) {
    return Move(process_vm_readv, pid, local, remote, count, bytes);
}

VmResult VmWrite(pid_t pid, const iovec *local, const iovec *remote, size_t count, uint64_t bytes) {
    return Move(process_vm_writev, pid, local, remote, count, bytes);
}

bool VmReadable(pid_t pid, uint64_t addr) {
    char byte = 0;
    const iovec local{&byte, 1};
    const iovec remote{Pointer(addr), 1};
    return VmRead(pid, &local, &remote, 1, 1).error == 0;
}

bool VmWorksOnSelf() {
    static const bool works = [] {
        const char probe = 'x';
        return VmReadable(getpid(), Address(&probe));
    }();
    return works;
}

bool LetAllTrace() {
    return prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0) == 0 || errno == EINVAL;
}

std::string WhyProcessVmCannot(const Settings &settings, pid_t pid, const ProcessIdentity &peer) {
    if (!VmWorksOnSelf()) return "process_vm_readv is not usable in this process (seccomp?)";
    if (pid <= 0) return "the peer is in another pid namespace";
    const std::string yama = WhyYamaRefuses(settings.ptrace_scope_file, peer);
    if (!yama.empty()) return yama;
    Cookie read{};
    const iovec local{read.data(), read.size()};
    const iovec remote{Pointer(peer.cookie_addr), read.size()};
    const VmResult result = VmRead(pid, &local, &remote, 1, read.size());
    if (result.error != 0) {
        const Status refused =
            ErrnoFailure(LLDD_FAILED, result.error, "process_vm_readv of pid %d (uid %u)",
                         static_cast<int>(pid), peer.uid);
        return refused.text();
    }
    if (read != peer.cookie) return Format("pid %d is not the peer", static_cast<int>(pid));
    return "";
}

}  // namespace lldd::mock
