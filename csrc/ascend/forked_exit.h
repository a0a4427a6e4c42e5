// A forked child that exits in the ordinary way: HIXL's static objects are left alone.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace lldd::ascend {

// HIXL's static destructors belong to the process that began it: in a forked child they abort (8.5.0)
// or wait for threads that are not there (9.1.0). From the first call on, a child that exits runs the
// exit handlers that were registered since the fork, writes what its streams hold, and ends.
void SpareForkedChildren();

}  // namespace lldd::ascend
