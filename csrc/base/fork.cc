// SPDX-License-Identifier: Apache-2.0
#include "base/fork.h"

#include <pthread.h>
#include <unistd.h>

#include <unordered_set>

#include "base/mutex.h"

namespace lldd {

struct ForkState {
    Mutex mutex;
    std::unordered_set<ForkGuard *> guards LLDD_GUARDED_BY(mutex);
    std::unordered_set<int> descriptors LLDD_GUARDED_BY(mutex);
    std::atomic<unsigned> generation{0};

    ForkState() {
        pthread_atfork([]() LLDD_ACQUIRE(Get().mutex) { Get().LockBeforeFork(); },
                       []() LLDD_RELEASE(Get().mutex) { Get().UnlockInParent(); },
                       []() LLDD_RELEASE(Get().mutex) { Get().UnlockInChild(); });
    }

    // Never destroyed: engines may outlive static destructors.
    static ForkState &Get() {
        static ForkState *state = new ForkState;
        return *state;
    }

    // The thread that forks holds the lock from before to after, in both processes.
    void LockBeforeFork() LLDD_ACQUIRE(mutex) { mutex.Lock(); }
    void UnlockInParent() LLDD_RELEASE(mutex) { mutex.Unlock(); }
    void UnlockInChild() LLDD_RELEASE(mutex) {
        for (ForkGuard *guard : guards) guard->in_child_.store(true, std::memory_order_relaxed);
        for (int fd : descriptors) close(fd);
        descriptors.clear();
        generation.fetch_add(1, std::memory_order_relaxed);
        mutex.Unlock();
    }
};

ForkGuard::ForkGuard() {
    ForkState &state = ForkState::Get();
    MutexLock lock(state.mutex);
    state.guards.insert(this);
}

ForkGuard::~ForkGuard() {
    ForkState &state = ForkState::Get();
    MutexLock lock(state.mutex);
    state.guards.erase(this);
}

void RememberDescriptor(int fd) {
    ForkState &state = ForkState::Get();
    MutexLock lock(state.mutex);
    state.descriptors.insert(fd);
}

void CloseDescriptor(int fd) {
    ForkState &state = ForkState::Get();
    MutexLock lock(state.mutex);
    if (state.descriptors.erase(fd) == 1) close(fd);
}

unsigned ForkGeneration() { return ForkState::Get().generation.load(std::memory_order_relaxed); }

}  // namespace lldd
