// SPDX-License-Identifier: Apache-2.0
#include "traits.h"

#include <cstdlib>

namespace fake_cann {
namespace {

#if FAKE_HIXL == 850
constexpr Traits kTraits{
    /*config_is_a_path=*/true,         /*knows_comm_res=*/false,
    /*refuses_unknown_options=*/false, /*stages_small_pieces=*/true,
    /*forgets_segments=*/true,         /*overflows=*/true,
    /*dies_of_a_failed_start=*/true,   /*outlives_failures=*/true,
    /*leaves_a_thread=*/false,         ForkedExit::kAborts,
};
#elif FAKE_HIXL == 900
constexpr Traits kTraits{
    /*config_is_a_path=*/false,        /*knows_comm_res=*/true,
    /*refuses_unknown_options=*/false, /*stages_small_pieces=*/false,
    /*forgets_segments=*/false,        /*overflows=*/false,
    /*dies_of_a_failed_start=*/false,  /*outlives_failures=*/false,
    /*leaves_a_thread=*/false,         ForkedExit::kNothing,
};
#elif FAKE_HIXL == 910
constexpr Traits kTraits{
    /*config_is_a_path=*/false,       /*knows_comm_res=*/true,
    /*refuses_unknown_options=*/true, /*stages_small_pieces=*/false,
    /*forgets_segments=*/false,       /*overflows=*/false,
    /*dies_of_a_failed_start=*/false, /*outlives_failures=*/false,
    /*leaves_a_thread=*/true,         ForkedExit::kHangs,
};
#else
#error "FAKE_HIXL must be 850, 900 or 910"
#endif

}  // namespace

const Traits &TheTraits() { return kTraits; }

Clock::time_point AfterWait(int ms) {
    const char *scale = std::getenv("FAKE_CANN_WAITS");
    const double factor = scale == nullptr || *scale == '\0' ? 1 : std::atof(scale);
    return Clock::now() + std::chrono::microseconds(static_cast<int64_t>(1000 * factor * ms));
}

}  // namespace fake_cann
