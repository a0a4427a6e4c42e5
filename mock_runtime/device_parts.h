// What an opened device consists of, and what its connections are given: the device outlives them.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>

#include "base/event_loop.h"
#include "base/mutex.h"
#include "mock_runtime/batch.h"
#include "mock_runtime/channel.h"
#include "mock_runtime/copy_kernels.h"
#include "mock_runtime/copy_pool.h"
#include "mock_runtime/environment.h"
#include "mock_runtime/own_memory.h"
#include "mock_runtime/passages.h"
#include "mock_runtime/spares.h"

namespace lldd::mock {

// The pieces of a transfer by the way in which they are moved.
struct TransferPlan {
    Batch direct;   // both sides are mapped here, and known to be
    Batch checked;  // the peer's pool is mapped here; the client's memory may not be
    Batch cma;
};

struct DeviceParts {
    Settings settings;
    pid_t self = 0;
    const CopyKernel *kernel = nullptr;
    std::shared_ptr<EventLoop> loop;
    std::shared_ptr<CopyPool> helpers;
    std::unique_ptr<OwnMemory> memory;
    std::unique_ptr<ChannelListener> channel;
    Mutex serve_lock;   // held while a thread of the library touches registered memory for a peer
    Passages passages;  // over which peers may be inside the memory
    // Kept per device, not per connection: there may be hundreds of connections, and each may once
    // have moved a lot.
    Spares<TransferPlan> plans;
    std::atomic<bool> behind_fabric{false};  // told once
};

}  // namespace lldd::mock
