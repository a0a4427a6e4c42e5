// libhcomm.so of the fake CANN: HIXL opens it by its bare name when it begins, and links it not.
//
// SPDX-License-Identifier: Apache-2.0
extern "C" {
extern const int fake_hcomm;
const int fake_hcomm = 1;
}
