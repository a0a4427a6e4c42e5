// What the owner of memory answers on a data stream. An input begins with what this end asks: how,
// how many runs, where each begins and how long it is; then comes how long the first stream's
// bytes are, and the bytes of two streams.
//
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "base/address.h"
#include "mock_runtime/endpoint.h"
#include "mock_runtime/tcp_protocol.h"
#include "owner.h"
#include "target.h"

namespace lldd::fuzz {
namespace {

constexpr uint64_t kPeers = 0x1000'0000;
constexpr size_t kMostRuns = 7;

std::string PeerWithMemory() {
    mock::EndpointData peer;
    peer.transports = 4;
    mock::Region region;
    region.addr = kPeers;
    region.size = kPart;
    region.name = {0, 1};
    peer.regions.push_back(region);
    return mock::EncodeEndpoint(peer);
}

struct Asked {
    bool read;
    std::vector<lldd::Run> runs;
    uint64_t bytes = 0;
};

Asked AskedFor(Input *in, Owner *owner) {
    const uint8_t how = in->Byte();
    Asked asked{(how & 1) == 0, {}};
    owner->fences_answered = (how & 2) != 0;
    const size_t count = 1 + in->Below(kMostRuns);
    for (size_t i = 0; i < count; ++i) {
        const uint64_t start = uint64_t{in->Byte()} * 16;
        const uint64_t length = 1 + uint64_t{in->Byte()};
        asked.runs.push_back({kOpen + start, kPeers + start, length});
        asked.bytes += length;
    }
    return asked;
}

// Nothing but the runs of a read has changed.
void DemandOnly(const Asked &asked) {
    std::string open(reinterpret_cast<const char *>(Pointer(kOpen)), kPart);
    if (asked.read) {
        for (const lldd::Run &run : asked.runs)
            std::fill_n(open.begin() + static_cast<std::ptrdiff_t>(run.local - kOpen), run.length,
                        'o');
    }
    DEMAND(open.find_first_not_of('o') == std::string::npos);
}

// What a read that succeeded was answered: its bytes between two answers that say so.
bool IsAnswered(const Asked &asked, uint32_t id, std::string_view stream) {
    mock::TcpAnswer answers[2];
    if (stream.size() < sizeof answers + asked.bytes) return false;
    std::memcpy(&answers[0], stream.data(), sizeof answers[0]);
    std::memcpy(&answers[1], stream.data() + sizeof answers[0] + asked.bytes, sizeof answers[1]);
    for (const mock::TcpAnswer &answer : answers) {
        if (answer.magic != mock::kTcpAnswerMagic || answer.id != id) return false;
        if (answer.status != mock::kTcpDone) return false;
    }
    if (answers[0].bytes != asked.bytes || answers[1].bytes != 0) return false;
    std::string open(kPart, 'o');
    std::string_view payload = stream.substr(sizeof answers[0]);
    for (const lldd::Run &run : asked.runs) {
        open.replace(run.local - kOpen, run.length, payload.substr(0, run.length));
        payload.remove_prefix(run.length);
    }
    return std::memcmp(Pointer(kOpen), open.data(), kPart) == 0;
}

void Run(std::string_view input) {
    Input in(input);
    Owner &owner = Owner::Of("tcp");
    owner.Restore();
    const Asked asked = AskedFor(&in, &owner);
    const size_t first = size_t{in.Byte()} * 8;
    owner.incoming.emplace_back(in.Piece(first));
    owner.incoming.emplace_back(in.Rest());
    const std::vector<std::string> streams = owner.incoming;
    const auto connection = owner.Connect(LinkEnd::kInitiator, {}, PeerWithMemory());
    DEMAND(connection != nullptr);
    const Deadline deadline = Deadline::InMs(5000);
    const Status status = asked.read
                              ? connection->Read(asked.runs.data(), asked.runs.size(), deadline)
                              : connection->Write(asked.runs.data(), asked.runs.size(), deadline);
    DEMAND(!deadline.passed());
    if (status.ok() && asked.read)
        DEMAND(IsAnswered(asked, 1, streams[0]) || IsAnswered(asked, 2, streams[1]));
    DemandOnly(asked);
    DEMAND(connection->Close(Deadline::InMs(5000)).ok());
    owner.DemandUntouched();
}

void Append(const mock::TcpAnswer &answer, std::string *bytes) {
    bytes->append(reinterpret_cast<const char *>(&answer), sizeof answer);
}

// As an owner would answer that read of `length` bytes.
std::string AnswerTo(uint32_t id, uint64_t length, uint32_t status) {
    std::string bytes;
    Append({mock::kTcpAnswerMagic, id, mock::kTcpDone, 0, 0, length}, &bytes);
    bytes.append(length, 'r');
    Append({mock::kTcpAnswerMagic, id, status, 0, kPeers, 0}, &bytes);
    return bytes;
}

std::string AnswerToWrite(uint32_t id, uint32_t status) {
    std::string bytes;
    Append({mock::kTcpAnswerMagic, id, status, 0, kPeers, 0}, &bytes);
    return bytes;
}

std::vector<std::string> Seeds() {
    const std::string read_two("\0\1\0\x0f\4\x0f\xff", 7);
    const std::string write_one("\3\0\0\x0f\xff", 5);
    return {read_two + AnswerTo(1, 32, mock::kTcpDone), read_two + AnswerTo(1, 32, mock::kTcpFault),
            read_two + AnswerToWrite(1, mock::kTcpWithdrawn),
            write_one + AnswerToWrite(1, mock::kTcpDone),
            write_one + AnswerToWrite(1, mock::kTcpUnknown),
            // The first stream ends in the middle, the second answers in full.
            std::string("\0\0\0\x0f\1", 5) + "12345678" + AnswerTo(2, 16, mock::kTcpDone)};
}

const Registration kRegistered({"stream_client", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
