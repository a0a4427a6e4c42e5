// The calls inside an engine, and the transfers that use a cache: what closing and unregistering
// wait for.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/deadline.h"
#include "base/mutex.h"

namespace lldd {

// Lets calls in until it is closed. Entering and leaving cost one atomic operation each.
class CallGate {
public:
    class Pass {
    public:
        explicit Pass(CallGate *gate) : gate_(gate->Enter() ? gate : nullptr) {}
        ~Pass() {
            if (gate_ != nullptr) gate_->Leave();
        }
        Pass(const Pass &) = delete;
        Pass &operator=(const Pass &) = delete;
        explicit operator bool() const { return gate_ != nullptr; }

    private:
        CallGate *const gate_;
    };

    // From now on no call gets in. True for the one call that closed it.
    bool Close() { return (state_.fetch_or(kClosed) & kClosed) == 0; }
    // Of a closed one: waits until every call has left.
    void WaitUntilEmpty() {
        UniqueLock lock(mutex_);
        emptied_.wait(lock.native(), [this] { return state_.load() == kClosed; });
    }

private:
    static constexpr uint64_t kClosed = uint64_t{1} << 63;

    bool Enter() {
        if ((state_.fetch_add(1) & kClosed) == 0) return true;
        Leave();
        return false;
    }
    void Leave() {
        if (state_.fetch_sub(1) != kClosed + 1) return;
        MutexLock lock(mutex_);
        emptied_.notify_all();
    }

    std::atomic<uint64_t> state_{0};
    Mutex mutex_;
    std::condition_variable emptied_;
};

// Own transfers that are using a cache, so that its memory is not given up under them. There are
// few at a time, so a list is enough.
class CachesInUse {
public:
    // To be made before the cache is looked up.
    class Use {
    public:
        Use(CachesInUse *caches, int64_t id) : caches_(caches), id_(id) { caches_->Begin(id); }
        ~Use() { caches_->End(id_); }
        Use(const Use &) = delete;
        Use &operator=(const Use &) = delete;

    private:
        CachesInUse *const caches_;
        const int64_t id_;
    };

    // False if the cache is still in use at the deadline.
    bool WaitUntilUnused(int64_t id, const Deadline &deadline) {
        UniqueLock lock(mutex_);
        return WaitUntil(ended_, lock.native(), deadline,
                         [&]() LLDD_REQUIRES(mutex_) { return CountLocked(id) == nullptr; });
    }

private:
    using Entry = std::pair<int64_t, uint32_t>;

    Entry *CountLocked(int64_t id) LLDD_REQUIRES(mutex_) {
        for (Entry &entry : entries_) {
            if (entry.first == id) return &entry;
        }
        return nullptr;
    }
    void Begin(int64_t id) {
        MutexLock lock(mutex_);
        Entry *entry = CountLocked(id);
        if (entry == nullptr) {
            entries_.emplace_back(id, 1);
        } else {
            ++entry->second;
        }
    }
    void End(int64_t id) {
        MutexLock lock(mutex_);
        Entry *entry = CountLocked(id);
        if (--entry->second != 0) return;
        *entry = entries_.back();
        entries_.pop_back();
        ended_.notify_all();
    }

    Mutex mutex_;
    std::condition_variable ended_;
    std::vector<Entry> entries_ LLDD_GUARDED_BY(mutex_);
};

}  // namespace lldd
