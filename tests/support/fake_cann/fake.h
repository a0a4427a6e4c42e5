// What the two libraries of the fake share: faults, error texts, contexts, and copies that survive
// memory that is not mapped. Exported by libacl_rt.so.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace fake_cann {

// Faults come from the file that FAKE_CANN_FAULTS names, one per line: "point number times". Each
// that fires lowers its `times` in the file, so a test sees whether it did. Returns the number that
// the call at this point must give back; 0: none.
//
// Points: malloc memcpy synchronize initialize register deregister connect disconnect transfer
// finalize; at connect-ms the number is how long the call takes, at POINT-hang (of HIXL's points) how
// long it is kept, whatever its timeout.
uint32_t Fault(const char *point);

// With FAKE_CANN_CALLS, which names a file, copies and transfers are not done: each is a line there.
// So tests see how they are cut, of sizes for which no machine has the memory.
bool InsteadWriteDown(const std::string &call);

// What aclGetRecentErrMsg tells this thread next.
void SetErrorText(const char *text);

// Whether this thread may call: it has a context, of a device that is set.
bool HasContext();
// Names it; null: it has none.
const void *CurrentContext();
// The device of this thread's context; -1: it has none.
int CurrentDevice();

// Whether device memory may be touched by copies and transfers only, as a device's may.
bool Opaque();

enum class Kind { kUnknown, kHost, kDevice };
// What the memory was allocated as, if by this library.
Kind KindOf(const void *memory);
// Whether it is all in huge pages, as HCCS needs it; of device memory.
bool InHugePages(const void *memory);

// Copies by way of a file, where the kernel says EFAULT instead of ending the process.
class Bounce {
public:
    static constexpr size_t kSize = 1 << 20;

    Bounce();
    ~Bounce();
    Bounce(const Bounce &) = delete;
    Bounce &operator=(const Bounce &) = delete;

    // At most kSize bytes; false: not mapped for that.
    bool Copy(void *dst, const void *src, size_t size);

private:
    int file_;
};

}  // namespace fake_cann
