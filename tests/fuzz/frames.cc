// How the bytes of a control connection become messages: the first byte of an input says how large
// a body may be, the second how many bytes arrive at a time.
//
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "engine/control_channel.h"
#include "target.h"

namespace lldd::fuzz {
namespace {

struct Frames {
    std::vector<std::pair<uint16_t, std::string>> frames;
    bool broken = false;
};

Frames Parse(std::string_view bytes, size_t piece, uint32_t max_body) {
    FrameParser parser(max_body);
    Frames parsed;
    while (!bytes.empty() && !parser.broken()) {
        const std::string_view now = bytes.substr(0, piece);
        bytes.remove_prefix(now.size());
        parser.Append(now.data(), now.size());
        wire::FrameHeader header;
        std::string_view body;
        while (parser.Next(&header, &body)) {
            DEMAND(body.size() == header.body_size && body.size() <= max_body);
            parsed.frames.emplace_back(header.kind, body);
        }
    }
    parsed.broken = parser.broken();
    return parsed;
}

// However the bytes arrive, they are the same messages.
void Run(std::string_view input) {
    Input in(input);
    const uint32_t max_body = in.Byte() % 2 == 0 ? wire::kMaxBody : 64;
    const size_t piece = size_t{in.Byte()} + 1;
    const std::string_view bytes = in.Rest();
    const Frames at_once = Parse(bytes, bytes.size() + 1, max_body);
    const Frames in_pieces = Parse(bytes, piece, max_body);
    DEMAND(at_once.frames == in_pieces.frames);
    DEMAND(at_once.broken == in_pieces.broken);
}

std::string FrameOf(uint16_t kind, std::string_view body) {
    wire::FrameHeader header;
    header.kind = kind;
    header.request_id = 1;
    header.body_size = static_cast<uint32_t>(body.size());
    const auto head = header.Encode();
    return std::string(head.data(), head.size()) + std::string(body);
}

std::vector<std::string> Seeds() {
    const std::string control = std::string("\0\7", 2);
    wire::Resolve resolve;
    resolve.key.kind = LLDD_KEY_BLOCKS;
    const std::string confirm = FrameOf(wire::kLinkConfirm, "");
    const std::string table = FrameOf(wire::kTable, "");
    return {control + confirm, control + table + FrameOf(wire::kResolve, resolve.Encode()),
            std::string("\1\0", 2) + FrameOf(wire::kMessage, std::string(64, 'm')) + confirm};
}

const Registration kRegistered({"frames", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
