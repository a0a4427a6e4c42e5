// SPDX-License-Identifier: Apache-2.0
#include "engine/transfer_log.h"

#include <chrono>
#include <cstdlib>

#include "base/log.h"
#include "engine/life_log.h"
#include "engine/transfer_record.h"

namespace lldd {
namespace {

uint64_t SlowMs() {
    const char *const text = std::getenv("LLM_DATADIST_SLOW_MS");
    return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
}

double MsBetween(TransferTimes::Point begin, TransferTimes::Point end) {
    return std::chrono::duration<double, std::milli>(end - begin).count();
}

// ", transfer 4bf92f3577b34da6a3ce929d0e0e4736", as a box and a client's traces call it.
std::string IdText(const TransferId &id) {
    if (id == TransferId{}) return "";
    std::string text = ", transfer ";
    for (const uint8_t byte : id) text += Format("%02x", byte);
    return text;
}

}  // namespace

TransferLog::TransferLog() : slow_ms_(SlowMs()) {}

bool TransferLog::tells() const { return slow_ms_ != 0 || LogEnabled(LLDD_LOG_DEBUG); }

void TransferLog::Tell(const TransferRecord &record) const {
    const TransferTimes &times = record.times;
    const double ms = MsBetween(times.entry, times.end);
    const bool slow = slow_ms_ != 0 && ms > static_cast<double>(slow_ms_);
    const uint32_t level = slow ? LLDD_LOG_WARNING : LLDD_LOG_DEBUG;
    if (!LogEnabled(level)) return;
    const bool had_turn = times.turn != TransferTimes::Point();
    const double waited = had_turn ? MsBetween(times.entry, times.turn) : ms;
    Log(level,
        "%s%s over %s%s: %llu blocks, %llu of %llu bytes by %s, %.3f ms (%.3f of them waiting for "
        "the link), %s%s%s",
        slow ? "slow: " : "", TransferText(record).c_str(), LinkText(*record.link).c_str(),
        IdText(ThisTransfersId()).c_str(), Printable(record.blocks()),
        Printable(record.bytes_moved()), Printable(record.bytes), PathsText(record.moved).c_str(),
        ms, waited, StatusName(record.status->code()), record.ok() ? "" : ": ",
        record.status->text().c_str());
}

}  // namespace lldd
