// SPDX-License-Identifier: Apache-2.0
#include "base/fork.h"

#include <pthread.h>
#include <unistd.h>

#include <mutex>
#include <unordered_set>

namespace lldd {

struct ForkState {
    std::mutex mutex;
    std::unordered_set<ForkGuard *> guards;
    std::unordered_set<int> descriptors;
    std::atomic<unsigned> generation{0};

    ForkState() {
        pthread_atfork([] { Get().mutex.lock(); }, [] { Get().mutex.unlock(); },
                       [] { Get().AfterForkInChild(); });
    }

    // Never destroyed: engines may outlive static destructors.
    static ForkState &Get() {
        static ForkState *state = new ForkState;
        return *state;
    }

    void AfterForkInChild() {
        for (ForkGuard *guard : guards) guard->in_child_.store(true, std::memory_order_relaxed);
        for (int fd : descriptors) close(fd);
        descriptors.clear();
        generation.fetch_add(1, std::memory_order_relaxed);
        mutex.unlock();
    }
};

ForkGuard::ForkGuard() {
    ForkState &state = ForkState::Get();
    std::lock_guard<std::mutex> lock(state.mutex);
    state.guards.insert(this);
}

ForkGuard::~ForkGuard() {
    ForkState &state = ForkState::Get();
    std::lock_guard<std::mutex> lock(state.mutex);
    state.guards.erase(this);
}

void RememberDescriptor(int fd) {
    ForkState &state = ForkState::Get();
    std::lock_guard<std::mutex> lock(state.mutex);
    state.descriptors.insert(fd);
}

void CloseDescriptor(int fd) {
    ForkState &state = ForkState::Get();
    std::lock_guard<std::mutex> lock(state.mutex);
    if (state.descriptors.erase(fd) == 1) close(fd);
}

unsigned ForkGeneration() { return ForkState::Get().generation.load(std::memory_order_relaxed); }

}  // namespace lldd
