// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/fabric.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

namespace lldd::mock {
namespace {

using std::chrono::nanoseconds;

constexpr double kMostScale = 1e6;
constexpr double kLongestNs = 60e9;
constexpr double kGiga = 1e9;

bool ReadNumber(const std::string &text, double *number) {
    if (text.empty() || text.find_first_not_of("0123456789.") != std::string::npos) return false;
    char *end = nullptr;
    *number = std::strtod(text.c_str(), &end);
    return *end == '\0';
}

bool ReadTime(const std::string &text, nanoseconds *time) {
    const size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
    const std::string unit = text.substr(digits);
    const double factor = unit == "us" ? 1e3 : unit == "ms" ? 1e6 : unit == "s" ? 1e9 : 0;
    double number = 0;
    if (factor == 0 || !ReadNumber(text.substr(0, digits), &number)) return false;
    if (number * factor > kLongestNs) return false;
    *time = nanoseconds(static_cast<int64_t>(number * factor));
    return true;
}

std::string Names() {
    std::string names;
    for (size_t i = 0; i < kFabricProfileCount; ++i) {
        names += std::string(i == 0 ? "" : ", ") + kFabricProfiles[i].name;
    }
    return names;
}

std::vector<std::string> Words(const std::string &text) {
    std::vector<std::string> words;
    for (size_t start = 0; start <= text.size();) {
        const size_t colon = std::min(text.find(':', start), text.size());
        words.push_back(text.substr(start, colon - start));
        start = colon + 1;
    }
    return words;
}

nanoseconds Micros(double micros) { return nanoseconds(static_cast<int64_t>(micros * 1e3)); }

nanoseconds Times(nanoseconds time, double factor) {
    return nanoseconds(
        static_cast<int64_t>(std::min(static_cast<double>(time.count()) * factor, kLongestNs)));
}

}  // namespace

Status Fabric::Parse(const std::string &text, std::shared_ptr<const Fabric> *fabric) {
    Fabric read;
    const std::vector<std::string> words = mock::Words(text);
    for (size_t i = 0; i < kFabricProfileCount; ++i) {
        if (words[0] == kFabricProfiles[i].name) read.profile_ = &kFabricProfiles[i];
    }
    if (read.profile_ == nullptr) {
        return Failure(LLDD_PARAM_INVALID,
                       "\"%s\" begins with no profile; there are (see docs/fabrics.md): %s",
                       text.c_str(), Names().c_str());
    }
    read.latency_ = Micros(read.profile_->latency_us);
    read.jitter_ = Micros(read.profile_->jitter_us);
    for (size_t i = 1; i < words.size(); ++i) {
        LLDD_RETURN_IF_ERROR(read.TakeWord(text, words[i]));
    }
    for (const auto &curve : read.profile_->gb_per_s) {
        for (const double figure : curve) {
            read.port_bytes_per_second_ =
                std::max(read.port_bytes_per_second_, figure * kGiga / read.scale_);
        }
    }
    read.latency_ = Times(read.latency_, read.scale_);
    read.jitter_ = Times(read.jitter_, read.scale_);
    *fabric = std::make_shared<const Fabric>(read);
    return Status::Ok();
}

Status Fabric::TakeWord(const std::string &text, const std::string &word) {
    const size_t equals = std::min(word.find('='), word.size());
    const std::string name = word.substr(0, equals);
    const std::string value = equals < word.size() ? word.substr(equals + 1) : "";
    if (name == "scale" && ReadNumber(value, &scale_) && scale_ >= 1 && scale_ <= kMostScale) {
        return Status::Ok();
    }
    if (name == "latency" && ReadTime(value, &latency_)) return Status::Ok();
    if (name == "jitter" && ReadTime(value, &jitter_)) return Status::Ok();
    return Failure(LLDD_PARAM_INVALID,
                   "\"%s\": \"%s\" is none of scale=N with N from 1 to %.0f, latency=TIME and "
                   "jitter=TIME with TIME in us, ms or s, at most 60s",
                   text.c_str(), word.c_str(), kMostScale);
}

size_t Fabric::DirectionOf(bool reads, Placement local, Placement remote) {
    const size_t from_host = local == Placement::kHost ? 4 : 0;
    const size_t to_host = remote == Placement::kHost ? 2 : 0;
    return from_host + to_host + (reads ? 1 : 0);
}

// Between the published sizes a straight line in log-log; below the smallest a block takes as long as
// one of the smallest, above the largest the bandwidth is constant.
double Fabric::BytesPerSecond(size_t direction, uint64_t block_bytes) const {
    const auto &curve = profile_->gb_per_s[direction];
    const double kib = static_cast<double>(block_bytes) / 1024;
    const auto size = [](size_t index) { return static_cast<double>(kFabricKib[index]); };
    double figure = curve[kFabricSizes - 1];
    if (kib <= size(0)) {
        figure = curve[0] * kib / size(0);
    } else if (kib < size(kFabricSizes - 1) && curve[0] > 0) {
        size_t above = 1;
        while (kib > size(above)) ++above;
        const double slope =
            std::log(curve[above] / curve[above - 1]) / std::log(size(above) / size(above - 1));
        figure = curve[above - 1] * std::pow(kib / size(above - 1), slope);
    }
    return figure * kGiga / scale_;
}

std::string Fabric::Words() const {
    return scale_ == 1 ? name() : Format("%s, %g times slower", name(), scale_);
}

Status Fabric::NotCarried(size_t direction) const {
    std::string carried;
    for (size_t i = 0; i < kFabricDirectionCount; ++i) {
        if (profile_->gb_per_s[i][0] == 0) continue;
        carried += std::string(carried.empty() ? "" : ", ") + kFabricDirections[i];
    }
    const bool reads = direction % 2 == 1;
    return Failure(
        LLDD_FEATURE_NOT_ENABLED,
        "%s does not carry %s: a %s %s memory of this engine %s %s memory of the peer; it "
        "carries %s (LLM_DATADIST_MOCK_FABRIC=%s)",
        profile_->what, kFabricDirections[direction], reads ? "read into" : "write from",
        direction >= 4 ? "host" : "device", reads ? "from" : "to",
        direction % 4 >= 2 ? "host" : "device", carried.c_str(), name());
}

}  // namespace lldd::mock
