// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/environment.h"

#include <algorithm>
#include <cstdlib>

#include "mock_runtime/copy_kernels.h"
#include "mock_runtime/host_cpus.h"

namespace lldd::mock {
namespace {

struct Variable {
    const char *name;
    const char *legal;
    const char *standard;
    const char *help;
};

constexpr Variable kDevices{"LLM_DATADIST_MOCK_DEVICES", "1..1024", "16",
                            "how many devices can be opened"};
constexpr Variable kTransport{
    "LLM_DATADIST_MOCK_TRANSPORT", "comma list of mapped, cma, tcp", "mapped,cma,tcp",
    "which transports may be used, the preferred one first; both ends must allow one"};
constexpr Variable kThreads{"LLM_DATADIST_MOCK_THREADS", "1..64",
                            "min(4, CPUs of the affinity, CPUs of the control groups' quotas)",
                            "threads that copy large transfers, the asking one included; 1: no "
                            "helpers"};
constexpr Variable kKernel{"LLM_DATADIST_MOCK_COPY_KERNEL",
                           "auto, avx512, avx2, movsb, neon, memcpy", "auto",
                           "how large pieces are copied; one that the CPU lacks is refused"};
constexpr Variable kFork{
    "LLM_DATADIST_MOCK_FORK", "share, exclude", "share",
    "exclude: a forked child does not get the whole pages of registered memory"};
constexpr Variable kPtracer{
    "LLM_DATADIST_MOCK_PTRACER", "any, none", "any",
    "any: under Yama's scope 1, every process of this user may read and write this one"};
constexpr Variable kScopeFile{"LLM_DATADIST_MOCK_PTRACE_SCOPE_FILE", "path",
                              "/proc/sys/kernel/yama/ptrace_scope",
                              "where Yama's scope is read; a missing file means 0"};

constexpr Variable kHostRoot{
    "LLM_DATADIST_MOCK_HOST_ROOT", "path", "/",
    "below it, proc and sys are read for the memory and CPUs of this host; "
    "tests make one up"};
constexpr Variable kFaults{"LLM_DATADIST_MOCK_FAULTS", "fault script, or @path of a file with one",
                           "no faults", "what goes wrong or is slowed down; see docs/faults.md"};

constexpr const Variable *kVariables[] = {&kDevices, &kTransport, &kThreads,  &kKernel, &kFork,
                                          &kPtracer, &kScopeFile, &kHostRoot, &kFaults};

// "" counts as not set.
const char *ValueOf(const Variable &variable) {
    const char *value = std::getenv(variable.name);
    return value != nullptr && value[0] != '\0' ? value : nullptr;
}

Status Refuse(const Variable &variable, const char *value) {
    return Failure(LLDD_PARAM_INVALID, "%s is \"%s\"; legal: %s", variable.name, value,
                   variable.legal);
}

Status ReadNumber(const Variable &variable, uint32_t most, uint32_t *number) {
    const char *value = ValueOf(variable);
    if (value == nullptr) return Status::Ok();
    char *end = nullptr;
    const unsigned long parsed = std::strtoul(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end != '\0' || parsed < 1 || parsed > most) {
        return Refuse(variable, value);
    }
    *number = static_cast<uint32_t>(parsed);
    return Status::Ok();
}

Status ReadChoice(const Variable &variable, const char *when_false, const char *when_true,
                  bool *choice) {
    const char *value = ValueOf(variable);
    if (value == nullptr) return Status::Ok();
    if (std::string(value) != when_false && std::string(value) != when_true) {
        return Refuse(variable, value);
    }
    *choice = std::string(value) == when_true;
    return Status::Ok();
}

Status ReadTransports(std::vector<Transport> *transports) {
    transports->assign(std::begin(kFastestFirst), std::end(kFastestFirst));
    const char *value = ValueOf(kTransport);
    if (value == nullptr) return Status::Ok();
    transports->clear();
    const std::string list = value;
    for (size_t start = 0; start <= list.size();) {
        const size_t comma = std::min(list.find(',', start), list.size());
        const std::string name = list.substr(start, comma - start);
        const auto *known =
            std::find_if(std::begin(kFastestFirst), std::end(kFastestFirst),
                         [&](Transport transport) { return name == TransportName(transport); });
        if (known == std::end(kFastestFirst) ||
            std::find(transports->begin(), transports->end(), *known) != transports->end()) {
            return Refuse(kTransport, value);
        }
        transports->push_back(*known);
        start = comma + 1;
    }
    return Status::Ok();
}

}  // namespace

bool Settings::allows(Transport transport) const {
    return (transport_bits() & TransportBit(transport)) != 0;
}

uint32_t Settings::transport_bits() const {
    uint32_t bits = 0;
    for (const Transport transport : transports) bits |= TransportBit(transport);
    return bits;
}

std::string HostRoot() {
    const char *root = ValueOf(kHostRoot);
    return root != nullptr ? root : "";
}

Status ReadSettings(Settings *settings) {
    Settings read;
    LLDD_RETURN_IF_ERROR(ReadNumber(kDevices, 1024, &read.devices));
    LLDD_RETURN_IF_ERROR(ReadTransports(&read.transports));
    read.host_root = HostRoot();
    read.threads = std::min(4U, FindUsableCpus(read.host_root).count());
    LLDD_RETURN_IF_ERROR(ReadNumber(kThreads, 64, &read.threads));
    LLDD_RETURN_IF_ERROR(ReadChoice(kFork, "share", "exclude", &read.exclude_from_fork));
    LLDD_RETURN_IF_ERROR(ReadChoice(kPtracer, "none", "any", &read.let_others_trace));
    if (const char *kernel = ValueOf(kKernel)) {
        if (FindCopyKernel(kernel) == nullptr) return Refuse(kKernel, kernel);
        read.kernel = kernel;
    }
    const char *scope_file = ValueOf(kScopeFile);
    read.ptrace_scope_file = scope_file != nullptr ? scope_file : kScopeFile.standard;
    const char *faults = ValueOf(kFaults);
    if (faults != nullptr) read.faults = faults;
    *settings = std::move(read);
    return Status::Ok();
}

std::string DescribeEnvironment() {
    std::string text;
    for (const Variable *variable : kVariables) {
        const char *value = ValueOf(*variable);
        text += Format("%s (%s; default %s): %s; now %s\n", variable->name, variable->legal,
                       variable->standard, variable->help, value != nullptr ? value : "not set");
    }
    return text;
}

}  // namespace lldd::mock
