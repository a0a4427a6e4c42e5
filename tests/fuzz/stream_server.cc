// What a linked peer asks on a data stream: the first byte of an input says where its bytes are cut
// in two, the rest is the stream.
//
// SPDX-License-Identifier: Apache-2.0
#include <sys/socket.h>

#include <cstring>

#include "mock_runtime/endpoint.h"
#include "mock_runtime/tcp_protocol.h"
#include "owner.h"
#include "target.h"

namespace lldd::fuzz {
namespace {

std::string HonestPeer() {
    mock::EndpointData peer;
    peer.transports = 4;
    return mock::EncodeEndpoint(peer);
}

// The answers of the owner are in order, and have nothing but memory that is open. `said`: the peer
// has sent the byte that secret memory is full of, and may have written it.
void DemandAnswers(std::string_view answers, bool said) {
    while (answers.size() >= sizeof(mock::TcpAnswer)) {
        mock::TcpAnswer answer;
        std::memcpy(&answer, answers.data(), sizeof answer);
        DEMAND(answer.magic == mock::kTcpAnswerMagic && answer.status <= mock::kTcpFault);
        DEMAND(answer.bytes <= mock::kMostTcpBytes);
        answers.remove_prefix(sizeof answer);
        const std::string_view bytes = answers.substr(0, answer.bytes);
        DEMAND(said || bytes.find(kSecretByte) == std::string_view::npos);
        answers.remove_prefix(bytes.size());
    }
}

void Run(std::string_view input) {
    Input in(input);
    const size_t cut = size_t{in.Byte()} * 2;
    LinkNonce nonce{};
    nonce[0] = 1;
    Owner &owner = Owner::Of("tcp");
    owner.Restore();
    static_cast<void>(owner.Endpoint(nonce));
    const auto connection = owner.Connect(LinkEnd::kAcceptor, nonce, HonestPeer());
    DEMAND(connection != nullptr && connection->Confirm().ok());
    Fd stream;
    Fd served;
    SocketPair(SOCK_STREAM, &stream, &served);
    owner.loop().RunAndWait([&] { connection->ServeStream(std::move(served)); });
    std::string answers;
    for (const std::string_view part : {in.Piece(cut), in.Rest()}) {
        SendSome(stream.get(), part);
        owner.LetLoopRun();
        answers += ReceiveSome(stream.get());
    }
    DEMAND(connection->Close(Deadline::InMs(5000)).ok());
    DemandAnswers(answers, input.find(kSecretByte) != std::string_view::npos);
    owner.DemandUntouched();
}

std::string RequestOf(uint32_t operation, uint32_t id, const std::vector<mock::TcpRun> &runs) {
    mock::TcpRequest request{mock::kTcpRequestMagic, operation, id,
                             static_cast<uint32_t>(runs.size()), 0};
    for (const mock::TcpRun &run : runs) request.bytes += run.length;
    std::string bytes(reinterpret_cast<const char *>(&request), sizeof request);
    bytes.append(reinterpret_cast<const char *>(runs.data()), runs.size() * sizeof(mock::TcpRun));
    if (operation == mock::kTcpWrite) bytes.append(request.bytes, 'w');
    return bytes;
}

std::vector<std::string> Seeds() {
    const mock::TcpRun open{0, 1, kOpen + 8, 64};
    const mock::TcpRun more{0, 1, kOpen + kPart - 16, 16};
    const mock::TcpRun withdrawn{1, 1, kWithdrawn, 16};
    const mock::TcpRun holes{2, 1, kHoles + kPart / 2 - 32, 64};
    const std::string read = RequestOf(mock::kTcpRead, 1, {open, more});
    const std::string write = RequestOf(mock::kTcpWrite, 2, {open});
    return {"\xff" + read,
            "\xff" + RequestOf(mock::kTcpWrite, 1, {more}),
            "\xff" + read + write,
            "\x10" + write,
            "\x20" + RequestOf(mock::kTcpRead, 1, {open, withdrawn}) + write,
            "\xff" + RequestOf(mock::kTcpRead, 1, {holes}),
            "\xff" + RequestOf(mock::kTcpWrite, 1, {holes})};
}

const Registration kRegistered({"stream_server", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
