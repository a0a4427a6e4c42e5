// Rank tables: an input is two of them with a zero byte between, as two members send them.
//
// SPDX-License-Identifier: Apache-2.0
#include "engine/rank_table.h"

#include "target.h"

namespace lldd::fuzz {
namespace {

// A text survives being quoted and read.
void DemandQuoted(const JsonValue &value) {
    for (const std::string *text : {&value.name, &value.text}) {
        if (value.kind == JsonValue::Kind::kLiteral && text == &value.text) continue;
        JsonValue again;
        DEMAND(ReadJson(QuoteJson(*text), &again));
        DEMAND(again.kind == JsonValue::Kind::kText && again.text == *text);
    }
    for (const JsonValue &child : value.children) DemandQuoted(child);
    if (value.kind != JsonValue::Kind::kObject) return;
    for (const JsonValue &child : value.children) DEMAND(value.Find(child.name) == &child);
}

void Run(std::string_view input) {
    const size_t zero = input.find('\0');
    const std::string own(input.substr(0, zero));
    const std::string other(zero == std::string_view::npos ? "" : input.substr(zero + 1));
    JsonValue value;
    if (ReadJson(own, &value)) DemandQuoted(value);

    const RankTable here(own);
    const RankTable there(other);
    DEMAND(here.SaysTheSame(here));
    const bool same = here.SaysTheSame(there);
    DEMAND(same == there.SaysTheSame(here));
    const std::string difference = here.DifferenceTo(there);
    if (!same) DEMAND(!difference.empty() && difference.size() < 4096);
}

std::vector<std::string> Seeds() {
    const std::string table =
        "{\"status\": \"completed\", \"version\": \"1.0\", \"server_count\": \"1\", "
        "\"server_list\": [{\"server_id\": \"10.0.0.1\", \"device\": ["
        "{\"device_id\": \"0\", \"device_ip\": \"10.1.0.1\", \"rank_id\": \"0\"}, "
        "{\"device_id\": \"1\", \"device_ip\": \"10.1.0.2\", \"rank_id\": \"1\"},]}]}";
    const std::string other =
        "{\"version\": 1.0e3, \"super_pod_list\": [{\"super_pod_id\": "
        "\"\\u00e9\\ud83d\\ude00\", \"x\": [true, null, -1]}], \"t\": \"\\n\"}";
    const std::string zero(1, '\0');
    return {table + zero + table, table + zero + other, other + zero + other, "[1,{},[]]", "{"};
}

const Registration kRegistered({"rank_table", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
