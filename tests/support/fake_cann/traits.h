// What differs between the versions of HIXL that the fake can be, and what it waits for.
//
// A toolkit of the fake is one version: FAKE_HIXL is 850, 900 or 910 when libcann_hixl.so is
// compiled. What holds for all of them is not here: it is simply done.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "wire.h"

namespace fake_cann {

enum class ForkedExit { kNothing, kAborts, kHangs };

struct Traits {
    // GlobalResourceConfig is the path of a JSON file, not its text.
    bool config_is_a_path;
    // LocalCommRes is an option, and version "1.3" has an effect.
    bool knows_comm_res;
    // An option that it does not know fails Initialize.
    bool refuses_unknown_options;
    // With a buffer pool, one piece of less than kSmallPiece has the whole call staged.
    bool stages_small_pieces;
    // A disconnect makes both ends forget each other's segments, for the other direction, too: what
    // is transferred over that one is staged and times out.
    bool forgets_segments;
    // The timeout of a staged call times 1000 must fit into 32 bits, or the process ends.
    bool overflows;
    // An object whose Initialize failed must not be destroyed.
    bool dies_of_a_failed_start;
    // A transfer that failed leaves the connection usable.
    bool outlives_failures;
    // A thread of the process stays when the last engine has ended.
    bool leaves_a_thread;
    // What a forked child of a process with an engine does when it exits in the ordinary way.
    ForkedExit forked_exit;
};

const Traits &TheTraits();

constexpr uint64_t kSmallPiece = 256 << 10;
// Of a peer that is gone without a word, the connection to this engine stays so long.
constexpr int kHeartbeatMs = 120'000;
constexpr int kFinalizeMs = 1'500;

// The time from now, if waits are as the original's; FAKE_CANN_WAITS, such as 0.01, makes them
// shorter.
Clock::time_point AfterWait(int ms);

}  // namespace fake_cann
