// What an engine answers to its peers about its caches: the table of one-sided mode, keys and
// addresses of request mode, checksums of what was moved.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "base/event_loop.h"
#include "base/mutex.h"
#include "engine/cache_store.h"
#include "engine/link.h"
#include "engine/owner_pins.h"
#include "engine/owner_sums.h"
#include "engine/wire.h"

namespace lldd {

// Everything runs on the I/O thread and does not block. The destructor waits for the thread of
// OwnerSums, and runs on another one.
class OwnerService {
public:
    OwnerService(EventLoop *loop, CacheStore *store, bool has_device_pool)
        : loop_(loop), store_(store), pins_(store, has_device_pool), sums_(loop) {}
    OwnerService(const OwnerService &) = delete;
    OwnerService &operator=(const OwnerService &) = delete;

    // A request of the peer of this link. False if it is none that concerns caches, or cannot be
    // read.
    bool OnRequest(const std::shared_ptr<Link> &link, uint16_t kind, uint32_t request_id,
                   std::string_view body);
    // The peer of this link will ask for nothing any more. May come more than once.
    void OnLinkDown(const Link &link);

private:
    void OnResolve(const std::shared_ptr<Link> &link, uint32_t request_id,
                   const wire::Resolve &resolve) LLDD_REQUIRES(*loop_);
    wire::LocateReply Locate(const wire::Locate &locate) const;

    EventLoop *const loop_;
    CacheStore *const store_;
    OwnerPins pins_ LLDD_GUARDED_BY(*loop_);
    OwnerSums sums_;
};

}  // namespace lldd
