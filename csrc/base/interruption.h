// Ends calls before their deadlines: their link is taken down, their engine is closed, or Ctrl-C came.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

#include "base/status.h"

namespace lldd {

enum class InterruptCause : uint32_t { kNone, kUnlink, kFinalize, kCaller, kCancel };

// What an interrupted call answers, wherever it was by then: LLDD_TIMEOUT.
Status Interrupted(InterruptCause cause);
// The status of a call that ended by then: an LLDD_TIMEOUT says what interrupted the call, if anything
// did.
Status WithCause(Status status, InterruptCause cause);

// What one or more calls look at while they wait or move bytes. Thread-safe.
class Interruption {
public:
    // Whatever interrupts `wider`, or `other`, interrupts this one. They must outlive it; null: there is
    // none.
    explicit Interruption(const Interruption *wider = nullptr, const Interruption *other = nullptr)
        : wider_(wider), other_(other) {}
    Interruption(const Interruption &) = delete;
    Interruption &operator=(const Interruption &) = delete;

    // The first cause stays.
    void Raise(InterruptCause cause) {
        InterruptCause none = InterruptCause::kNone;
        cause_.compare_exchange_strong(none, cause);
    }
    InterruptCause cause() const {
        InterruptCause cause = cause_.load(std::memory_order_acquire);
        if (cause == InterruptCause::kNone && wider_ != nullptr) cause = wider_->cause();
        if (cause == InterruptCause::kNone && other_ != nullptr) cause = other_->cause();
        return cause;
    }

private:
    const Interruption *const wider_;
    const Interruption *const other_;
    std::atomic<InterruptCause> cause_{InterruptCause::kNone};
};

}  // namespace lldd
