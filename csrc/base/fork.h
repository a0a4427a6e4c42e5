// What happens to the library's state in a forked child.
//
// A child shares the parent's open sockets, so a peer would not see the parent's death, and holds
// copies of locks that no thread of its own will ever release. So the child closes every descriptor
// of the library and every engine it inherited is marked dead; it may open engines of its own.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>

namespace lldd {

// Something that lives in the process and must know that it is now in a child. The handler runs in
// the child, between fork and its return: it may touch atomics only. Registering is cheap and not
// for the hot path.
class ForkGuard {
public:
    ForkGuard();
    ~ForkGuard();
    ForkGuard(const ForkGuard &) = delete;
    ForkGuard &operator=(const ForkGuard &) = delete;

    // True in a child of the process that made this guard.
    bool in_child() const { return in_child_.load(std::memory_order_relaxed); }

private:
    friend struct ForkState;
    std::atomic<bool> in_child_{false};
};

// Descriptors of the library, closed in a child. Used by Fd; see fd.h.
void RememberDescriptor(int fd);
// Closes it, unless it was not the library's any more, i.e. in a child. No fork comes in between.
void CloseDescriptor(int fd);

// How often this process's line of ancestors forked since the library was loaded: state that must
// be made anew in a child compares it.
unsigned ForkGeneration();

// The one T of this process, never destroyed. A forked child gets one of its own: locks of the
// parent's may have been held when it forked, and its threads do not exist there.
template <typename T>
T &OfThisProcess() {
    struct Held {
        T value;
        const unsigned generation = ForkGeneration();
    };
    static std::atomic<Held *> current{new Held};
    Held *held = current.load();
    if (held->generation == ForkGeneration()) return held->value;
    auto *fresh = new Held;
    if (current.compare_exchange_strong(held, fresh)) return fresh->value;
    delete fresh;
    return held->value;
}

}  // namespace lldd
