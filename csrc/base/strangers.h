// Connections of which nothing is known yet: how many there may be, for how long, and how much memory
// they may take together.
//
// A connection has a place here from the moment when it is accepted until it has proved what its
// listener asks for, or is closed. When all places are taken, the connection that came first makes
// room: first of the origin (an address, a user) that has the most places, so that who floods a
// listener pushes out its own connections. Everything runs on the I/O thread.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "base/deadline.h"
#include "base/event_loop.h"
#include "base/mutex.h"

namespace lldd {

class Strangers {
public:
    struct Limits {
        // How many places there are. A process that may open few files has fewer: a quarter of them.
        size_t most = 1024;
        uint64_t ms = 10'000;  // how long each may take
        size_t bytes = 0;      // that all may hold of messages that are not complete
    };
    // Ends the connection, whose place is given back already. `why` is for a log line.
    using Ending = std::function<void(const char *why)>;

    // Gives the place back when it is destroyed.
    class Place {
    public:
        Place() = default;
        Place(Place &&other) noexcept
            : strangers_(std::exchange(other.strangers_, nullptr)), id_(other.id_) {}
        Place &operator=(Place &&other) noexcept {
            Leave();
            strangers_ = std::exchange(other.strangers_, nullptr);
            id_ = other.id_;
            return *this;
        }
        Place(const Place &) = delete;
        Place &operator=(const Place &) = delete;
        ~Place() { Leave(); }

        void Leave();
        void SetEnding(Ending ending);
        // So many bytes of it are held until they are a message. May end any connection here, this
        // one too.
        void Hold(size_t bytes);

    private:
        friend class Strangers;
        Place(Strangers *strangers, uint64_t id) : strangers_(strangers), id_(id) {}

        Strangers *strangers_ = nullptr;
        uint64_t id_ = 0;
    };

    // `what` is for log lines: "connections to the listener".
    Strangers(EventLoop *loop, const char *what, const Limits &limits);
    ~Strangers();  // after its places
    Strangers(const Strangers &) = delete;
    Strangers &operator=(const Strangers &) = delete;

    // Never refused: when there is no room, another one ends.
    Place Admit(uint64_t origin, Ending ending);

private:
    struct Entry {
        uint64_t origin;
        Deadline deadline;
        size_t bytes;
        Ending ending;
    };
    using Entries = std::map<uint64_t, Entry>;

    void Forget(uint64_t id) LLDD_REQUIRES(*loop_);
    void End(Entries::iterator entry, const char *why) LLDD_REQUIRES(*loop_);
    Entries::iterator WhoMakesRoom() LLDD_REQUIRES(*loop_);
    void Hold(uint64_t id, size_t bytes) LLDD_REQUIRES(*loop_);
    void EndLate() LLDD_REQUIRES(*loop_);
    void SetTimer() LLDD_REQUIRES(*loop_);
    void Say(const char *why) LLDD_REQUIRES(*loop_);

    EventLoop *const loop_;
    const char *const what_;
    const Limits limits_;
    Entries entries_ LLDD_GUARDED_BY(*loop_);                     // in the order of their coming
    std::map<uint64_t, size_t> origins_ LLDD_GUARDED_BY(*loop_);  // how many entries each has
    uint64_t last_id_ LLDD_GUARDED_BY(*loop_) = 0;
    size_t bytes_ LLDD_GUARDED_BY(*loop_) = 0;
    EventLoop::Token timer_ LLDD_GUARDED_BY(*loop_) = 0;
    bool crowded_ LLDD_GUARDED_BY(*loop_) = false;  // and the log has said so
};

}  // namespace lldd
