// The HIXL that this process has loaded: where it lies, and what else of its toolkit it needs.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/status.h"

namespace lldd::ascend {

// The path of libcann_hixl.so, as the loader found it; "" if it is not known.
std::string HixlLibrary();

// Loads libhcomm.so, which HIXL opens by its bare name when it begins, by its full path: so HIXL
// finds it in a process without the variables of CANN's environment script. LLDD_FAILED: it is not
// beside HIXL, which may still find it where the loader looks; the text says what to do otherwise.
Status OpenHcomm();

struct HixlVersion {
    bool known = false;
    int major = 0;
    int minor = 0;
    std::string text;  // as the toolkit has it, "9.1.0"; where that says nothing "9.1 or later"

    // False if it is not known.
    bool IsAtLeast(int wanted_major, int wanted_minor) const {
        return known && (major != wanted_major ? major > wanted_major : minor >= wanted_minor);
    }
};

// The version of the toolkit that HIXL was loaded from, by its version file, else by what HIXL
// exports. Found once.
const HixlVersion &InstalledHixl();

}  // namespace lldd::ascend
