// SPDX-License-Identifier: Apache-2.0
#include "engine/rank_table.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace lldd {
namespace {

// As many differences as a person reads, and as much of each value.
constexpr size_t kMaxShown = 4;
constexpr size_t kMaxValueShown = 60;

// A list whose order says nothing, what its elements are called, and by which member they are told
// apart.
struct Unordered {
    std::string_view list;
    const char *noun;
    std::string_view id;
};

constexpr Unordered kUnordered[] = {
    {"server_list", "server", "server_id"},
    {"device", "device", "device_id"},
    {"super_pod_list", "super pod", "super_pod_id"},
};

const Unordered *FindUnordered(const JsonValue &value) {
    if (value.kind != JsonValue::Kind::kArray) return nullptr;
    const auto *const found = std::find_if(std::begin(kUnordered), std::end(kUnordered),
                                           [&](const auto &one) { return one.list == value.name; });
    return found == std::end(kUnordered) ? nullptr : found;
}

std::string Canonical(const JsonValue &value) {
    if (value.kind == JsonValue::Kind::kLiteral) return value.text;
    if (value.kind == JsonValue::Kind::kText) return QuoteJson(value.text);
    const bool is_object = value.kind == JsonValue::Kind::kObject;
    std::vector<std::string> parts;
    parts.reserve(value.children.size());
    for (const JsonValue &child : value.children)
        parts.push_back((is_object ? QuoteJson(child.name) + ": " : "") + Canonical(child));
    if (FindUnordered(value) != nullptr) std::sort(parts.begin(), parts.end());
    std::string text = is_object ? "{" : "[";
    for (size_t i = 0; i < parts.size(); ++i) text += (i == 0 ? "" : ", ") + parts[i];
    return text + (is_object ? "}" : "]");
}

std::string Short(std::string text) {
    if (text.size() <= kMaxValueShown) return text;
    size_t end = kMaxValueShown;
    // Not in the middle of a character.
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    return text.substr(0, end) + "...";
}

std::string MemberName(const JsonValue &member) { return Short(QuoteJson(member.name)); }

// An element of such a list by its canonical form.
using Elements = std::vector<std::pair<std::string, const JsonValue *>>;

Elements SortedElements(const JsonValue &list) {
    Elements elements;
    for (const JsonValue &child : list.children) elements.emplace_back(Canonical(child), &child);
    std::sort(elements.begin(), elements.end(),
              [](const auto &a, const auto &b) { return a.first < b.first; });
    return elements;
}

// Those of `elements` that `others`, sorted too, does not have.
Elements Without(const Elements &elements, const Elements &others) {
    Elements rest;
    std::set_difference(elements.begin(), elements.end(), others.begin(), others.end(),
                        std::back_inserter(rest),
                        [](const auto &a, const auto &b) { return a.first < b.first; });
    return rest;
}

class Comparison {
public:
    void Compare(const std::string &place, const JsonValue &own, const JsonValue &other) {
        if (Full() || Canonical(own) == Canonical(other)) return;
        if (own.kind == JsonValue::Kind::kObject && other.kind == JsonValue::Kind::kObject) {
            CompareMembers(place, own, other);
        } else if (FindUnordered(own) != nullptr && FindUnordered(other) != nullptr) {
            CompareElements(place, own, other);
        } else {
            Add(place, Format("%s is %s here, %s there", MemberName(own).c_str(),
                              Short(Canonical(own)).c_str(), Short(Canonical(other)).c_str()));
        }
    }

    std::string text() const { return text_ + (shown_ > kMaxShown ? "; and more" : ""); }

private:
    bool Full() const { return shown_ > kMaxShown; }

    void Say(const std::string &what) {
        if (++shown_ <= kMaxShown) text_ += (text_.empty() ? "" : "; ") + what;
    }
    // Of a member at that place.
    void Add(const std::string &place, const std::string &what) {
        Say(place + (place.empty() ? "" : ": ") + what);
    }
    // Of an element of a list, which is a place itself.
    void AddElement(const std::string &place, const std::string &what) {
        Say(Inside(place) + what);
    }
    static std::string Inside(const std::string &place) {
        return place + (place.empty() ? "" : ", ");
    }

    void CompareMembers(const std::string &place, const JsonValue &own, const JsonValue &other) {
        for (const JsonValue &member : own.children) {
            const JsonValue *const same = other.Find(member.name);
            if (same != nullptr) {
                Compare(place, member, *same);
            } else {
                Add(place, MemberName(member) + " is only here");
            }
        }
        for (const JsonValue &member : other.children) {
            if (own.Find(member.name) == nullptr) Add(place, MemberName(member) + " is only there");
        }
    }

    void CompareElements(const std::string &place, const JsonValue &own, const JsonValue &other) {
        const Unordered &list = *FindUnordered(own);
        const Elements all = SortedElements(own);
        const Elements all_others = SortedElements(other);
        Elements others = Without(all_others, all);
        for (const auto &element : Without(all, all_others)) {
            if (Full()) return;
            const std::string name = NameOf(list, element);
            const auto same = std::find_if(others.begin(), others.end(), [&](const auto &one) {
                return NameOf(list, one) == name;
            });
            if (same == others.end()) {
                AddElement(place, name + " is only here");
                continue;
            }
            Compare(Inside(place) + name, *element.second, *same->second);
            others.erase(same);
        }
        for (const auto &element : others)
            AddElement(place, NameOf(list, element) + " is only there");
    }

    static std::string NameOf(const Unordered &list, const Elements::value_type &element) {
        const JsonValue *const id = element.second->Find(list.id);
        return std::string(list.noun) + " " + Short(id == nullptr ? element.first : Canonical(*id));
    }

    std::string text_;
    size_t shown_ = 0;
};

// The first place where two texts differ, with what is around it.
std::string TextDifference(const std::string &own, const std::string &other) {
    const auto places = std::mismatch(own.begin(), own.end(), other.begin(), other.end());
    const auto place = static_cast<size_t>(places.first - own.begin());
    const size_t from = place < 20 ? 0 : place - 20;
    return Format("from byte %zu on here \"%s\", there \"%s\"", place, own.substr(from, 60).c_str(),
                  other.substr(std::min(from, other.size()), 60).c_str());
}

}  // namespace

RankTable::RankTable(std::string text) : text_(std::move(text)) {
    is_table_ = ReadJson(text_, &root_) && root_.kind == JsonValue::Kind::kObject;
    canonical_ = is_table_ ? Canonical(root_) : text_;
}

std::string RankTable::DifferenceTo(const RankTable &other) const {
    if (!is_table_ || !other.is_table_) return TextDifference(text_, other.text_);
    Comparison comparison;
    comparison.Compare("", root_, other.root_);
    return comparison.text();
}

}  // namespace lldd
