// SPDX-License-Identifier: Apache-2.0
#include "engine/box_events.h"

#include <algorithm>

namespace lldd {
namespace {

// What one event lists of a kind: a client may bind thousands of keys to a cache.
constexpr size_t kMostListed = 256;

std::string KeyList(const std::vector<lldd_cache_key> &keys) {
    std::string list = "[";
    for (size_t i = 0; i < std::min(keys.size(), kMostListed); ++i) {
        const lldd_cache_key &key = keys[i];
        list += Format("%s[%u, %llu, %llu, %llu]", i == 0 ? "" : ", ", key.kind,
                       Printable(key.model_id), Printable(key.req_id), Printable(key.prefix_id));
    }
    return list + "]";
}

std::string AddressList(const std::vector<ClusterSpec::Address> &addresses) {
    std::string list = "[";
    for (const auto &each : addresses) {
        list += Format("%s[%s, %u]", list.size() == 1 ? "" : ", ", JsonText(each.ip).c_str(),
                       each.port);
    }
    return list + "]";
}

}  // namespace

std::string JsonText(const std::string &text) {
    std::string quoted = "\"";
    for (const char each : text) {
        const auto code = static_cast<unsigned char>(each);
        if (each == '"' || each == '\\') {
            quoted += '\\';
            quoted += each;
        } else if (code < 0x20) {
            quoted += Format("\\u%04x", code);
        } else {
            quoted += each;
        }
    }
    return quoted + "\"";
}

JsonObject &JsonObject::Raw(const char *name, const std::string &json) {
    text_ += Format("%s\"%s\": %s", text_.size() == 1 ? "" : ", ", name, json.c_str());
    return *this;
}

JsonObject &JsonObject::Text(const char *name, const std::string &value) {
    return Raw(name, JsonText(value));
}

JsonObject &JsonObject::Number(const char *name, uint64_t value) {
    return Raw(name, Format("%llu", Printable(value)));
}

JsonObject &JsonObject::Signed(const char *name, int64_t value) {
    return Raw(name, Format("%lld", Printable(value)));
}

JsonObject &JsonObject::Outcome(const Status &status) {
    Number("status", status.code());
    return status.ok() ? *this : Text("text", status.text());
}

void BoxOpened(Box *box, const lldd_config &config, const std::string &listen,
               const Status &status) {
    if (box == nullptr) return;
    JsonObject event;
    event.Text("what", "open").Number("role", config.role).Number("mode", config.mode);
    event.Number("link_style", config.link_style).Number("flags", config.flags);
    event.Signed("device", config.device_id).Number("sync_timeout_ms", config.sync_timeout_ms);
    event.Text("listen", listen).Number("device_pool", config.device_pool_size);
    event.Number("host_pool", config.host_pool_size);
    event.Number("device_page_shift", config.device_page_shift);
    event.Number("host_page_shift", config.host_page_shift);
    event.Number("peer_timeout_ms", config.peer_timeout_ms);
    event.Raw("has_secret", config.auth_token == nullptr ? "false" : "true");
    box->Tell(box::kEvents, event.Outcome(status).Done());
}

void BoxCache(Box *box, const char *what, int64_t cache_id, const lldd_cache_desc &desc,
              const std::vector<lldd_cache_key> &keys, bool accessible, const Status &status) {
    if (box == nullptr) return;
    std::string dims = "[";
    for (uint32_t i = 0; i < desc.num_dims && desc.dims != nullptr; ++i)
        dims += Format("%s%lld", i == 0 ? "" : ", ", Printable(desc.dims[i]));
    JsonObject event;
    event.Text("what", what).Signed("cache", cache_id).Number("tensors", desc.num_tensors);
    event.Number("layout", desc.layout).Number("placement", desc.placement);
    event.Number("type", desc.data_type).Raw("dims", dims + "]").Raw("keys", KeyList(keys));
    event.Raw("accessible", accessible ? "true" : "false");
    box->Tell(box::kEvents, event.Outcome(status).Done());
}

void BoxCacheGoes(Box *box, const char *what, int64_t cache_id, const Status &status) {
    if (box == nullptr) return;
    JsonObject event;
    event.Text("what", what).Signed("cache", cache_id).Outcome(status);
    box->Tell(box::kEvents, event.Done());
}

void BoxKeyGoes(Box *box, const lldd_cache_key &key, const Status &status) {
    if (box == nullptr) return;
    JsonObject event;
    event.Text("what", "remove_key").Raw("keys", KeyList({key})).Outcome(status);
    box->Tell(box::kEvents, event.Done());
}

void BoxClusters(Box *box, const char *what, int64_t begun_ns, bool force, uint32_t timeout_ms,
                 const std::vector<ClusterSpec> &clusters,
                 const std::vector<ClusterResult> &results) {
    if (box == nullptr) return;
    std::string list = "[";
    for (size_t i = 0; i < std::min(clusters.size(), kMostListed); ++i) {
        const ClusterSpec &cluster = clusters[i];
        JsonObject one;
        if (cluster.has_id) one.Number("id", cluster.id);
        one.Raw("remote", AddressList(cluster.remote)).Raw("local", AddressList(cluster.local));
        if (results[i].status.ok()) one.Number("peer", results[i].cluster_id);
        list += (i == 0 ? "" : ", ") + one.Outcome(results[i].status).Done();
    }
    JsonObject event;
    event.Text("what", what).Signed("begun_ns", begun_ns).Raw("force", force ? "true" : "false");
    event.Number("timeout_ms", timeout_ms).Raw("clusters", list + "]");
    box->Tell(box::kEvents, event.Done());
}

void BoxCall(Box *box, const char *what, uint64_t number, const Status &status) {
    if (box == nullptr) return;
    JsonObject event;
    event.Text("what", what).Number("number", number).Outcome(status);
    box->Tell(box::kEvents, event.Done());
}

void BoxListener(Box *box, const char *ip, uint32_t port, const Status &status) {
    if (box == nullptr) return;
    JsonObject event;
    event.Text("what", "switch_listener").Text("ip", ip == nullptr ? "" : ip);
    box->Tell(box::kEvents, event.Number("port", port).Outcome(status).Done());
}

void BoxGroup(Box *box, const GroupSpec &group, uint64_t comm_id, const Status &status) {
    if (box == nullptr) return;
    std::string members = "[";
    for (const auto &member : group.members) {
        members += Format("%s[%llu, %u]", members.size() == 1 ? "" : ", ",
                          Printable(member.cluster_id), member.rank);
    }
    JsonObject event;
    event.Text("what", "join").Text("name", group.name).Raw("members", members + "]");
    event.Text("rank_table", group.rank_table).Number("number", comm_id).Outcome(status);
    box->Tell(box::kEvents, event.Done());
}

void BoxLink(Box *box, const Link &link, const std::string &how) {
    if (box == nullptr) return;
    const Link::Identity &identity = link.identity();
    JsonObject event;
    event.Text("what", "link_end").Text("how", how).Number("link", link.number());
    event.Number("peer", link.peer()).Text("address", identity.peer_address.ToString());
    event.Raw("dialled", identity.end == LinkEnd::kInitiator ? "true" : "false");
    event.Text("group", identity.group);
    if (link.connection() != nullptr && how == "made") {
        std::string paths = "[";
        for (const PathDescription &path : link.connection()->Paths()) {
            paths += Format("%s[%u, %s, %s]", paths.size() == 1 ? "" : ", ", path.memory,
                            JsonText(path.path).c_str(), JsonText(path.reason).c_str());
        }
        event.Raw("paths", paths + "]");
    }
    box->Tell(box::kEvents, event.Done());
}

}  // namespace lldd
