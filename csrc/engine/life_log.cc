// SPDX-License-Identifier: Apache-2.0
#include "engine/life_log.h"

#include "base/log.h"
#include "engine/box_events.h"
#include "engine/cache_key.h"

namespace lldd {
namespace {

const char *MemoryName(uint32_t memory) {
    switch (memory) {
        case LLDD_MEMORY_ALLOCATED: return "allocated";
        case LLDD_MEMORY_REGISTERED: return "registered";
        default: return "other";
    }
}

}  // namespace

std::string LinkText(const Link &link) { return Format("link %08x", link.number()); }

void LogLinkMade(Box *box, const Link &link) {
    BoxLink(box, link, "made");
    if (!LogEnabled(LLDD_LOG_INFO)) return;
    std::string paths;
    for (const PathDescription &path : link.connection()->Paths()) {
        paths += Format("; %s memory by %s (%s)", MemoryName(path.memory), path.path.c_str(),
                        path.reason.c_str());
    }
    const Link::Identity &identity = link.identity();
    const std::string group =
        identity.group.empty() ? "" : " for communicator \"" + identity.group + "\"";
    Log(LLDD_LOG_INFO, "%s to %s made%s, dialled by %s%s", LinkText(link).c_str(),
        link.peer_name().c_str(), group.c_str(),
        identity.end == LinkEnd::kInitiator ? "this end" : "the peer", paths.c_str());
}

void LogLinkSilent(Box *box, const Link &link, uint32_t timeout_ms) {
    BoxLink(box, link, "silent");
    LLDD_LOG(LLDD_LOG_WARNING,
             "the link to %s is silent: its peer has not answered for %u ms (lldd.PeerTimeout); "
             "the link stays",
             link.peer_name().c_str(), timeout_ms);
}

void LogLinkSpeaksAgain(Box *box, const Link &link) {
    BoxLink(box, link, "live");
    LLDD_LOG(LLDD_LOG_WARNING, "the peer of the link to %s answers again",
             link.peer_name().c_str());
}

void LogLinkEnded(Box *box, const Link &link, const std::string &how) {
    BoxLink(box, link, how);
    if (!LogEnabled(LLDD_LOG_INFO)) return;
    Log(LLDD_LOG_INFO, "%s to %s %s", LinkText(link).c_str(), link.peer_name().c_str(),
        how.c_str());
}

void LogCacheMade(const char *how, int64_t cache_id, const lldd_cache_desc &desc,
                  const std::vector<lldd_cache_key> &keys) {
    if (!LogEnabled(LLDD_LOG_INFO)) return;
    std::string shape;
    for (uint32_t i = 0; i < desc.num_dims; ++i)
        shape += Format("%s%lld", i == 0 ? "" : ", ", Printable(desc.dims[i]));
    std::string names = keys.empty() ? "no key" : KeyText(keys.front());
    if (keys.size() > 1) names += Format(" and %zu more", keys.size() - 1);
    Log(LLDD_LOG_INFO, "cache %lld %s: %u tensors of [%s], data type %u, in %s memory, %s, %s",
        Printable(cache_id), how, desc.num_tensors, shape.c_str(), desc.data_type,
        desc.placement == LLDD_PLACEMENT_DEVICE ? "device" : "host",
        desc.layout == LLDD_LAYOUT_BLOCKS ? "blocks" : "contiguous", names.c_str());
}

}  // namespace lldd
