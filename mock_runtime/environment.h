// Every environment variable of the mock runtime, with its meaning and its legal values.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "mock_runtime/fabric.h"
#include "mock_runtime/transport.h"

namespace lldd::mock {

struct Settings {
    uint32_t devices = 16;
    std::vector<Transport> transports;  // what may be used, the preferred one first
    uint32_t threads = 1;               // that copy, the asking one included
    std::string kernel = "auto";        // see copy_kernels.h
    bool exclude_from_fork = false;     // registered memory is also kept from forked children
    bool let_others_trace = true;       // PR_SET_PTRACER_ANY where Yama would refuse peers
    std::string ptrace_scope_file = "/proc/sys/kernel/yama/ptrace_scope";
    std::string host_root;  // "", or a folder instead of / for the files of memory and CPUs
    std::string faults;     // see UseFaultsOfEnvironment
    std::shared_ptr<const Fabric> fabric;  // null: transfers are as fast as they can be

    bool allows(Transport transport) const;
    uint32_t transport_bits() const;
};

// Settings::host_root alone, which is legal whatever it is.
std::string HostRoot();

// Reads the environment. LLDD_PARAM_INVALID names the variable, its value and what is legal.
Status ReadSettings(Settings *settings);

// One line per variable: name, legal values, default and meaning, with tabs between them.
std::string DescribeEnvironment();

}  // namespace lldd::mock
