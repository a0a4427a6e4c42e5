// The calls of an engine that concern its communicators.
//
// SPDX-License-Identifier: Apache-2.0
#include "base/status.h"
#include "engine/engine.h"
#include "engine/groups.h"

namespace lldd {

Status Engine::CheckHasGroups() const {
    if (link_style_ != LLDD_LINK_STYLE_ONE_WAY) return Status::Ok();
    return Failure(LLDD_FEATURE_NOT_ENABLED, "there are no communicators with one-way links");
}

Status Engine::JoinGroup(const GroupSpec &spec, uint64_t *comm_id) {
    LLDD_RETURN_IF_ERROR(CheckHasGroups());
    return groups_->Join(spec, comm_id);
}

Status Engine::LeaveGroup(uint64_t comm_id) {
    LLDD_RETURN_IF_ERROR(CheckHasGroups());
    Interruption call(&closing_);
    return groups_->Leave(comm_id, SyncDeadline().InterruptedBy(&call));
}

Status Engine::GroupState(uint64_t comm_id, uint32_t *state) {
    LLDD_RETURN_IF_ERROR(CheckHasGroups());
    return groups_->State(comm_id, state);
}

}  // namespace lldd
