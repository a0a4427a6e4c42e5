// Locks whose rules a compiler checks: which lock guards a member, and which function needs it.
//
// clang checks them (-Wthread-safety, `nox -s threads`); for other compilers the attributes are
// nothing, and the classes are those of the standard library.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>

#if defined(__clang__)
#define LLDD_THREAD_ATTRIBUTE(...) __attribute__((__VA_ARGS__))
#else
#define LLDD_THREAD_ATTRIBUTE(...)
#endif

// Of a class: its objects can be held by a thread; a local object holds others while it lives.
#define LLDD_CAPABILITY(name) LLDD_THREAD_ATTRIBUTE(capability(name))
#define LLDD_SCOPED_CAPABILITY LLDD_THREAD_ATTRIBUTE(scoped_lockable)
// Of a member: it, or what it points to, is read and written by the holder alone.
#define LLDD_GUARDED_BY(...) LLDD_THREAD_ATTRIBUTE(guarded_by(__VA_ARGS__))
#define LLDD_PT_GUARDED_BY(...) LLDD_THREAD_ATTRIBUTE(pt_guarded_by(__VA_ARGS__))
// Of a function: its caller holds them, must not hold them; it takes them, lets them go, takes them
// if it returns the first argument, returns them, or ends the process where they are not held.
#define LLDD_REQUIRES(...) LLDD_THREAD_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define LLDD_EXCLUDES(...) LLDD_THREAD_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define LLDD_ACQUIRE(...) LLDD_THREAD_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define LLDD_RELEASE(...) LLDD_THREAD_ATTRIBUTE(release_capability(__VA_ARGS__))
#define LLDD_TRY_ACQUIRE(...) LLDD_THREAD_ATTRIBUTE(try_acquire_capability(__VA_ARGS__))
#define LLDD_RETURN_CAPABILITY(...) LLDD_THREAD_ATTRIBUTE(lock_returned(__VA_ARGS__))
#define LLDD_ASSERT_HELD(...) LLDD_THREAD_ATTRIBUTE(assert_capability(__VA_ARGS__))
// Of a function whose reason to do without the check stands beside it.
#define LLDD_NOT_ANALYSED LLDD_THREAD_ATTRIBUTE(no_thread_safety_analysis)

namespace lldd {

class LLDD_CAPABILITY("mutex") Mutex {
public:
    Mutex() = default;
    Mutex(const Mutex &) = delete;
    Mutex &operator=(const Mutex &) = delete;

    void Lock() LLDD_ACQUIRE() { mutex_.lock(); }
    void Unlock() LLDD_RELEASE() { mutex_.unlock(); }
    // The caller has it already, which the check does not see: in a lambda that runs while the
    // function around it holds the lock.
    void AssertHeld() const LLDD_ASSERT_HELD() {}
    bool TryLock() LLDD_TRY_ACQUIRE(true) { return mutex_.try_lock(); }

private:
    friend class UniqueLock;
    std::mutex mutex_;
};

// A right that one thread at a time has without a mutex being locked meanwhile, such as a turn. It
// exists for the check only; what gives the right says so by the attributes.
class LLDD_CAPABILITY("right") Right {};

// Holds the mutex while it lives.
class LLDD_SCOPED_CAPABILITY MutexLock {
public:
    explicit MutexLock(Mutex &mutex) LLDD_ACQUIRE(mutex) : mutex_(mutex) { mutex_.Lock(); }
    // The caller has locked it.
    MutexLock(Mutex &mutex, std::adopt_lock_t) LLDD_REQUIRES(mutex) : mutex_(mutex) {}
    ~MutexLock() LLDD_RELEASE() { mutex_.Unlock(); }
    MutexLock(const MutexLock &) = delete;
    MutexLock &operator=(const MutexLock &) = delete;

private:
    Mutex &mutex_;
};

// The same; may let it go and take it again, and wait on a std::condition_variable.
class LLDD_SCOPED_CAPABILITY UniqueLock {
public:
    explicit UniqueLock(Mutex &mutex) LLDD_ACQUIRE(mutex) : lock_(mutex.mutex_) {}
    ~UniqueLock() LLDD_RELEASE() {}
    UniqueLock(const UniqueLock &) = delete;
    UniqueLock &operator=(const UniqueLock &) = delete;

    void Lock() LLDD_ACQUIRE() { lock_.lock(); }
    void Unlock() LLDD_RELEASE() { lock_.unlock(); }
    // For std::condition_variable, whose predicates are LLDD_REQUIRES of the mutex.
    std::unique_lock<std::mutex> &native() { return lock_; }

private:
    std::unique_lock<std::mutex> lock_;
};

}  // namespace lldd
