// What the machine has and what the process has mapped, found out without touching memory.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace lldd::mock {

uint64_t PageSize();

// [addr, addr + size) rounded to pages; empty if rounding inward leaves nothing.
struct PageRange {
    uint64_t addr = 0;
    uint64_t size = 0;
};
PageRange RoundOutward(uint64_t addr, uint64_t size);
PageRange RoundInward(uint64_t addr, uint64_t size);

// Whether every byte is mapped readable and (if asked) writable, according to /proc/self/maps.
bool IsMapped(uint64_t addr, uint64_t size, bool writable);

// What became of an attempt to make pages present before their first use.
enum class Populated { kYes, kNotUsable, kUnknown };
// Makes all pages of the range present and writable; kNotUsable: some are not mapped or not
// writable; kUnknown: this kernel cannot do it.
Populated PopulateForWriting(PageRange range);

// Bytes of the range that have no page yet; stops counting above `enough`. False if part of the
// range that was looked at is not mapped.
bool CountAbsent(PageRange range, uint64_t enough, uint64_t *bytes);

}  // namespace lldd::mock
