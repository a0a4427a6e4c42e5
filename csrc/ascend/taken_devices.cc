// SPDX-License-Identifier: Apache-2.0
#include "ascend/taken_devices.h"

#include <list>
#include <utility>

#include "base/fork.h"
#include "base/mutex.h"

namespace lldd::ascend {
namespace {

struct Taken {
    int32_t device_id;
    std::shared_ptr<HixlSession> session;
    std::function<void()> free;
};

struct TakenDevices {
    Mutex mutex;
    std::list<Taken> all LLDD_GUARDED_BY(mutex);
};

}  // namespace

void KeepTaken(int32_t device_id, std::shared_ptr<HixlSession> session,
               std::function<void()> free) {
    auto &devices = OfThisProcess<TakenDevices>();
    MutexLock lock(devices.mutex);
    devices.all.push_back({device_id, std::move(session), std::move(free)});
}

Status TakeBack(int32_t device_id, const Deadline &deadline) {
    auto &devices = OfThisProcess<TakenDevices>();
    MutexLock lock(devices.mutex);
    for (auto next = devices.all.begin(); next != devices.all.end();) {
        const auto each = next++;
        if (each->device_id != device_id) continue;
        const Status ended = each->session->End(deadline);
        if (!ended.ok()) {
            return Failure(
                LLDD_FAILED,
                "device %d is still taken by an engine of this process that was "
                "finalized while HIXL did not return (%s); it is free when that returns, "
                "or with a new process",
                device_id, ended.text().c_str());
        }
        each->free();
        devices.all.erase(each);
    }
    return Status::Ok();
}

}  // namespace lldd::ascend
