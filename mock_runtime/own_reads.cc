// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/own_reads.h"

#include <cerrno>
#include <cstring>

#include "base/address.h"
#include "mock_runtime/host_memory.h"
#include "mock_runtime/process_vm.h"

namespace lldd::mock {

std::optional<bool> ReadByKernel(pid_t self, uint64_t addr, uint64_t length, void *to) {
    const iovec local{to, length};
    const iovec remote{Pointer(addr), length};
    const VmResult result = VmRead(self, &local, &remote, 1, length);
    if (result.error != 0 && result.error != EFAULT) return std::nullopt;
    return result.error == 0;
}

bool ReadIfMapped(uint64_t addr, uint64_t length, void *to) {
    if (!IsMapped(addr, length, false)) return false;
    std::memcpy(to, Pointer(addr), length);
    return true;
}

}  // namespace lldd::mock
