// SPDX-License-Identifier: Apache-2.0
#include "engine/wire.h"

#include <cstring>

#include "base/codec.h"
#include "engine/cache_key.h"

namespace lldd::wire {
namespace {

template <size_t kSize>
std::array<char, kSize> ToArray(const std::string &bytes) {
    std::array<char, kSize> array{};
    std::memcpy(array.data(), bytes.data(), kSize);
    return array;
}

}  // namespace

Status OtherVersion(const char *who, uint16_t version) {
    return Failure(LLDD_LINK_FAILED, "%s speaks version %u of the control protocol, this end %u",
                   who, version, kVersion);
}

std::array<char, Hello::kSize> Hello::Encode() const {
    Writer writer;
    writer.Number(kMagic);
    writer.Number(kVersion);
    writer.Number(static_cast<uint8_t>(purpose));
    writer.Number(static_cast<uint8_t>(auth));
    writer.Number(features);
    writer.Number(id);
    writer.Raw(nonce.data(), nonce.size());
    return ToArray<kSize>(writer.Take());
}

Status Hello::Decode(std::string_view bytes) {
    Reader reader(bytes);
    if (reader.Number<uint32_t>() != kMagic) {
        return Failure(LLDD_LINK_FAILED, "the other end does not speak this protocol");
    }
    const auto version = reader.Number<uint16_t>();
    if (version != kVersion) return OtherVersion("the other end", version);
    const auto purpose_number = reader.Number<uint8_t>();
    const auto auth_number = reader.Number<uint8_t>();
    features = reader.Number<uint32_t>();
    id = reader.Number<uint64_t>();
    reader.Raw(nonce.data(), nonce.size());
    if (purpose_number < static_cast<uint8_t>(Purpose::kLink) ||
        purpose_number > static_cast<uint8_t>(Purpose::kMeeting)) {
        return Failure(LLDD_LINK_FAILED, "the other end asks for an unknown purpose %u",
                       purpose_number);
    }
    if (auth_number > static_cast<uint8_t>(Auth::kHmacSha256)) {
        return Failure(LLDD_LINK_FAILED,
                       "the other end asks for an unknown authentication method %u", auth_number);
    }
    if (!reader.Done()) return Failure(LLDD_LINK_FAILED, "the other end sent a short greeting");
    purpose = static_cast<Purpose>(purpose_number);
    auth = static_cast<Auth>(auth_number);
    return Status::Ok();
}

std::array<char, FrameHeader::kSize> FrameHeader::Encode() const {
    Writer writer;
    writer.Number(body_size);
    writer.Number(kind);
    writer.Number(reserved);
    writer.Number(request_id);
    return ToArray<kSize>(writer.Take());
}

FrameHeader FrameHeader::Decode(std::string_view bytes) {
    Reader reader(bytes);
    FrameHeader header;
    header.body_size = reader.Number<uint32_t>();
    header.kind = reader.Number<uint16_t>();
    header.reserved = reader.Number<uint16_t>();
    header.request_id = reader.Number<uint32_t>();
    return header;
}

std::string LinkRequest::Encode() const {
    Writer writer;
    writer.Number(cluster_id);
    writer.Number(mode);
    writer.Number(link_style);
    writer.Number(static_cast<uint8_t>(replace));
    writer.Raw(nonce.data(), nonce.size());
    writer.Bytes(group);
    writer.Bytes(endpoint);
    if (!proof.empty()) writer.Bytes(proof);
    return writer.Take();
}

bool LinkRequest::Decode(std::string_view body) {
    Reader reader(body);
    cluster_id = reader.Number<uint64_t>();
    mode = reader.Number<uint32_t>();
    link_style = reader.Number<uint32_t>();
    replace = reader.Number<uint8_t>() != 0;
    reader.Raw(nonce.data(), nonce.size());
    group = reader.Bytes();
    endpoint = reader.Bytes();
    proof = reader.left() == 0 ? std::string_view() : reader.Bytes();
    return reader.Done();
}

std::string LinkReply::Encode() const {
    Writer writer;
    writer.Number(status);
    writer.Bytes(text);
    writer.Bytes(endpoint);
    if (!proof.empty()) writer.Bytes(proof);
    return writer.Take();
}

bool LinkReply::Decode(std::string_view body) {
    Reader reader(body);
    status = reader.Number<uint32_t>();
    text = reader.Bytes();
    endpoint = reader.Bytes();
    proof = reader.left() == 0 ? std::string_view() : reader.Bytes();
    return reader.Done();
}

std::string StatusBody::Encode() const {
    Writer writer;
    writer.Number(status);
    writer.Bytes(text);
    return writer.Take();
}

bool StatusBody::Decode(std::string_view body) {
    Reader reader(body);
    status = reader.Number<uint32_t>();
    text = reader.Bytes();
    return reader.Done();
}

std::string Resolve::Encode() const {
    Writer writer;
    writer.Number(pin);
    writer.Number(key.kind);
    writer.Number(key.model_id);
    writer.Number(key.req_id);
    writer.Number(key.prefix_id);
    writer.Number(key.cache_id);
    writer.Number(key.batch_index);
    return writer.Take();
}

bool Resolve::Decode(std::string_view body) {
    Reader reader(body);
    key.struct_size = sizeof key;
    pin = reader.Number<uint64_t>();
    key.kind = reader.Number<uint32_t>();
    key.model_id = reader.Number<uint64_t>();
    key.req_id = reader.Number<uint64_t>();
    key.prefix_id = reader.Number<uint64_t>();
    key.cache_id = reader.Number<int64_t>();
    key.batch_index = reader.Number<uint32_t>();
    return reader.Done() && IsKeyKind(key.kind);
}

std::string ResolveReply::Encode() const {
    Writer writer;
    writer.Bytes(status.Encode());
    writer.Number(batch_index);
    writer.Number(static_cast<uint8_t>(owner_has_device_pool));
    writer.Bytes(cache);
    return writer.Take();
}

bool ResolveReply::Decode(std::string_view body) {
    Reader reader(body);
    const bool readable = status.Decode(reader.Bytes());
    batch_index = reader.Number<uint64_t>();
    owner_has_device_pool = reader.Number<uint8_t>() != 0;
    cache = reader.Bytes();
    return readable && reader.Done();
}

std::string Release::Encode() const {
    Writer writer;
    writer.Number(pin);
    writer.Number(static_cast<uint8_t>(done));
    writer.Number(first_tensor);
    writer.Number(num_tensors);
    return writer.Take();
}

bool Release::Decode(std::string_view body) {
    Reader reader(body);
    pin = reader.Number<uint64_t>();
    done = reader.Number<uint8_t>() != 0;
    first_tensor = reader.Number<uint32_t>();
    num_tensors = reader.Number<uint32_t>();
    return reader.Done();
}

std::string Locate::Encode() const {
    Writer writer;
    writer.Number(static_cast<uint32_t>(addrs.size()));
    for (const uint64_t addr : addrs) writer.Number(addr);
    return writer.Take();
}

bool Locate::Decode(std::string_view body) {
    Reader reader(body);
    const auto count = reader.Number<uint32_t>();
    if (count > reader.left() / sizeof(uint64_t)) return false;
    addrs.resize(count);
    for (uint64_t &addr : addrs) addr = reader.Number<uint64_t>();
    return reader.Done();
}

std::string LocateReply::Encode() const {
    Writer writer;
    writer.Bytes(status.Encode());
    writer.Number(static_cast<uint32_t>(places.size()));
    for (const Place &place : places) {
        writer.Number(place.end);
        writer.Number(place.data_type);
    }
    return writer.Take();
}

bool LocateReply::Decode(std::string_view body) {
    Reader reader(body);
    if (!status.Decode(reader.Bytes())) return false;
    const auto count = reader.Number<uint32_t>();
    if (count > reader.left() / (sizeof(uint64_t) + sizeof(uint32_t))) return false;
    places.resize(count);
    for (Place &place : places) {
        place.end = reader.Number<uint64_t>();
        place.data_type = reader.Number<uint32_t>();
    }
    return reader.Done();
}

std::string Sums::Encode() const {
    Writer writer;
    writer.Reserve(sizeof(uint32_t) + ranges.size() * 2 * sizeof(uint64_t));
    writer.Number(static_cast<uint32_t>(ranges.size()));
    for (const Range &range : ranges) {
        writer.Number(range.addr);
        writer.Number(range.length);
    }
    return writer.Take();
}

bool Sums::Decode(std::string_view body) {
    Reader reader(body);
    const auto count = reader.Number<uint32_t>();
    if (count > kMostRanges || count > reader.left() / (2 * sizeof(uint64_t))) return false;
    ranges.resize(count);
    uint64_t left = kMostBytes;
    for (Range &range : ranges) {
        range.addr = reader.Number<uint64_t>();
        range.length = reader.Number<uint64_t>();
        if (range.length == 0 || range.length > left) return false;
        if (range.length - 1 > UINT64_MAX - range.addr) return false;
        left -= range.length;
    }
    return reader.Done();
}

std::string SumsReply::Encode() const {
    Writer writer;
    writer.Bytes(status.Encode());
    writer.Number(static_cast<uint32_t>(sums.size()));
    for (const uint64_t sum : sums) writer.Number(sum);
    return writer.Take();
}

bool SumsReply::Decode(std::string_view body) {
    Reader reader(body);
    if (!status.Decode(reader.Bytes())) return false;
    const auto count = reader.Number<uint32_t>();
    if (count > reader.left() / sizeof(uint64_t)) return false;
    sums.resize(count);
    for (uint64_t &sum : sums) sum = reader.Number<uint64_t>();
    return reader.Done();
}

}  // namespace lldd::wire
