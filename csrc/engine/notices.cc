// SPDX-License-Identifier: Apache-2.0
#include "engine/notices.h"

#include <cstddef>
#include <utility>

#include "base/log.h"

namespace lldd {
namespace {

constexpr size_t kMaxNotices = 64;

}  // namespace

void Notices::Add(std::string text) {
    LLDD_LOG(LLDD_LOG_WARNING, "%s", text.c_str());
    MutexLock lock(mutex_);
    if (notices_.size() == kMaxNotices) notices_.pop_front();
    notices_.push_back(std::move(text));
}

bool Notices::Next(std::string *text) {
    MutexLock lock(mutex_);
    if (notices_.empty()) return false;
    *text = std::move(notices_.front());
    notices_.pop_front();
    return true;
}

}  // namespace lldd
