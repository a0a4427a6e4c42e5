// SPDX-License-Identifier: Apache-2.0
#include "ascend/cann.h"

#include <map>

#include "base/log.h"
#include "base/mutex.h"

namespace lldd::ascend {
namespace {

constexpr uint32_t kStreamTimeout = 507046;

const char *HixlName(hixl::Status status) {
    switch (status) {
        case hixl::PARAM_INVALID: return " (parameter invalid)";
        case hixl::TIMEOUT: return " (timeout)";
        case hixl::NOT_CONNECTED: return " (not connected)";
        case hixl::ALREADY_CONNECTED: return " (already connected)";
        case hixl::NOTIFY_FAILED: return " (notify failed)";
        case hixl::UNSUPPORTED: return " (unsupported)";
        case hixl::RESOURCE_EXHAUSTED: return " (resources exhausted; may succeed later)";
        case hixl::FAILED: return " (failed)";
        default: return "";
    }
}

// Numbers of the runtime that have a name of their own in the Python API also come through HIXL.
lldd_status RuntimeStatus(uint32_t number) {
    switch (number) {
        case kStreamTimeout: return LLDD_TIMEOUT;
        case LLDD_DEVICE_MEM_ERROR: return LLDD_DEVICE_MEM_ERROR;
        case LLDD_SUSPECT_REMOTE_ERROR: return LLDD_SUSPECT_REMOTE_ERROR;
        default: return LLDD_FAILED;
    }
}

lldd_status HixlStatus(hixl::Status status) {
    switch (status) {
        case hixl::PARAM_INVALID: return LLDD_PARAM_INVALID;
        case hixl::TIMEOUT: return LLDD_TIMEOUT;
        case hixl::NOT_CONNECTED: return LLDD_NOT_YET_LINK;
        case hixl::ALREADY_CONNECTED: return LLDD_ALREADY_LINK;
        case hixl::UNSUPPORTED: return LLDD_FEATURE_NOT_ENABLED;
        default: return RuntimeStatus(status);
    }
}

std::string RecentError() {
    const char *text = aclGetRecentErrMsg();
    return text == nullptr ? "" : std::string(": ") + text;
}

}  // namespace

Status FromAcl(aclError error, const std::string &what) {
    if (error == ACL_SUCCESS) return Status::Ok();
    return Status(RuntimeStatus(static_cast<uint32_t>(error)),
                  Format("%s: ACL error %d", what.c_str(), error) + RecentError(), error);
}

Status FromHixl(hixl::Status status, const std::string &what) {
    if (status == hixl::SUCCESS) return Status::Ok();
    return Status(
        HixlStatus(status),
        Format("%s: HIXL status %u%s", what.c_str(), status, HixlName(status)) + RecentError(),
        status);
}

bool ConnectionSurvives(hixl::Status status) {
    return status == hixl::SUCCESS || status == hixl::PARAM_INVALID ||
           status == hixl::UNSUPPORTED || status == hixl::RESOURCE_EXHAUSTED;
}

int32_t Milliseconds(const Deadline &deadline) { return deadline.RemainingMs(); }

Status Context::Acquire(int32_t device_id, std::shared_ptr<Context> *context) {
    static Mutex mutex;
    static std::map<int32_t, std::weak_ptr<Context>> open;
    MutexLock lock(mutex);
    *context = open[device_id].lock();
    if (*context != nullptr) return Status::Ok();
    std::shared_ptr<Context> made(new Context);
    made->device_id_ = device_id;
    aclrtContext before = nullptr;
    const bool had_one = aclrtGetCurrentContext(&before) == ACL_SUCCESS && before != nullptr;
    LLDD_RETURN_IF_ERROR(FromAcl(aclrtSetDevice(device_id), Format("set device %d", device_id)));
    made->was_set_here_ = true;
    LLDD_RETURN_IF_ERROR(FromAcl(aclrtGetCurrentContext(&made->context_), "get the context"));
    if (had_one && before != made->context_) {
        LLDD_RETURN_IF_ERROR(FromAcl(aclrtSetCurrentContext(before), "restore the context"));
    }
    open[device_id] = made;
    *context = std::move(made);
    return Status::Ok();
}

Context::~Context() {
    if (!was_set_here_) return;
    const Status reset = FromAcl(aclrtResetDevice(device_id_), "reset the device");
    if (!reset.ok()) LLDD_LOG(LLDD_LOG_WARNING, "%s", reset.text().c_str());
}

Context::Scope::Scope(const Context &context) {
    if (aclrtGetCurrentContext(&before_) != ACL_SUCCESS) before_ = nullptr;
    if (before_ == context.context_) return;
    changed_ = before_ != nullptr;
    const Status set = FromAcl(aclrtSetCurrentContext(context.context_), "set the context");
    // The call that follows fails by itself, and reports it.
    if (!set.ok()) LLDD_LOG(LLDD_LOG_ERROR, "%s", set.text().c_str());
}

Context::Scope::~Scope() {
    if (!changed_) return;
    const Status set = FromAcl(aclrtSetCurrentContext(before_), "restore the context");
    if (!set.ok()) LLDD_LOG(LLDD_LOG_ERROR, "%s", set.text().c_str());
}

}  // namespace lldd::ascend
