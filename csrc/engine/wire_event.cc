// SPDX-License-Identifier: Apache-2.0
#include "engine/wire_event.h"

#include <algorithm>

#include "base/codec.h"
#include "engine/cache_key.h"
#include "engine/call_record.h"

namespace lldd {
namespace {

// A text of a peer goes to the client: one line of it, whatever it is.
std::string OneLine(std::string_view text) {
    std::string line(text);
    for (char &each : line) {
        const auto code = static_cast<unsigned char>(each);
        if (code < 0x20 || code == 0x7F) each = ' ';
    }
    return line;
}

void WriteKey(const lldd_cache_key &key, Writer *writer) {
    writer->Number(key.kind);
    writer->Number(key.model_id);
    writer->Number(key.req_id);
    writer->Number(key.prefix_id);
    writer->Number(key.cache_id);
    writer->Number(key.batch_index);
}

lldd_cache_key ReadKey(Reader *reader) {
    lldd_cache_key key{};
    key.kind = reader->Number<uint32_t>();
    key.model_id = reader->Number<uint64_t>();
    key.req_id = reader->Number<uint64_t>();
    key.prefix_id = reader->Number<uint64_t>();
    key.cache_id = reader->Number<int64_t>();
    key.batch_index = reader->Number<uint32_t>();
    return key;
}

}  // namespace

TransferEvent TransferEvent::Of(const TransferRecord &record) {
    TransferEvent event;
    event.kind = record.kind;
    event.status = record.status->code();
    event.id = ThisTransfersId();
    event.layer = record.layer;
    event.layers = record.layers;
    event.bytes = record.bytes;
    event.moved = record.bytes_moved();
    if (record.key != nullptr) event.key = *record.key;
    uint64_t blocks = 0;
    for (const BlockRun &run : *record.pairs) {
        blocks += run.count;
        event.all_blocks = event.runs.size() < kMostRuns && blocks <= kMostBlocks;
        if (!event.all_blocks) break;
        event.runs.push_back(run);
    }
    event.text = record.status->text().substr(0, kMostText);
    event.peer = record.link->peer();
    event.link = record.link->number();
    event.cache_id = record.cache_id;
    event.end = record.times.end;
    return event;
}

std::string TransferEvent::Encode() const {
    Writer writer;
    writer.Reserve(128 + text.size() + runs.size() * 24);
    writer.Number(static_cast<uint32_t>(kind));
    writer.Number(status);
    writer.Raw(id.data(), id.size());
    writer.Number(layer);
    writer.Number(layers);
    writer.Number(bytes);
    writer.Number(moved);
    writer.Number(lost);
    WriteKey(key, &writer);
    writer.Bytes(text);
    writer.Number(static_cast<uint8_t>(all_blocks));
    writer.Number(static_cast<uint32_t>(runs.size()));
    for (const BlockRun &run : runs) {
        writer.Number(run.remote);
        writer.Number(run.local);
        writer.Number(run.count);
    }
    return writer.Take();
}

bool TransferEvent::Decode(std::string_view body) {
    Reader reader(body);
    const auto kind_number = reader.Number<uint32_t>();
    if (kind_number < static_cast<uint32_t>(TransferKind::kPull) ||
        kind_number > static_cast<uint32_t>(TransferKind::kToAddresses))
        return false;
    kind = static_cast<TransferKind>(kind_number);
    status = reader.Number<lldd_status>();
    reader.Raw(id.data(), id.size());
    layer = reader.Number<uint32_t>();
    layers = reader.Number<uint32_t>();
    bytes = reader.Number<uint64_t>();
    moved = reader.Number<uint64_t>();
    lost = reader.Number<uint64_t>();
    key = ReadKey(&reader);
    if (key.kind != 0 && !IsKeyKind(key.kind)) return false;
    text = OneLine(reader.Bytes());
    if (text.size() > kMostText) return false;
    all_blocks = reader.Number<uint8_t>() != 0;
    const auto count = reader.Number<uint32_t>();
    if (count > kMostRuns || count > reader.left() / 24) return false;
    runs.resize(count);
    uint64_t left = kMostBlocks;
    for (BlockRun &run : runs) {
        run.local = reader.Number<uint64_t>();
        run.remote = reader.Number<uint64_t>();
        run.count = reader.Number<uint64_t>();
        if (run.count == 0 || run.count > left) return false;
        if (std::max(run.local, run.remote) > UINT64_MAX - run.count) return false;
        left -= run.count;
    }
    return reader.Done();
}

}  // namespace lldd
