// The bodies of the messages on a control connection: the first byte of an input says which.
//
// SPDX-License-Identifier: Apache-2.0
#include <iterator>

#include "base/codec.h"
#include "engine/peer_table.h"
#include "engine/wire.h"
#include "engine/wire_box.h"
#include "engine/wire_event.h"
#include "engine/wire_report.h"
#include "target.h"

namespace lldd::fuzz {
namespace {

// What was read is written, read and written again the same.
template <typename Message>
bool Reads(std::string_view body, Message *message) {
    if (!message->Decode(body)) return false;
    const std::string written = message->Encode();
    DEMAND(written.size() <= body.size());
    Message again;
    DEMAND(again.Decode(written));
    DEMAND(again.Encode() == written);
    return true;
}

template <typename Message>
void Read(std::string_view body) {
    Message message;
    static_cast<void>(Reads(body, &message));
}

void ReadLocate(std::string_view body) {
    wire::Locate locate;
    if (Reads(body, &locate)) DEMAND(body.size() == 4 + 8 * locate.addrs.size());
}

void ReadSums(std::string_view body) {
    wire::Sums sums;
    if (!Reads(body, &sums)) return;
    DEMAND(body.size() == 4 + 16 * sums.ranges.size());
    uint64_t bytes = 0;
    for (const auto &range : sums.ranges) {
        DEMAND(range.length > 0 && range.addr + (range.length - 1) >= range.addr);
        DEMAND(range.length <= wire::Sums::kMostBytes);
        bytes += range.length;
    }
    DEMAND(bytes <= wire::Sums::kMostBytes);
}

void ReadBoxCalls(std::string_view body) {
    wire::BoxCalls calls;
    if (!Reads(body, &calls)) return;
    DEMAND(calls.calls.size() <= wire::BoxCalls::kMost);
    for (const auto &one : calls.calls) {
        DEMAND(one.number != 0 && 0 < one.call.entry_ns && one.call.entry_ns <= one.call.end_ns);
        DEMAND(one.call.kind >= box::kPull && one.call.kind <= box::kLayer);
    }
}

void ReadResolveReply(std::string_view body) {
    wire::ResolveReply reply;
    if (!Reads(body, &reply)) return;
    Reader reader(reply.cache);
    PeerCache cache;
    if (!DecodeCache(&reader, true, &cache)) return;
    DEMAND(cache.addrs.size() == cache.shape.num_tensors && !cache.addrs.empty());
    DEMAND(cache.shape.stride() * cache.shape.count == cache.shape.tensor_bytes);
}

// Ages of moments are told anew, so what was read is not written the same.
void ReadReport(std::string_view body) {
    wire::Report report;
    if (!report.Decode(body)) return;
    DEMAND(report.numbers.pulls <= wire::Report::kMost);
    DEMAND(report.numbers.last_error.text.size() <= LastError::kMostText);
    wire::Report again;
    DEMAND(again.Decode(report.Encode()));
    DEMAND(again.numbers.failures == report.numbers.failures);
    DEMAND(again.numbers.latency == report.numbers.latency);
    DEMAND(again.numbers.last_error.text == report.numbers.last_error.text);
    TrafficNumbers sum = report.numbers;
    sum.Add(again.numbers);
    DEMAND(sum.pulls >= report.numbers.pulls && sum.failed() >= report.numbers.failed());
}

// What one end writes, the other one reads with the sides exchanged.
void ReadEvent(std::string_view body) {
    TransferEvent event;
    if (!event.Decode(body)) return;
    uint64_t blocks = 0;
    for (const BlockRun &run : event.runs) blocks += run.count;
    DEMAND(blocks <= TransferEvent::kMostBlocks);
    DEMAND(event.runs.size() <= TransferEvent::kMostRuns);
    TransferEvent there;
    DEMAND(there.Decode(event.Encode()));
    TransferEvent here;
    DEMAND(here.Decode(there.Encode()));
    DEMAND(here.Encode() == event.Encode());
}

TransferEvent SomeEvent() {
    TransferEvent event;
    event.status = LLDD_TIMEOUT;
    event.bytes = 8192;
    event.key.kind = LLDD_KEY_BLOCKS;
    event.runs = {{1, 2, 3}, {7, 9, 1}};
    event.text = "why";
    return event;
}

wire::Report SomeReport() {
    wire::Report report;
    report.numbers.pulls = 3;
    report.numbers.pulled[1] = 12288;
    report.numbers.failures[0] = 1;
    report.numbers.latency[7] = 3;
    report.numbers.last_error = {LLDD_TIMEOUT, {}, "why"};
    return report;
}

using ReadBody = void (*)(std::string_view body);
constexpr ReadBody kMessages[] = {
    Read<wire::LinkRequest>,
    Read<wire::LinkReply>,
    Read<wire::StatusBody>,
    Read<wire::Resolve>,
    ReadResolveReply,
    Read<wire::Release>,
    ReadLocate,
    Read<wire::LocateReply>,
    ReadSums,
    Read<wire::SumsReply>,
    ReadReport,
    ReadEvent,
    ReadBoxCalls,
    Read<wire::BoxClock>,
};

void Run(std::string_view input) {
    Input in(input);
    const ReadBody read = kMessages[in.Below(std::size(kMessages))];
    read(in.Rest());
}

std::string Reply() {
    Cache cache;
    cache.id = 3;
    cache.shape = {2, true, Placement::kDevice, LLDD_TYPE_FLOAT16, 4096, 4};
    cache.dims = {4, 512};
    cache.addrs = {0x10000, 0x20000};
    Writer writer;
    EncodeCache(cache, &writer);
    wire::ResolveReply reply;
    reply.cache = writer.Take();
    return reply.Encode();
}

std::vector<std::string> Seeds() {
    wire::LinkRequest request;
    request.cluster_id = 7;
    request.group = "group";
    request.endpoint = "endpoint";
    wire::LinkRequest proved = request;
    proved.proof = std::string(32, 'p');
    wire::LinkReply accepted;
    accepted.endpoint = "endpoint";
    const wire::StatusBody refused{LLDD_LINK_FAILED, "why"};
    wire::Resolve resolve;
    resolve.key.kind = LLDD_KEY_REQUEST;
    wire::Locate locate;
    locate.addrs = {0x10000, 0x20000};
    wire::LocateReply places;
    places.places = {{0x30000, LLDD_TYPE_INT8}, {0, 0}};
    wire::Sums sums;
    sums.ranges = {{0x10000, 4096}, {0x20000, 1}};
    wire::SumsReply summed;
    summed.sums = {1, 2};
    wire::BoxCalls calls;
    calls.sent_ns = 1;
    calls.calls.resize(2);
    for (auto &one : calls.calls) {
        one.number = 3;
        one.call.kind = box::kPull;
        one.call.entry_ns = one.call.end_ns = 7;
    }
    const wire::BoxClock clock{1, 2};
    const std::string bodies[] = {request.Encode(),
                                  accepted.Encode(),
                                  refused.Encode(),
                                  resolve.Encode(),
                                  Reply(),
                                  wire::Release().Encode(),
                                  locate.Encode(),
                                  places.Encode(),
                                  sums.Encode(),
                                  summed.Encode(),
                                  SomeReport().Encode(),
                                  SomeEvent().Encode(),
                                  calls.Encode(),
                                  clock.Encode()};
    std::vector<std::string> seeds{std::string(1, '\0') + proved.Encode()};
    for (const std::string &body : bodies)
        seeds.push_back(std::string(1, static_cast<char>(seeds.size() - 1)) + body);
    return seeds;
}

const Registration kRegistered({"messages", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
