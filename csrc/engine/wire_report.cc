// SPDX-License-Identifier: Apache-2.0
#include "engine/wire_report.h"

#include <algorithm>
#include <chrono>

#include "base/codec.h"

namespace lldd::wire {
namespace {

using Point = TrafficNumbers::Point;

constexpr uint64_t kNever = UINT64_MAX;

uint64_t AgeUs(Point at, Point now) {
    if (at == Point()) return kNever;
    const auto age = std::chrono::duration_cast<std::chrono::microseconds>(now - at);
    return static_cast<uint64_t>(std::max<int64_t>(age.count(), 0));
}

// What is older than this process's clock became so at its first moment.
Point Before(uint64_t age_us, Point now) {
    if (age_us == kNever) return {};
    const auto since_epoch =
        std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch()).count();
    const auto most = static_cast<uint64_t>(std::max<int64_t>(since_epoch - 1, 0));
    return now - std::chrono::microseconds(static_cast<int64_t>(std::min(age_us, most)));
}

// Every number, in the order of the message.
template <typename Numbers, typename Body>
void ForEachNumber(Numbers *numbers, const Body &body) {
    body(&numbers->pulls);
    body(&numbers->pushes);
    body(&numbers->latency_us);
    for (auto &each : numbers->pulled) body(&each);
    for (auto &each : numbers->pushed) body(&each);
    for (auto &each : numbers->failures) body(&each);
    for (auto &each : numbers->latency) body(&each);
}

// A text of a peer goes into logs and answers: one line of it, whatever it is.
std::string OneLine(std::string_view text) {
    std::string line(text);
    for (char &each : line) {
        const auto code = static_cast<unsigned char>(each);
        if (code < 0x20 || code == 0x7F) each = ' ';
    }
    return line;
}

}  // namespace

std::string Report::Encode() const {
    const Point now = Deadline::Clock::now();
    Writer writer;
    ForEachNumber(&numbers,
                  [&](const uint64_t *number) { writer.Number(std::min(*number, kMost)); });
    writer.Number(AgeUs(numbers.last_success, now));
    const LastError &error = numbers.last_error;
    writer.Number(error.status);
    writer.Number(AgeUs(error.at, now));
    writer.Bytes(error.text);
    return writer.Take();
}

bool Report::Decode(std::string_view body) {
    const Point now = Deadline::Clock::now();
    Reader reader(body);
    bool in_bounds = true;
    ForEachNumber(&numbers, [&](uint64_t *number) {
        *number = reader.Number<uint64_t>();
        in_bounds = in_bounds && *number <= kMost;
    });
    numbers.last_success = Before(reader.Number<uint64_t>(), now);
    LastError &error = numbers.last_error;
    error.status = reader.Number<lldd_status>();
    error.at = Before(reader.Number<uint64_t>(), now);
    error.text = OneLine(reader.Bytes());
    return in_bounds && error.text.size() <= LastError::kMostText && reader.Done();
}

}  // namespace lldd::wire
