// SPDX-License-Identifier: Apache-2.0
#include "engine/life_log.h"

#include <chrono>
#include <cstdlib>
#include <string_view>

#include "base/hmac.h"
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

uint64_t SlowMs() {
    const char *const text = std::getenv("LLM_DATADIST_SLOW_MS");
    return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
}

std::string Numbered(const Link &link) { return Format("link %08x", LinkNumber(link)); }

}  // namespace

uint32_t LinkNumber(const Link &link) {
    const LinkNonce &nonce = link.identity().nonce;
    const std::string_view bytes(reinterpret_cast<const char *>(nonce.data()), nonce.size());
    const Digest digest = HmacSha256(bytes, "lldd log");
    uint32_t number = 0;
    for (size_t i = 0; i < sizeof number; ++i) number = number << 8 | digest[i];
    return number == 0 ? 1 : number;
}

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
    Log(LLDD_LOG_INFO, "%s to %s made%s, dialled by %s%s", Numbered(link).c_str(),
        link.peer_name().c_str(), group.c_str(),
        identity.end == LinkEnd::kInitiator ? "this end" : "the peer", paths.c_str());
}

void LogLinkEnded(Box *box, const Link &link, const std::string &how) {
    BoxLink(box, link, how);
    if (!LogEnabled(LLDD_LOG_INFO)) return;
    Log(LLDD_LOG_INFO, "%s to %s %s", Numbered(link).c_str(), link.peer_name().c_str(),
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

TransferLog::TransferLog(uint32_t timeout_ms) : timeout_ms_(timeout_ms), slow_ms_(SlowMs()) {}

bool TransferLog::tells() const { return slow_ms_ != 0 || LogEnabled(LLDD_LOG_DEBUG); }

void TransferLog::Tell(const Link &link, const std::string &what, uint64_t bytes,
                       const Deadline &deadline, const Status &status) const {
    const auto begun = deadline.when() - std::chrono::milliseconds(timeout_ms_);
    const double ms =
        std::chrono::duration<double, std::milli>(Deadline::Clock::now() - begun).count();
    const bool slow = slow_ms_ != 0 && ms > static_cast<double>(slow_ms_);
    const uint32_t level = slow ? LLDD_LOG_WARNING : LLDD_LOG_DEBUG;
    if (!LogEnabled(level)) return;
    Log(level, "%s%s over %s: %llu bytes, %.3f ms, %s%s%s", slow ? "slow: " : "", what.c_str(),
        Numbered(link).c_str(), Printable(bytes), ms, StatusName(status.code()),
        status.ok() ? "" : ": ", status.text().c_str());
}

}  // namespace lldd
