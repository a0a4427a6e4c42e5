// Reads JSON as people write it: commas before a closing bracket are taken.
//
// The text may come from a peer: its depth and the number of its values are bounded, see the
// constants; its length is the caller's to bound.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace lldd {

constexpr size_t kMaxJsonDepth = 32;
constexpr size_t kMaxJsonValues = 32768;

struct JsonValue {
    enum class Kind { kLiteral, kText, kArray, kObject };

    Kind kind = Kind::kLiteral;
    std::string name;  // the key, of a member of an object
    std::string text;  // kLiteral: as it is written; kText: without quotes and escapes, in UTF-8
    std::vector<JsonValue> children;  // kArray: in order; kObject: sorted by name, each name once

    // The member of that name; null if there is none.
    const JsonValue *Find(std::string_view member) const;
};

// False if the text is not JSON, or is past a bound. If a key comes twice, the last one counts.
bool ReadJson(std::string_view text, JsonValue *value);

// A text in quotes, with what needs it escaped.
std::string QuoteJson(std::string_view text);

}  // namespace lldd
