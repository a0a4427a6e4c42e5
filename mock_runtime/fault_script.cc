// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/fault_script.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>

namespace lldd::mock {
namespace {

using std::chrono::nanoseconds;

// In the order of FaultPoint.
constexpr FaultPointInfo kPoints[kFaultPoints] = {
    //               waits  bytes  peer   drop   corrupt call
    {"open_device", true, false, false, false, false, true},
    {"pool", true, false, false, false, false, true},
    {"commit", true, false, false, false, false, true},
    {"register", true, false, false, false, false, true},
    {"unregister", true, false, false, false, false, true},
    {"copy", true, true, false, false, false, true},
    // On the I/O thread, which all links of the process need.
    {"endpoint", false, false, false, false, false, true},
    {"connect", true, false, true, true, false, true},
    {"accept", false, false, true, true, false, true},
    {"confirm", false, false, true, true, false, true},
    {"read", true, true, true, true, true, true},
    {"write", true, true, true, true, true, true},
    {"close", false, false, true, false, false, true},
    {"link", false, false, true, false, false, false},
};

constexpr uint32_t kEveryPoint = (uint32_t{1} << kFaultPoints) - 1;
constexpr uint32_t kLinkBit = uint32_t{1} << static_cast<uint32_t>(FaultPoint::kLink);
// Calls without a deadline are held up as well.
constexpr nanoseconds kLongestDelay = std::chrono::seconds(60);

struct Unit {
    const char *name;
    uint64_t factor;
};
constexpr Unit kTimes[] = {{"us", 1'000}, {"ms", 1'000'000}, {"s", 1'000'000'000}};
constexpr Unit kRates[] = {
    {"B/s", 1},         {"KB/s", 1'000},    {"MB/s", 1'000'000}, {"GB/s", 1'000'000'000},
    {"KiB/s", 1 << 10}, {"MiB/s", 1 << 20}, {"GiB/s", 1 << 30}};

struct Word {
    std::string name;
    std::string value;
    bool has_value = false;
};

bool ParseNumber(const std::string &text, uint64_t *number) {
    if (text.empty() || text[0] < '0' || text[0] > '9') return false;
    char *end = nullptr;
    errno = 0;
    const bool hex = text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    *number = std::strtoull(text.c_str(), &end, hex ? 16 : 10);
    return *end == '\0' && errno == 0;
}

template <size_t kCount>
bool ParseWithUnit(const std::string &text, const Unit (&units)[kCount], uint64_t *number) {
    const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    const std::string unit = text.substr(digits);
    for (const Unit &known : units) {
        if (unit != known.name) continue;
        if (!ParseNumber(text.substr(0, digits), number)) return false;
        if (*number > UINT64_MAX / known.factor) return false;
        *number *= known.factor;
        return true;
    }
    return false;
}

bool ParseTime(const std::string &text, nanoseconds *time) {
    uint64_t number = 0;
    if (!ParseWithUnit(text, kTimes, &number)) return false;
    if (number > static_cast<uint64_t>(kLongestDelay.count())) return false;
    *time = nanoseconds(number);
    return true;
}

bool ParseProbability(const std::string &text, double *probability) {
    if (text.empty() || text.find_first_not_of("0123456789.") != std::string::npos) return false;
    char *end = nullptr;
    *probability = std::strtod(text.c_str(), &end);
    return *end == '\0' && *probability <= 1;
}

bool ParseName(const std::string &text, std::string *name) {
    *name = text;
    return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char letter) {
        return std::isalnum(letter) != 0 || letter == '_' || letter == '-' || letter == '.';
    });
}

bool ParseStatus(const std::string &text, lldd_status *status) {
    uint64_t number = 0;
    if (!StatusNamed(text, status)) {
        if (!ParseNumber(text, &number) || number > UINT32_MAX) return false;
        *status = static_cast<lldd_status>(number);
    }
    return *status != LLDD_SUCCESS;
}

constexpr char kCounts[] = "a whole number from 0";
constexpr char kPositive[] = "a whole number from 1";
constexpr char kTimesAllowed[] = "a whole number with us, ms or s, at most 60s";

// What may stand behind a point.
struct KnownWord {
    const char *name;
    const char *value;  // what is allowed behind '='; null: there is no '='
    bool (*read)(const std::string &value, FaultRule *rule);
    bool FaultPointInfo::*needed;  // of the point; null: nothing
    const char *because;           // why a point may lack it
};
constexpr KnownWord kWords[] = {
    {"status", "a name such as LLM_TIMEOUT, or a number from 1 to 0xFFFFFFFF",
     [](const std::string &value, FaultRule *rule) { return ParseStatus(value, &rule->status); },
     &FaultPointInfo::is_call, "it is no call"},
    {"drop", nullptr, [](const std::string &, FaultRule *rule) { return rule->drop = true; },
     &FaultPointInfo::can_drop, "it has no link that could be broken off"},
    {"delay", kTimesAllowed,
     [](const std::string &value, FaultRule *rule) { return ParseTime(value, &rule->delay); },
     &FaultPointInfo::waits, "the I/O thread, which must not wait, comes there"},
    {"jitter", kTimesAllowed,
     [](const std::string &value, FaultRule *rule) { return ParseTime(value, &rule->jitter); },
     &FaultPointInfo::waits, "the I/O thread, which must not wait, comes there"},
    {"bandwidth", "a whole number from 1 with B/s, KB/s, MB/s, GB/s, KiB/s, MiB/s or GiB/s",
     [](const std::string &value, FaultRule *rule) {
         return ParseWithUnit(value, kRates, &rule->bytes_per_second) && rule->bytes_per_second > 0;
     },
     &FaultPointInfo::moves_bytes, "it moves no bytes"},
    {"nic", "the name of a port: letters, digits, '_', '-' and '.'",
     [](const std::string &value, FaultRule *rule) { return ParseName(value, &rule->nic); },
     &FaultPointInfo::moves_bytes, "it moves no bytes"},
    {"mute", nullptr, [](const std::string &, FaultRule *rule) { return rule->mute = true; },
     nullptr, nullptr},
    {"corrupt", kPositive,
     [](const std::string &value, FaultRule *rule) {
         return ParseNumber(value, &rule->corrupt) && rule->corrupt > 0;
     },
     &FaultPointInfo::can_corrupt, "it moves no bytes over a link"},
    {"peer", "the cluster id of a peer",
     [](const std::string &value, FaultRule *rule) {
         return ParseNumber(value, &rule->peer.emplace());
     },
     &FaultPointInfo::knows_peer, "it belongs to no link"},
    {"after", kCounts,
     [](const std::string &value, FaultRule *rule) { return ParseNumber(value, &rule->after); },
     nullptr, nullptr},
    {"every", kPositive,
     [](const std::string &value, FaultRule *rule) {
         return ParseNumber(value, &rule->every) && rule->every > 0;
     },
     nullptr, nullptr},
    {"times", kPositive,
     [](const std::string &value, FaultRule *rule) {
         return ParseNumber(value, &rule->times) && rule->times > 0;
     },
     nullptr, nullptr},
    {"probability", "a number from 0 to 1",
     [](const std::string &value, FaultRule *rule) {
         return ParseProbability(value, &rule->probability);
     },
     nullptr, nullptr},
    {"seed", kCounts,
     [](const std::string &value, FaultRule *rule) { return ParseNumber(value, &rule->seed); },
     nullptr, nullptr},
};

template <typename List>
std::string NamesOf(const List &list) {
    std::string names;
    for (const auto &each : list) names += std::string(names.empty() ? "" : ", ") + each.name;
    return names;
}

std::vector<std::string> Split(const std::string &text, const char *separators) {
    std::vector<std::string> parts;
    for (size_t start = 0; start < text.size();) {
        const size_t end = std::min(text.find_first_of(separators, start), text.size());
        if (end > start) parts.push_back(text.substr(start, end - start));
        start = end + 1;
    }
    return parts;
}

// One rule; `number` counts from 1.
class RuleParser {
public:
    RuleParser(size_t number, const std::vector<std::string> &words) : number_(number) {
        for (const std::string &word : words) {
            rule_.text += (rule_.text.empty() ? "" : " ") + word;
        }
    }

    Status Parse(const std::vector<std::string> &words, FaultRule *rule) {
        LLDD_RETURN_IF_ERROR(TakePoints(words[0]));
        for (size_t i = 1; i < words.size(); ++i) LLDD_RETURN_IF_ERROR(Take(words[i]));
        if (rule_.drop && rule_.status != LLDD_SUCCESS) {
            return Refuse("drop", "stands beside a status; allowed is one of the two");
        }
        if (rule_.corrupt != 0 && rule_.ends_the_call()) {
            return Refuse("corrupt",
                          "stands beside a status or a drop, with which no bytes are moved");
        }
        if (rule_.has_port() && rule_.bytes_per_second == 0) {
            return Refuse("nic", "stands without the bandwidth= of the port");
        }
        if (rule_.mute && !every_point_ && rule_.points != kLinkBit) {
            return Refuse("mute", "is possible at link alone");
        }
        if (!HasEffect(kEveryPoint)) {
            return Refuse(words[0],
                          "has nothing that happens there; add one of status, drop, "
                          "delay, jitter, bandwidth, corrupt, or mute for link");
        }
        if (every_point_) KeepWhatCanHappen();
        *rule = std::move(rule_);
        return Status::Ok();
    }

private:
    Status Refuse(const std::string &word, const std::string &why) const {
        return Failure(LLDD_PARAM_INVALID, "fault rule %zu \"%s\": \"%s\" %s", number_,
                       rule_.text.c_str(), word.c_str(), why.c_str());
    }

    Status TakePoints(const std::string &word) {
        every_point_ = word == "*";
        if (every_point_) {
            rule_.points = kEveryPoint;
            return Status::Ok();
        }
        const std::vector<std::string> names = Split(word, ",");
        if (names.empty())
            return Refuse(word, "names no fault point; allowed are *, " + NamesOf(kPoints));
        for (const std::string &name : names) {
            const auto *found = std::find_if(std::begin(kPoints), std::end(kPoints),
                                             [&](const auto &point) { return name == point.name; });
            if (found == std::end(kPoints)) {
                return Refuse(name, "is no fault point; allowed are *, " + NamesOf(kPoints));
            }
            rule_.points |= uint32_t{1} << (found - std::begin(kPoints));
        }
        return Status::Ok();
    }

    Status Take(const std::string &word) {
        const size_t equals = word.find('=');
        const std::string name = word.substr(0, equals);
        const auto *known = std::find_if(std::begin(kWords), std::end(kWords),
                                         [&](const auto &each) { return name == each.name; });
        if (known == std::end(kWords)) {
            return Refuse(word, "is unknown; allowed are " + NamesOf(kWords));
        }
        if (std::find(taken_.begin(), taken_.end(), known) != taken_.end()) {
            return Refuse(word, "comes a second time");
        }
        taken_.push_back(known);
        if (known->value == nullptr && equals != std::string::npos) {
            return Refuse(word, "takes no value");
        }
        const std::string value = equals == std::string::npos ? "" : word.substr(equals + 1);
        if (!known->read(value, &rule_)) {
            return Refuse(word, std::string("needs ") + known->value);
        }
        if (known->needed == nullptr || every_point_) return Status::Ok();
        for (size_t i = 0; i < kFaultPoints; ++i) {
            if (!rule_.is_at(static_cast<FaultPoint>(i)) || kPoints[i].*known->needed) continue;
            return Refuse(word,
                          Format("is not possible at %s: %s", kPoints[i].name, known->because));
        }
        return Status::Ok();
    }

    // Whether something of the rule happens at one of these points.
    bool HasEffect(uint32_t points) const {
        const bool waits = rule_.delay.count() > 0 || rule_.jitter.count() > 0;
        for (size_t i = 0; i < kFaultPoints; ++i) {
            if ((points & (uint32_t{1} << i)) == 0) continue;
            if ((rule_.status != LLDD_SUCCESS && kPoints[i].is_call) ||
                (rule_.mute && !kPoints[i].is_call) || (rule_.drop && kPoints[i].can_drop) ||
                (rule_.corrupt != 0 && kPoints[i].can_corrupt) || (waits && kPoints[i].waits) ||
                (rule_.bytes_per_second > 0 && kPoints[i].moves_bytes)) {
                return true;
            }
        }
        return false;
    }

    // "*" means the points at which the rule means something.
    void KeepWhatCanHappen() {
        for (uint32_t i = 0; i < kFaultPoints; ++i) {
            const uint32_t bit = uint32_t{1} << i;
            if (!HasEffect(bit) || (rule_.peer.has_value() && !kPoints[i].knows_peer)) {
                rule_.points &= ~bit;
            }
        }
    }

    const size_t number_;
    FaultRule rule_;
    bool every_point_ = false;
    std::vector<const KnownWord *> taken_;
};

}  // namespace

const FaultPointInfo &InfoOf(FaultPoint point) { return kPoints[static_cast<size_t>(point)]; }

Status ParseFaultScript(const std::string &script, std::vector<FaultRule> *rules) {
    std::vector<FaultRule> read;
    for (const std::string &line : Split(script, "\n")) {
        for (const std::string &text : Split(line.substr(0, line.find('#')), ";")) {
            const std::vector<std::string> words = Split(text, " \t\r");
            if (words.empty()) continue;
            RuleParser parser(read.size() + 1, words);
            LLDD_RETURN_IF_ERROR(parser.Parse(words, &read.emplace_back()));
        }
    }
    *rules = std::move(read);
    return Status::Ok();
}

}  // namespace lldd::mock
