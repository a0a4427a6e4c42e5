// SPDX-License-Identifier: Apache-2.0
#include "relay.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <iterator>

namespace lldd::fuzz {
namespace {

using wire::FrameHeader;

// When nothing has come for so long, an end waits for what will not come.
constexpr int kStalledMs = 5;
// However it ends, it does.
constexpr std::chrono::seconds kLongest{30};
constexpr size_t kMostConnections = 8;
constexpr size_t kMostStrangers = 8;
constexpr uint32_t kNumbers[] = {0,     1,          2,          3,         0x7F,       0x80,
                                 0xFF,  0x100,      0xFFFF,     0x10000,   0x7FFFFFFF, 0x80000000,
                                 0x7FF, 0xFFFFFFFE, 0xFFFFFFFF, 0x04000000};

bool IsFrame(const std::string &message) { return message.size() >= FrameHeader::kSize; }

// The header says how long the body is.
void Measure(std::string *message) {
    if (!IsFrame(*message)) return;
    FrameHeader header = FrameHeader::Decode(*message);
    header.body_size = static_cast<uint32_t>(message->size() - FrameHeader::kSize);
    const auto head = header.Encode();
    message->replace(0, head.size(), head.data(), head.size());
}

void SendAllOf(int socket, std::string_view bytes) {
    static_cast<void>(SendAll(socket, bytes.data(), bytes.size(), Deadline::InMs(1000)));
}

}  // namespace

Change Change::From(Input *in) {
    Change change;
    change.connection = in->Byte() % 4;
    const uint8_t which = in->Byte();
    change.back = (which & 0x80) != 0;
    change.message = which % 16;
    change.how = static_cast<How>(in->Below(kHows));
    change.place = in->Byte();
    change.value = in->Byte();
    change.bytes = in->Piece(in->Below(64));
    return change;
}

std::string ChangeTo(uint8_t connection, uint8_t message, Change::How how, uint8_t place,
                     uint8_t value, const std::string &bytes) {
    std::string change;
    for (const uint8_t byte : {connection, message, static_cast<uint8_t>(how), place, value,
                               static_cast<uint8_t>(bytes.size())})
        change += static_cast<char>(byte);
    return change + bytes;
}

void Watch::Look(std::string_view bytes) {
    if (words_.empty()) return;
    tail_.append(bytes);
    for (const std::string &word : words_) DEMAND(tail_.find(word) == std::string::npos);
    if (tail_.size() > words_[0].size()) tail_.erase(0, tail_.size() - words_[0].size());
}

Relay::Relay() {
    SocketAddress any;
    DEMAND(SocketAddress::Parse("127.0.0.1", 0, &any).ok());
    DEMAND(Listen(any, &listener_).ok());
    address_ = SocketAddress::OfSocket(listener_.get());
    finished_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    DEMAND(finished_);
}

void Relay::Finish() { DEMAND(eventfd_write(finished_.get(), 1) == 0); }

void Relay::Run(const SocketAddress &victim, std::vector<Change> changes,
                const std::vector<std::string> &forbidden, bool until_stalled) {
    victim_ = victim;
    changes_ = std::move(changes);
    over_ = false;
    const auto began = Deadline::Clock::now();
    for (;;) {
        DEMAND(Deadline::Clock::now() - began < kLongest);
        std::vector<pollfd> watched{{finished_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
        for (const Connection &each : connections_) {
            watched.push_back({each.open ? each.client.get() : -1, POLLIN, 0});
            watched.push_back({each.open ? each.victim.get() : -1, POLLIN, 0});
        }
        const int ready = poll(watched.data(), watched.size(), over_ ? -1 : kStalledMs);
        if (watched[0].revents != 0) break;
        if (ready == 0) {
            for (Connection &each : connections_) HangUp(&each);
            // One of them may have become a link, over which the victim asks.
            strangers_.clear();
            over_ = true;
            if (until_stalled) break;
            continue;
        }
        size_t place = 2;
        for (Connection &each : connections_) {
            for (const bool back : {false, true}) {
                const bool readable = watched[place++].revents != 0;
                if (readable && each.open && !Pass(&each, (place - 3) / 2, back)) HangUp(&each);
            }
        }
        if (watched[1].revents != 0) Accept(victim, forbidden);
    }
    eventfd_t ignored = 0;
    static_cast<void>(eventfd_read(finished_.get(), &ignored));
    connections_.clear();
    strangers_.clear();
}

void Relay::Accept(const SocketAddress &victim, const std::vector<std::string> &forbidden) {
    Fd client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!client || over_ || connections_.size() == kMostConnections) return;
    SetNoDelay(client.get());
    Fd to_victim;
    if (!Connect(victim, {}, Deadline::InMs(5000), &to_victim).ok()) return;
    Connection &made = connections_.emplace_back();
    made.client = std::move(client);
    made.victim = std::move(to_victim);
    made.ways[0].from = made.ways[1].to = made.client.get();
    made.ways[0].to = made.ways[1].from = made.victim.get();
    made.ways[1].accepted = made.victim.get();
    made.ways[1].watch = Watch(forbidden);
}

// False: it has ended.
bool Relay::Pass(Connection *connection, size_t number, bool back) {
    Way &way = connection->ways[back ? 1 : 0];
    char bytes[16384];
    const ssize_t size = recv(way.from, bytes, sizeof bytes, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (size <= 0) return false;
    way.watch.Look({bytes, static_cast<size_t>(size)});
    way.bytes.append(bytes, static_cast<size_t>(size));
    std::string message;
    while (connection->open && NextMessage(&way, &message))
        Tell(connection, number, back, std::move(message));
    return true;
}

bool Relay::NextMessage(Way *way, std::string *message) {
    size_t size = way->bytes.size();
    if (size == 0) return false;
    if (!way->greeted) {
        // A rendezvous has frames from the first byte on, and the answers of a stream no greeting.
        way->greeted = true;
        wire::Hello hello;
        const std::string_view first = std::string_view(way->bytes).substr(0, wire::Hello::kSize);
        if (hello.Decode(first).ok()) {
            way->framed = hello.purpose == wire::Purpose::kLink;
            // With a secret each end proves it, and the acceptor says which cluster it is.
            if (way->framed && hello.auth != wire::Auth::kNone)
                way->unframed = kProofBytes + (way->from == way->accepted ? sizeof hello.id : 0);
            *message = first;
            way->bytes.erase(0, first.size());
            return true;
        }
        way->framed = size >= FrameHeader::kSize && FrameHeader::Decode(way->bytes).reserved == 0 &&
                      FrameHeader::Decode(way->bytes).kind == wire::kCard;
    }
    if (way->unframed > 0) {
        size = std::min(size, way->unframed);
        way->unframed -= size;
    } else if (way->framed) {
        if (size < FrameHeader::kSize) return false;
        const size_t frame = FrameHeader::kSize + FrameHeader::Decode(way->bytes).body_size;
        if (size < frame) return false;
        size = frame;
    }
    *message = way->bytes.substr(0, size);
    way->bytes.erase(0, size);
    return true;
}

void Relay::Tell(Connection *connection, size_t number, bool back, std::string message) {
    Way &way = connection->ways[back ? 1 : 0];
    const size_t index = way.messages++;
    way.said.push_back(message);
    const std::string later = std::move(way.later);
    way.later.clear();
    for (const Change &change : changes_) {
        if (change.connection != number || change.back != back || change.message != index) continue;
        Apply(change, connection, &way, &message);
        if (!connection->open) return;
    }
    SendAllOf(way.to, message + later);
}

void Relay::Apply(const Change &change, Connection *connection, Way *way, std::string *message) {
    using How = Change::How;
    const size_t size = message->size();
    const size_t place = size == 0 ? 0 : change.place % size;
    const uint32_t number = kNumbers[change.value % std::size(kNumbers)];
    switch (change.how) {
        case How::kFlip:
            if (size != 0) (*message)[place] = static_cast<char>((*message)[place] ^ change.value);
            return;
        case How::kNumber:
            if (size >= 4) std::memcpy(message->data() + std::min(place, size - 4), &number, 4);
            return;
        case How::kTear: message->resize(place); return;
        case How::kCut: message->resize(place); return Measure(message);
        case How::kGrow: message->append(change.bytes); return Measure(message);
        case How::kReplace:
            message->resize(std::min(size, FrameHeader::kSize));
            message->append(change.bytes);
            return Measure(message);
        case How::kDrop: message->clear(); return;
        case How::kTwice: *message += *message; return;
        case How::kKind:
            if (IsFrame(*message)) (*message)[4] = static_cast<char>(change.value % 16);
            return;
        case How::kInsert: {
            FrameHeader header;
            header.kind = static_cast<uint16_t>(change.place % 16 | (change.value & 0x80) << 8);
            header.request_id = change.value & 0x7F;
            const auto head = header.Encode();
            std::string inserted(head.data(), head.size());
            inserted += change.bytes;
            Measure(&inserted);
            message->insert(0, inserted);
            return;
        }
        case How::kEarlier: *message = way->said[change.place % way->said.size()]; return;
        case How::kReplay: {
            std::string all;
            for (const std::string &said : way->said) all += said;
            return OnNewConnection(all);
        }
        case How::kStranger: return OnNewConnection(change.bytes);
        case How::kHangUp: return HangUp(connection);
        case How::kSwap:
            way->later = *message;
            message->clear();
            return;
    }
}

void Relay::OnNewConnection(const std::string &bytes) {
    Fd stranger;
    if (strangers_.size() == kMostStrangers) return;
    if (!Connect(victim_, {}, Deadline::InMs(5000), &stranger).ok()) return;
    SendAllOf(stranger.get(), bytes);
    strangers_.push_back(std::move(stranger));
}

void Relay::HangUp(Connection *connection) {
    if (!connection->open) return;
    connection->open = false;
    connection->client.Close();
    connection->victim.Close();
}

}  // namespace lldd::fuzz
