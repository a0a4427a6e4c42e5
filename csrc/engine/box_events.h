// What an engine writes into its box besides transfers: one JSON object for each call and event, with
// what a replay needs to do the same again. No function does anything without a box.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/box.h"
#include "base/status.h"
#include "engine/groups.h"
#include "engine/link.h"
#include "engine/link_initiator.h"
#include "llm_datadist.h"

namespace lldd {

// One JSON object, member by member.
class JsonObject {
public:
    JsonObject &Text(const char *name, const std::string &value);
    JsonObject &Number(const char *name, uint64_t value);
    JsonObject &Signed(const char *name, int64_t value);
    // As it is.
    JsonObject &Raw(const char *name, const std::string &json);
    // Its status, and its text if it failed.
    JsonObject &Outcome(const Status &status);
    std::string Done() const { return text_ + "}"; }

private:
    std::string text_ = "{";
};

// `text` between quotation marks.
std::string JsonText(const std::string &text);

// An engine is opened or was not; `listen` is "" if it does not listen.
void BoxOpened(Box *box, const lldd_config &config, const std::string &listen,
               const Status &status);

void BoxCache(Box *box, const char *what, int64_t cache_id, const lldd_cache_desc &desc,
              const std::vector<lldd_cache_key> &keys, bool accessible, const Status &status);
// "deallocate", "unregister".
void BoxCacheGoes(Box *box, const char *what, int64_t cache_id, const Status &status);
void BoxKeyGoes(Box *box, const lldd_cache_key &key, const Status &status);

// "link", "unlink"; `begun_ns` is when the call came.
void BoxClusters(Box *box, const char *what, int64_t begun_ns, bool force, uint32_t timeout_ms,
                 const std::vector<ClusterSpec> &clusters,
                 const std::vector<ClusterResult> &results);
// A call that has a number and nothing else.
void BoxCall(Box *box, const char *what, uint64_t number, const Status &status);
void BoxGroup(Box *box, const GroupSpec &group, uint64_t comm_id, const Status &status);

// `ip` null: the listener is closed.
void BoxListener(Box *box, const char *ip, uint32_t port, const Status &status);

// An end of a link is there, or goes: "made", "unlinked by the peer".
void BoxLink(Box *box, const Link &link, const std::string &how);

}  // namespace lldd
