// SPDX-License-Identifier: Apache-2.0
#include "engine/lenient_json.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "base/status.h"

namespace lldd {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool IsLiteral(std::string_view text) {
    if (text.empty()) return false;
    if (text == "true" || text == "false" || text == "null") return true;
    return text[0] == '-' || (text[0] >= '0' && text[0] <= '9');
}

void AppendUtf8(uint32_t code, std::string *text) {
    const auto append = [&](uint32_t byte) { text->push_back(static_cast<char>(byte)); };
    if (code < 0x80) {
        append(code);
        return;
    }
    if (code < 0x800) {
        append(0xC0 | code >> 6);
    } else if (code < 0x10000) {
        append(0xE0 | code >> 12);
        append(0x80 | (code >> 6 & 0x3F));
    } else {
        append(0xF0 | code >> 18);
        append(0x80 | (code >> 12 & 0x3F));
        append(0x80 | (code >> 6 & 0x3F));
    }
    append(0x80 | (code & 0x3F));
}

class JsonReader {
public:
    explicit JsonReader(std::string_view text) : rest_(text) {
        if (rest_.substr(0, kByteOrderMark.size()) == kByteOrderMark)
            rest_.remove_prefix(kByteOrderMark.size());
    }

    bool ReadAll(JsonValue *value) {
        if (!ReadValue(value, 1)) return false;
        SkipSpace();
        return rest_.empty();
    }

private:
    void SkipSpace() {
        rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\r\n"), rest_.size()));
    }

    // Takes that character, after any space.
    bool Take(char wanted) {
        SkipSpace();
        if (rest_.empty() || rest_[0] != wanted) return false;
        rest_.remove_prefix(1);
        return true;
    }

    bool ReadValue(JsonValue *value, size_t depth) {
        if (depth > kMaxJsonDepth || ++values_ > kMaxJsonValues) return false;
        if (Take('"')) {
            value->kind = JsonValue::Kind::kText;
            return ReadText(&value->text);
        }
        if (Take('[')) {
            value->kind = JsonValue::Kind::kArray;
            return ReadChildren(value, ']', depth);
        }
        if (Take('{')) {
            value->kind = JsonValue::Kind::kObject;
            if (!ReadChildren(value, '}', depth)) return false;
            SortMembers(&value->children);
            return true;
        }
        const size_t end = std::min(rest_.find_first_of(" \t\r\n,:[]{}\""), rest_.size());
        value->text = rest_.substr(0, end);
        rest_.remove_prefix(end);
        return IsLiteral(value->text);
    }

    bool ReadChildren(JsonValue *parent, char end, size_t depth) {
        while (!Take(end)) {
            JsonValue child;
            if (end == '}' && !(Take('"') && ReadText(&child.name) && Take(':'))) return false;
            if (!ReadValue(&child, depth + 1)) return false;
            parent->children.push_back(std::move(child));
            if (!Take(',')) return Take(end);
        }
        return true;
    }

    static void SortMembers(std::vector<JsonValue> *members) {
        // The last of equal names comes first, and stays.
        std::reverse(members->begin(), members->end());
        std::stable_sort(members->begin(), members->end(),
                         [](const auto &a, const auto &b) { return a.name < b.name; });
        const auto end = std::unique(members->begin(), members->end(),
                                     [](const auto &a, const auto &b) { return a.name == b.name; });
        members->erase(end, members->end());
    }

    // What follows the opening quote, with the closing one.
    bool ReadText(std::string *text) {
        for (;;) {
            const size_t end = rest_.find_first_of("\"\\");
            if (end == std::string_view::npos) return false;
            text->append(rest_.substr(0, end));
            const bool escaped = rest_[end] == '\\';
            rest_.remove_prefix(end + 1);
            if (!escaped) return true;
            if (!ReadEscaped(text)) return false;
        }
    }

    bool ReadEscaped(std::string *text) {
        constexpr std::string_view kEscapes = "\"\\/bfnrt";
        constexpr std::string_view kMeant = "\"\\/\b\f\n\r\t";
        if (rest_.empty()) return false;
        const char escape = rest_[0];
        rest_.remove_prefix(1);
        if (escape == 'u') return ReadCode(text);
        const size_t place = kEscapes.find(escape);
        if (place == std::string_view::npos) return false;
        text->push_back(kMeant[place]);
        return true;
    }

    // The digits of \uXXXX, and the second half of a surrogate pair.
    bool ReadCode(std::string *text) {
        uint32_t code = 0;
        if (!ReadHex(&code)) return false;
        if (code >= 0xD800 && code < 0xDC00) {
            uint32_t low = 0;
            if (rest_.substr(0, 2) != "\\u") return false;
            rest_.remove_prefix(2);
            if (!ReadHex(&low) || low < 0xDC00 || low >= 0xE000) return false;
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        } else if (code >= 0xDC00 && code < 0xE000) {
            return false;
        }
        AppendUtf8(code, text);
        return true;
    }

    bool ReadHex(uint32_t *code) {
        constexpr std::string_view kDigits = "0123456789abcdef0123456789ABCDEF";
        if (rest_.size() < 4) return false;
        for (const char c : rest_.substr(0, 4)) {
            const size_t digit = kDigits.find(c);
            if (digit == std::string_view::npos) return false;
            *code = *code << 4 | static_cast<uint32_t>(digit % 16);
        }
        rest_.remove_prefix(4);
        return true;
    }

    std::string_view rest_;
    size_t values_ = 0;
};

}  // namespace

const JsonValue *JsonValue::Find(std::string_view member) const {
    if (kind != Kind::kObject) return nullptr;
    const auto found =
        std::lower_bound(children.begin(), children.end(), member,
                         [](const JsonValue &child, auto wanted) { return child.name < wanted; });
    return found != children.end() && found->name == member ? &*found : nullptr;
}

bool ReadJson(std::string_view text, JsonValue *value) { return JsonReader(text).ReadAll(value); }

std::string QuoteJson(std::string_view text) {
    std::string quoted = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            quoted += '\\';
            quoted += c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            quoted += Format("\\u%04x", static_cast<unsigned>(c));
        } else {
            quoted += c;
        }
    }
    return quoted + '"';
}

}  // namespace lldd
