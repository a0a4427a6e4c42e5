// An engine of the fake HIXL: how it begins and ends, and its memory.
//
// SPDX-License-Identifier: Apache-2.0
#include "engine.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>

#include "errors.h"
#include "traits.h"

namespace hixl {

using fake_cann::Bounce;
using fake_cann::Clock;
using fake_cann::CurrentContext;
using fake_cann::Name;
using fake_cann::TheTraits;

namespace {

// One thread of the process, from its first engine to its end.
void LeaveAThread() {
    static const bool started = [] {
        std::thread thread([] {
            pthread_setname_np(pthread_self(), "ge_llm_stats");
            for (;;) pause();
        });
        thread.detach();
        return true;
    }();
    (void)started;
}

}  // namespace

size_t Step(size_t left) { return std::min(left, Bounce::kSize); }

Hixl::Engine::Engine()
    : context_(CurrentContext()),
      device_(fake_cann::CurrentDevice()),
      registry_(Registry::Of(context_)) {}

Status Hixl::Engine::CheckContext() const {
    if (CurrentContext() == context_) return SUCCESS;
    return Refuse(PARAM_INVALID, "the thread has a context of another device than HIXL");
}

Status Hixl::Engine::Start(const std::string &local,
                           const std::map<AscendString, AscendString> &options) {
    Name name;
    if (!Name::Parse(local, &name)) return Refuse(PARAM_INVALID, "local_engine is " + local);
    // By its bare name: it is there if it is loaded already, or on the path of the process.
    if (dlopen("libhcomm.so", RTLD_NOW) == nullptr)
        return Refuse(FAILED, std::string("no libhcomm.so: ") + dlerror());
    const Status read = Options::Read(options, &options_);
    if (read != SUCCESS) return read;
    name_ = local;
    if (TheTraits().leaves_a_thread) LeaveAThread();
    wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    watcher_ = std::thread([this] { Watch(); });
    if (name.port == 0) return SUCCESS;
    listener_ = name.Listen();
    if (!listener_.open()) return Refuse(FAILED, "cannot listen at " + local);
    acceptor_ = std::thread([this] { Accept(); });
    return SUCCESS;
}

void Hixl::Engine::Stop() {
    const bool began = watcher_.joinable();
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stopping_ = true;
    }
    listener_.Interrupt();
    if (acceptor_.joinable()) acceptor_.join();
    listener_.Close();
    if (began) {
        WakeWatcher();
        watcher_.join();
        close(wake_);
    }
    connections_.clear();
    {
        std::lock_guard<std::mutex> lock(mutex_);
        for (const Served &served : served_) served.socket.Interrupt();
    }
    for (Served &served : served_) served.thread.join();
    served_.clear();
    registry_.TakeAway(this);
    if (!began) return;
    std::this_thread::sleep_until(fake_cann::AfterWait(fake_cann::kFinalizeMs));
    // One descriptor of an engine is left behind.
    (void)epoll_create1(EPOLL_CLOEXEC);
}

Status Hixl::Engine::Register(const MemDesc &mem, MemType type, MemHandle *handle) {
    return registry_.Register(this, mem, type, handle);
}

// Documented as something to do after disconnecting: it is refused before.
Status Hixl::Engine::Deregister(MemHandle handle) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto now = Clock::now();
    const auto bound = [&](uint64_t id) -> Status {
        for (const auto &[name, connection] : connections_) {
            if (connection->known.count(id) != 0)
                return Refuse(PARAM_INVALID, "the memory is bound by the connection to " + name);
        }
        for (const Served &served : served_) {
            if (now >= served.bound_until) continue;
            if (options_.comm_1_3) return Refuse(FAILED, "there is a client: " + served.client);
            if (served.known.count(id) != 0)
                return Refuse(PARAM_INVALID, "the memory is bound by a client: " + served.client);
        }
        return SUCCESS;
    };
    return registry_.Deregister(handle, bound);
}

void Hixl::Engine::KnowSegments(const std::string &peer) {
    std::lock_guard<std::mutex> lock(mutex_);
    segments_.insert(peer);
}

void Hixl::Engine::ForgetSegments(const std::string &peer) {
    if (!TheTraits().forgets_segments) return;
    std::lock_guard<std::mutex> lock(mutex_);
    segments_.erase(peer);
}

bool Hixl::Engine::KnowsSegments(const std::string &peer) {
    std::lock_guard<std::mutex> lock(mutex_);
    return segments_.count(peer) != 0;
}

}  // namespace hixl
