// libcann_hixl.so of the fake CANN: the documented class, over TCP between processes.
//
// What the real one leaves undefined is refused here; what was observed of it is done as it does it
// (docs/ascend.md), by version (traits.h).
//
// SPDX-License-Identifier: Apache-2.0
#include "hixl/hixl.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "engine.h"
#include "errors.h"
#include "fake.h"
#include "traits.h"

#if FAKE_HIXL >= 910
// By what a library exports its version can be told.
extern "C" __attribute__((visibility("default"))) hixl::Status FakeConnectAsync() asm(
    "_ZN4hixl4Hixl12ConnectAsyncEv");
extern "C" hixl::Status FakeConnectAsync() { return hixl::UNSUPPORTED; }
#endif

namespace hixl {

using fake_cann::ForkedExit;
using fake_cann::TheTraits;

namespace {

// What its static destructors do in a forked child that runs them.
struct AtExit {
    pid_t owner = 0;

    ~AtExit() {
        if (owner == 0 || owner == getpid()) return;
        if (TheTraits().forked_exit == ForkedExit::kAborts) std::abort();
        while (TheTraits().forked_exit == ForkedExit::kHangs) pause();
    }
} at_exit;

}  // namespace

fake_cann::Clock::time_point In(int32_t ms) {
    return fake_cann::Clock::now() + std::chrono::milliseconds(ms);
}

Status Refuse(Status status, const std::string &text) {
    fake_cann::SetErrorText(("fake CANN: " + text).c_str());
    return status;
}

Status StatusOf(fake_cann::Sent sent) {
    return sent == fake_cann::Sent::kDone   ? SUCCESS
           : sent == fake_cann::Sent::kLate ? TIMEOUT
                                            : FAILED;
}

Status Enter(const std::string &point) {
    if (fake_cann::CurrentContext() == nullptr)
        return Refuse(PARAM_INVALID, "the thread has no context");
    const uint32_t hangs = fake_cann::Fault((point + "-hang").c_str());
    std::this_thread::sleep_until(In(static_cast<int32_t>(hangs)));
    const Status fault = fake_cann::Fault(point.c_str());
    return fault == SUCCESS ? SUCCESS : Refuse(fault, "ordered fault at " + point);
}

Hixl::Hixl() = default;

Hixl::~Hixl() {
    if (failed_ && TheTraits().dies_of_a_failed_start) raise(SIGSEGV);
}

Status Hixl::Initialize(const AscendString &local_engine,
                        const std::map<AscendString, AscendString> &options) {
    if (engine_ != nullptr) return Refuse(FAILED, "initialized already");
    failed_ = true;
    const Status entered = Enter("initialize");
    if (entered != SUCCESS) return entered;
    auto engine = std::make_unique<Engine>();
    // The engine's threads are not for the signals of the process.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const Status status = engine->Start(local_engine.GetString(), options);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    failed_ = status != SUCCESS;
    if (failed_) return status;
    engine_ = std::move(engine);
    at_exit.owner = getpid();
    return SUCCESS;
}

void Hixl::Finalize() {
    (void)Enter("finalize");
    engine_.reset();
}

Status Hixl::RegisterMem(const MemDesc &mem, MemType type, MemHandle &mem_handle) {
    const Status entered = Enter("register");
    if (entered != SUCCESS) return entered;
    if (engine_ == nullptr) return Refuse(FAILED, "not initialized");
    const Status context = engine_->CheckContext();
    return context != SUCCESS ? context : engine_->Register(mem, type, &mem_handle);
}

Status Hixl::DeregisterMem(MemHandle mem_handle) {
    const Status entered = Enter("deregister");
    if (entered != SUCCESS) return entered;
    if (engine_ == nullptr) return Refuse(FAILED, "not initialized");
    const Status context = engine_->CheckContext();
    return context != SUCCESS ? context : engine_->Deregister(mem_handle);
}

Status Hixl::Connect(const AscendString &remote_engine, int32_t timeout_in_millis) {
    const Status entered = Enter("connect");
    if (entered != SUCCESS) return entered;
    if (engine_ == nullptr) return Refuse(FAILED, "not initialized");
    const Status context = engine_->CheckContext();
    return context != SUCCESS ? context
                              : engine_->Connect(remote_engine.GetString(), timeout_in_millis);
}

Status Hixl::Disconnect(const AscendString &remote_engine, int32_t timeout_in_millis) {
    const Status entered = Enter("disconnect");
    if (entered != SUCCESS) return entered;
    if (engine_ == nullptr) return Refuse(FAILED, "not initialized");
    const Status context = engine_->CheckContext();
    return context != SUCCESS ? context
                              : engine_->Disconnect(remote_engine.GetString(), timeout_in_millis);
}

Status Hixl::TransferSync(const AscendString &remote_engine, TransferOp operation,
                          const std::vector<TransferOpDesc> &op_descs, int32_t timeout_in_millis) {
    if (engine_ == nullptr) return Refuse(FAILED, "not initialized");
    const Status context = engine_->CheckContext();
    if (context != SUCCESS) return context;
    const uint32_t hangs = fake_cann::Fault("transfer-hang");
    std::this_thread::sleep_until(In(static_cast<int32_t>(hangs)));
    size_t bytes = 0;
    for (const TransferOpDesc &desc : op_descs) bytes += desc.len;
    if (fake_cann::InsteadWriteDown("transfer " + std::to_string(op_descs.size()) + " " +
                                    std::to_string(bytes)))
        return SUCCESS;
    return engine_->Transfer(remote_engine.GetString(), operation, op_descs, timeout_in_millis);
}

}  // namespace hixl
