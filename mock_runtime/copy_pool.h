// Standing helper threads that share the work of one large transfer.
//
// The work is cut into chunks; the calling thread and the helpers claim them one after the other,
// so that all end together. One transfer has the helpers at a time; other transfers run without
// them. The threads start with the first large transfer and end with the last device.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "mock_runtime/move.h"

namespace lldd::mock {

class ChunkedWork {
public:
    virtual ~ChunkedWork() = default;
    // On several threads at once, each chunk once.
    virtual MoveFailure MoveChunk(size_t chunk) = 0;
};

class CopyPool {
public:
    // The pool of this process; each open device holds it.
    static std::shared_ptr<CopyPool> Acquire();
    ~CopyPool();
    CopyPool(const CopyPool &) = delete;
    CopyPool &operator=(const CopyPool &) = delete;

    // Moves chunks 0..chunks-1, on up to `threads` threads; the first failure ends it. *done: how many
    // were moved by then, not necessarily the first ones.
    MoveFailure Run(ChunkedWork &work, size_t chunks, uint32_t threads, size_t *done);

    size_t helpers() const;

private:
    CopyPool() = default;
    void StartHelpersLocked(uint32_t count) LLDD_REQUIRES(mutex_);
    void Help();
    void MoveClaimed(ChunkedWork &work, size_t chunks);

    Mutex job_mutex_;  // held for as long as a transfer has the helpers

    mutable Mutex mutex_;
    std::condition_variable work_there_;
    std::condition_variable all_left_;
    ChunkedWork *work_ LLDD_GUARDED_BY(mutex_) = nullptr;
    size_t chunks_ LLDD_GUARDED_BY(mutex_) = 0;
    uint32_t wanted_ LLDD_GUARDED_BY(mutex_) = 0;  // helpers that may still join
    uint32_t inside_ LLDD_GUARDED_BY(mutex_) = 0;
    bool stopping_ LLDD_GUARDED_BY(mutex_) = false;
    MoveFailure failure_ LLDD_GUARDED_BY(mutex_);
    std::vector<std::thread> threads_ LLDD_GUARDED_BY(mutex_);

    std::atomic<size_t> next_chunk_{0};
    std::atomic<size_t> chunks_done_{0};
    std::atomic<bool> failed_{false};
};

}  // namespace lldd::mock
