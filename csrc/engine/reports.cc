// SPDX-License-Identifier: Apache-2.0
#include "engine/reports.h"

#include <string>

#include "base/io_thread.h"
#include "base/log.h"
#include "engine/life_log.h"
#include "engine/wire.h"
#include "engine/wire_report.h"

namespace lldd {
namespace {

// Before the numbers are read: what ends meanwhile is reported once more.
bool HasNews(const Link &link) {
    const LinkTraffic &traffic = link.traffic();
    return traffic.own.ended() != traffic.reported.load(std::memory_order_relaxed);
}

}  // namespace

void SendReport(Link *link) {
    if ((link->identity().peer_features & wire::kFeatureReports) == 0) return;
    if (!link->established() || link->peer_gone() || !HasNews(*link)) return;
    LinkTraffic &traffic = link->traffic();
    const uint64_t ended = traffic.own.ended();
    wire::Report report;
    report.numbers = traffic.own.Read();
    if (link->channel().TellIfNothingWaits(wire::kReport, report.Encode()))
        traffic.reported.store(ended, std::memory_order_relaxed);
}

bool TakeReport(Link *link, std::string_view body) {
    wire::Report report;
    if (!report.Decode(body)) return false;
    const uint64_t before = link->traffic().Peers().failed();
    if (!link->traffic().Told(report.numbers)) return true;
    const uint64_t failed = report.numbers.failed();
    const LastError &error = report.numbers.last_error;
    LLDD_LOG(
        LLDD_LOG_WARNING,
        "%s to %s: %llu transfers of the peer have failed, %llu of them since it last told; the "
        "last one: %s: %s",
        LinkText(*link).c_str(), link->peer_name().c_str(), Printable(failed),
        Printable(failed - before), StatusName(error.status), error.text.c_str());
    return true;
}

void Reports::Start() {
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        Schedule(kRestMs);
    });
}

void Reports::Stop() {
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        loop_->Cancel(timer_);
        timer_ = 0;
    });
}

void Reports::Schedule(uint32_t ms) {
    timer_ = loop_->PostAt(Deadline::InMs(ms), [this] {
        LLDD_ON_IO_THREAD(*loop_);
        Tell();
    });
}

void Reports::Tell() {
    bool moving = false;
    for (const auto &link : directory_->Everything()) {
        moving = moving || HasNews(*link);
        SendReport(link.get());
    }
    Schedule(moving ? kReportMs : kRestMs);
}

}  // namespace lldd
