// Peers whose links ended without their word that they use this memory no more.
//
// HIXL keeps the connection of such a peer, and with it the memory that it knows, until it has missed
// the peer's heartbeat for kHeartbeatMs.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ascend/process_id.h"
#include "base/deadline.h"
#include "base/mutex.h"

namespace lldd::ascend {

// As HIXL has it.
constexpr uint64_t kHeartbeatMs = 120'000;

// Thread-safe.
class GonePeers {
public:
    struct Left {
        std::string unsure;  // who may still be there, in words; "": nobody
        bool ended = false;  // there are some of which it is known that their process has ended
    };

    // `name` is how texts name it.
    void Add(const std::string &engine, const std::string &name, ProcessId process);
    // It has linked again, so it answers for itself.
    void Remove(const std::string &engine);
    Left Look();

private:
    struct Peer {
        std::string engine;
        std::string name;
        ProcessId process;
        Deadline::Clock::time_point since;
    };

    Mutex mutex_;
    std::vector<Peer> peers_ LLDD_GUARDED_BY(mutex_);
};

}  // namespace lldd::ascend
