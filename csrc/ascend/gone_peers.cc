// SPDX-License-Identifier: Apache-2.0
#include "ascend/gone_peers.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/status.h"

namespace lldd::ascend {

void GonePeers::Add(const std::string &engine, const std::string &name, ProcessId process) {
    Remove(engine);
    MutexLock lock(mutex_);
    peers_.push_back({engine, name, std::move(process), Deadline::Clock::now()});
}

void GonePeers::Remove(const std::string &engine) {
    MutexLock lock(mutex_);
    peers_.erase(std::remove_if(peers_.begin(), peers_.end(),
                                [&](const Peer &peer) { return peer.engine == engine; }),
                 peers_.end());
}

GonePeers::Left GonePeers::Look() {
    using std::chrono::milliseconds;
    MutexLock lock(mutex_);
    const auto now = Deadline::Clock::now();
    const auto until = [](const Peer &peer) { return peer.since + milliseconds(kHeartbeatMs); };
    peers_.erase(std::remove_if(peers_.begin(), peers_.end(),
                                [&](const Peer &peer) { return until(peer) <= now; }),
                 peers_.end());
    Left left;
    for (const Peer &peer : peers_) {
        if (peer.process.HasEnded()) {
            left.ended = true;
            continue;
        }
        if (!left.unsure.empty()) left.unsure += ", ";
        const auto rest = std::chrono::duration_cast<std::chrono::seconds>(until(peer) - now);
        left.unsure += Format(
            "%s (HIXL engine %s)%s may still be in it: its connection broke, and "
            "HIXL keeps what it knows for %lld s more unless it ends",
            peer.name.c_str(), peer.engine.c_str(),
            peer.process.IsHere() ? ", whose process lives," : "",
            static_cast<long long>(rest.count()) + 1);
    }
    return left;
}

}  // namespace lldd::ascend
