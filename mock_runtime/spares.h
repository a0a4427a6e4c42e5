// Objects that are used again for the memory that they have.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace lldd::mock {

// Keeps as many as were in use at the same time. Thread-safe; outlives its loans.
template <typename T>
class Spares {
public:
    // One of them, for one thread, while it lives. It is in the state in which it was returned.
    class Loan {
    public:
        explicit Loan(Spares *spares) : spares_(spares), object_(spares->Take()) {}
        ~Loan() { spares_->Return(std::move(object_)); }
        Loan(const Loan &) = delete;
        Loan &operator=(const Loan &) = delete;

        T &operator*() const { return *object_; }

    private:
        Spares *const spares_;
        std::unique_ptr<T> object_;
    };

private:
    std::unique_ptr<T> Take() {
        MutexLock lock(mutex_);
        if (idle_.empty()) {
            // The room is made here, so that returning never needs memory.
            idle_.reserve(++made_);
            return std::make_unique<T>();
        }
        std::unique_ptr<T> object = std::move(idle_.back());
        idle_.pop_back();
        return object;
    }

    void Return(std::unique_ptr<T> object) {
        MutexLock lock(mutex_);
        idle_.push_back(std::move(object));
    }

    Mutex mutex_;
    // The one that was used last is taken first.
    std::vector<std::unique_ptr<T>> idle_ LLDD_GUARDED_BY(mutex_);
    size_t made_ LLDD_GUARDED_BY(mutex_) = 0;
};

}  // namespace lldd::mock
