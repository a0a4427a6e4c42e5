// Addresses as numbers, the form in which they cross the ABI and go to other processes.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace lldd {

inline void *Pointer(uint64_t address) { return reinterpret_cast<void *>(address); }

inline uint64_t Address(const void *pointer) { return reinterpret_cast<uint64_t>(pointer); }

}  // namespace lldd
