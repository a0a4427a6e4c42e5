// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/environment.h"

#include <algorithm>
#include <cstdlib>

#include "mock_runtime/copy_kernels.h"
#include "mock_runtime/host_cpus.h"

namespace lldd::mock {
namespace {

constexpr char kHostRoot[] = "LLM_DATADIST_MOCK_HOST_ROOT";

// One row of the table: all that is said of a variable, and how its text becomes a setting.
struct Variable {
    const char *name;
    const char *legal;
    const char *standard;
    const char *help;
    Status (*read)(const Variable &variable, const char *value, Settings *settings);
};

// "" counts as not set.
const char *ValueOf(const char *name) {
    const char *value = std::getenv(name);
    return value != nullptr && value[0] != '\0' ? value : nullptr;
}

Status Refuse(const Variable &variable, const char *value) {
    return Failure(LLDD_PARAM_INVALID, "%s is \"%s\"; legal: %s", variable.name, value,
                   variable.legal);
}

Status ReadNumber(const Variable &variable, const char *value, uint32_t most, uint32_t *number) {
    char *end = nullptr;
    const unsigned long parsed = std::strtoul(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end != '\0' || parsed < 1 || parsed > most) {
        return Refuse(variable, value);
    }
    *number = static_cast<uint32_t>(parsed);
    return Status::Ok();
}

Status ReadChoice(const Variable &variable, const char *value, const char *when_false,
                  const char *when_true, bool *choice) {
    if (std::string(value) != when_false && std::string(value) != when_true) {
        return Refuse(variable, value);
    }
    *choice = std::string(value) == when_true;
    return Status::Ok();
}

Status ReadTransports(const Variable &variable, const char *value, Settings *settings) {
    std::vector<Transport> *transports = &settings->transports;
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
            return Refuse(variable, value);
        }
        transports->push_back(*known);
        start = comma + 1;
    }
    return Status::Ok();
}

Status ReadKernel(const Variable &variable, const char *value, Settings *settings) {
    if (FindCopyKernel(value) == nullptr) return Refuse(variable, value);
    settings->kernel = value;
    return Status::Ok();
}

constexpr Variable kVariables[] = {
    {"LLM_DATADIST_MOCK_DEVICES", "1..1024", "16", "how many devices can be opened",
     [](const Variable &variable, const char *value, Settings *settings) {
         return ReadNumber(variable, value, 1024, &settings->devices);
     }},
    {"LLM_DATADIST_MOCK_TRANSPORT", "comma list of mapped, cma, tcp", "mapped,cma,tcp",
     "which transports may be used, the preferred one first; both ends must allow one",
     ReadTransports},
    {"LLM_DATADIST_MOCK_THREADS", "1..64",
     "min(4, CPUs of the affinity, CPUs of the control groups' quotas)",
     "threads that copy large transfers, the asking one included; 1: no helpers",
     [](const Variable &variable, const char *value, Settings *settings) {
         return ReadNumber(variable, value, 64, &settings->threads);
     }},
    {"LLM_DATADIST_MOCK_COPY_KERNEL", "auto, avx512, avx2, movsb, neon, memcpy", "auto",
     "how large pieces are copied; one that the CPU lacks is refused", ReadKernel},
    {"LLM_DATADIST_MOCK_FORK", "share, exclude", "share",
     "exclude: a forked child does not get the whole pages of registered memory",
     [](const Variable &variable, const char *value, Settings *settings) {
         return ReadChoice(variable, value, "share", "exclude", &settings->exclude_from_fork);
     }},
    {"LLM_DATADIST_MOCK_PTRACER", "any, none", "any",
     "any: under Yama's scope 1, every process of this user may read and write this one",
     [](const Variable &variable, const char *value, Settings *settings) {
         return ReadChoice(variable, value, "none", "any", &settings->let_others_trace);
     }},
    {"LLM_DATADIST_MOCK_PTRACE_SCOPE_FILE", "path", "/proc/sys/kernel/yama/ptrace_scope",
     "where Yama's scope is read; a missing file means 0",
     [](const Variable &, const char *value, Settings *settings) {
         settings->ptrace_scope_file = value;
         return Status::Ok();
     }},
    {kHostRoot, "path", "/",
     "below it, proc and sys are read for the memory and CPUs of this host; tests make one up",
     [](const Variable &, const char *value, Settings *settings) {
         settings->host_root = value;
         return Status::Ok();
     }},
    {"LLM_DATADIST_MOCK_FAULTS", "fault script, or @path of a file with one", "no faults",
     "what goes wrong or is slowed down; see docs/faults.md",
     [](const Variable &, const char *value, Settings *settings) {
         settings->faults = value;
         return Status::Ok();
     }},
    {"LLM_DATADIST_MOCK_FABRIC", "PROFILE[:scale=N][:latency=TIME][:jitter=TIME]",
     "as fast as it goes",
     "transfers last as long as over this fabric, or N times as long; see docs/fabrics.md",
     [](const Variable &variable, const char *value, Settings *settings) {
         return Fabric::Parse(value, &settings->fabric)
             .WithPrefix(std::string(variable.name) + ": ");
     }},
};

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
    read.transports.assign(std::begin(kFastestFirst), std::end(kFastestFirst));
    read.threads = std::min(4U, FindUsableCpus(HostRoot()).count());
    for (const Variable &variable : kVariables) {
        const char *value = ValueOf(variable.name);
        if (value != nullptr) LLDD_RETURN_IF_ERROR(variable.read(variable, value, &read));
    }
    *settings = std::move(read);
    return Status::Ok();
}

std::string DescribeEnvironment() {
    std::string text;
    for (const Variable &variable : kVariables) {
        text += Format("%s\t%s\t%s\t%s\n", variable.name, variable.legal, variable.standard,
                       variable.help);
    }
    return text;
}

}  // namespace lldd::mock
