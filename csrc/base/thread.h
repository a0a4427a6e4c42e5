// Threads of the library: named, and with all signals blocked.
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
