// Reading memory of this process that may not be mapped, without a registration being held.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

namespace lldd::mock {

// Copies to memory that is mapped; `self`: this process. False: some of the range is not mapped.
// Nothing: the process may not use process_vm_readv on itself.
std::optional<bool> ReadByKernel(pid_t self, uint64_t addr, uint64_t length, void *to);
// The same where it may not: what is mapped is looked up, so the caller must keep the range from
// being unmapped meanwhile.
bool ReadIfMapped(uint64_t addr, uint64_t length, void *to);

}  // namespace lldd::mock
