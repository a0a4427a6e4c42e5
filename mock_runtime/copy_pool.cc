// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/copy_pool.h"

#include <system_error>

#include "base/fork.h"
#include "base/log.h"
#include "base/thread.h"

namespace lldd::mock {
namespace {

struct Instance {
    Mutex mutex;
    std::weak_ptr<CopyPool> pool LLDD_GUARDED_BY(mutex);
};

}  // namespace

std::shared_ptr<CopyPool> CopyPool::Acquire() {
    Instance &instance = OfThisProcess<Instance>();
    MutexLock lock(instance.mutex);
    std::shared_ptr<CopyPool> pool = instance.pool.lock();
    if (pool == nullptr) {
        pool.reset(new CopyPool);
        instance.pool = pool;
    }
    return pool;
}

CopyPool::~CopyPool() {
    {
        MutexLock lock(mutex_);
        stopping_ = true;
    }
    work_there_.notify_all();
    for (std::thread &thread : threads_) thread.join();
}

size_t CopyPool::helpers() const {
    MutexLock lock(mutex_);
    return threads_.size();
}

// Where no thread can be started, copies run on the threads that there are.
void CopyPool::StartHelpersLocked(uint32_t count) {
    if (threads_.size() >= count) return;
    try {
        while (threads_.size() < count) {
            threads_.push_back(StartThread("lldd-copy", [this] { Help(); }));
        }
    } catch (const std::system_error &error) {
        LLDD_LOG(LLDD_LOG_WARNING, "cannot start a copying thread: %s", error.what());
    }
}

MoveFailure CopyPool::Run(ChunkedWork &work, size_t chunks, uint32_t threads, size_t *done) {
    if (threads < 2 || chunks < 2 || !job_mutex_.TryLock()) {
        for (*done = 0; *done < chunks; ++*done) {
            const MoveFailure failure = work.MoveChunk(*done);
            if (failure.failed()) return failure;
        }
        return {};
    }
    const MutexLock job(job_mutex_, std::adopt_lock);
    {
        MutexLock lock(mutex_);
        StartHelpersLocked(threads - 1);
        work_ = &work;
        chunks_ = chunks;
        wanted_ = threads - 1;
        failure_ = {};
        next_chunk_.store(0, std::memory_order_relaxed);
        chunks_done_.store(0, std::memory_order_relaxed);
        failed_.store(false, std::memory_order_relaxed);
    }
    work_there_.notify_all();
    MoveClaimed(work, chunks);
    UniqueLock lock(mutex_);
    wanted_ = 0;  // a helper that wakes up only now is too late
    all_left_.wait(lock.native(), [this]() LLDD_REQUIRES(mutex_) { return inside_ == 0; });
    work_ = nullptr;
    *done = chunks_done_.load(std::memory_order_relaxed);
    return failure_;
}

void CopyPool::MoveClaimed(ChunkedWork &work, size_t chunks) {
    while (!failed_.load(std::memory_order_relaxed)) {
        const size_t chunk = next_chunk_.fetch_add(1, std::memory_order_relaxed);
        if (chunk >= chunks) return;
        const MoveFailure failure = work.MoveChunk(chunk);
        if (!failure.failed()) {
            chunks_done_.fetch_add(1, std::memory_order_relaxed);
            continue;
        }
        MutexLock lock(mutex_);
        if (!failure_.failed()) failure_ = failure;
        failed_.store(true, std::memory_order_relaxed);
    }
}

void CopyPool::Help() {
    UniqueLock lock(mutex_);
    for (;;) {
        work_there_.wait(lock.native(),
                         [this]() LLDD_REQUIRES(mutex_) { return stopping_ || wanted_ > 0; });
        if (stopping_) return;
        --wanted_;
        ++inside_;
        ChunkedWork &work = *work_;
        const size_t chunks = chunks_;
        lock.Unlock();
        MoveClaimed(work, chunks);
        lock.Lock();
        if (--inside_ == 0) all_left_.notify_one();
    }
}

}  // namespace lldd::mock
