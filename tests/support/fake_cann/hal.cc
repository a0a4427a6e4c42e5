// libascend_hal.so of the fake CANN: CANN's link line names it, and nothing here needs it.
//
// SPDX-License-Identifier: Apache-2.0
extern "C" {
extern const int fake_ascend_hal;
const int fake_ascend_hal = 1;
}
