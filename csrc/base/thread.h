// Threads of the library: named, and out of the way of the client's signals.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <thread>

namespace lldd {

// Signals of the process are for the client's threads. `name` has at most 15 characters. Throws
// std::system_error.
std::thread StartThread(const char *name, std::function<void()> body);

}  // namespace lldd
