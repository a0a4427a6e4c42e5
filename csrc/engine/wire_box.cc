// SPDX-License-Identifier: Apache-2.0
#include "engine/wire_box.h"

#include "base/codec.h"
#include "llm_datadist.h"
#include "runtime/runtime.h"

// A record crosses machines as it lies in memory.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

namespace lldd::wire {
namespace {

constexpr size_t kOne = sizeof(uint64_t) + box::kCallBytes;

bool InBounds(const box::Call &call) {
    const bool over_a_link =
        call.kind == box::kPull || call.kind == box::kPush || call.kind == box::kLayer;
    const bool in_order = 0 < call.entry_ns && call.entry_ns <= call.end_ns && 0 <= call.turn_ns &&
                          call.turn_ns <= call.end_ns && 0 <= call.first_byte_ns &&
                          call.first_byte_ns <= call.end_ns;
    return over_a_link && in_order && call.key_kind <= LLDD_KEY_BLOCKS &&
           call.paths < 1U << kNumPaths;
}

}  // namespace

std::string BoxCalls::Encode() const {
    Writer writer;
    writer.Reserve(2 * sizeof(uint64_t) + calls.size() * kOne);
    writer.Number(sent_ns);
    for (const One &one : calls) {
        writer.Number(one.number);
        writer.Raw(&one.call, box::kCallBytes);
    }
    return writer.Take();
}

bool BoxCalls::Decode(std::string_view body) {
    Reader reader(body);
    sent_ns = reader.Number<int64_t>();
    if (!reader.ok() || reader.left() % kOne != 0 || reader.left() / kOne > kMost) return false;
    calls.resize(reader.left() / kOne);
    for (One &one : calls) {
        one.number = reader.Number<uint64_t>();
        reader.Raw(&one.call, box::kCallBytes);
        if (one.number == 0 || !InBounds(one.call)) return false;
    }
    return reader.Done();
}

std::string BoxClock::Encode() const {
    Writer writer;
    writer.Number(sent_ns);
    writer.Number(clock_ns);
    return writer.Take();
}

bool BoxClock::Decode(std::string_view body) {
    Reader reader(body);
    sent_ns = reader.Number<int64_t>();
    clock_ns = reader.Number<int64_t>();
    return reader.Done() && clock_ns > 0;
}

}  // namespace lldd::wire
