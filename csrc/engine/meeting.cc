// SPDX-License-Identifier: Apache-2.0
#include "engine/meeting.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "base/codec.h"
#include "base/io_thread.h"
#include "base/log.h"

namespace lldd {
namespace {

constexpr int kBacklog = 64;

// A name of any length as 16 hexadecimal digits: FNV-1a.
uint64_t Hash(std::string_view text) {
    uint64_t hash = 14695981039346656037ULL;
    for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211ULL;
    return hash;
}

sockaddr_un AddressOf(const std::string &name, uint64_t cluster_id, socklen_t *size) {
    const char *scope = std::getenv("LLM_DATADIST_SCOPE");
    const std::string text = Format("lldd-meet-%u-%016llx-%016llx-%llu", getuid(),
                                    Printable(Hash(scope == nullptr ? "" : scope)),
                                    Printable(Hash(name)), Printable(cluster_id));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    // The name begins with a zero byte: it is in no file system, and is gone with its socket.
    std::memcpy(address.sun_path + 1, text.data(), text.size());
    *size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
    return address;
}

Fd NewSocket() { return Fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)); }

// Any user can bind an abstract name, so only processes of the own user count as members.
bool SameUser(int fd) {
    ucred peer{};
    socklen_t size = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == getuid();
}

}  // namespace

std::string MeetingCard::Encode() const {
    Writer writer;
    writer.Number(wire::kMagic);
    writer.Number(version);
    writer.Number(cluster_id);
    writer.Bytes(name);
    if (version != wire::kVersion) return writer.Take();
    writer.Bytes(group);
    writer.Bytes(rank_table);
    writer.Bytes(ip);
    writer.Number(port);
    return writer.Take();
}

bool MeetingCard::Decode(std::string_view bytes) {
    Reader reader(bytes);
    if (reader.Number<uint32_t>() != wire::kMagic) return false;
    version = reader.Number<uint16_t>();
    cluster_id = reader.Number<uint64_t>();
    name = reader.Bytes();
    if (version != wire::kVersion) return reader.ok();
    group = reader.Bytes();
    rank_table = reader.Bytes();
    ip = reader.Bytes();
    port = reader.Number<uint32_t>();
    return reader.Done();
}

Status LocalMeeting::Start(const std::vector<uint64_t> &others) {
    LLDD_ON_IO_THREAD(*loop_);
    if (own_.Encode().size() > kMaxMeetingCard) {
        return Failure(LLDD_PARAM_INVALID, "rank_table is larger than 64 KiB");
    }
    socklen_t size = 0;
    const sockaddr_un own_address = AddressOf(own_.name, own_.cluster_id, &size);
    Fd listener = NewSocket();
    if (!listener ||
        bind(listener.get(), reinterpret_cast<const sockaddr *>(&own_address), size) != 0 ||
        listen(listener.get(), kBacklog) != 0) {
        return ErrnoFailure(LLDD_LINK_FAILED, errno, "cannot wait for the other members of \"%s\"",
                            own_.name.c_str());
    }
    listener_.Start(std::move(listener), [this](Fd visitor) {
        LLDD_ON_IO_THREAD(*loop_);
        Exchange(std::move(visitor));
    });
    for (const uint64_t other : others) {
        const sockaddr_un address = AddressOf(own_.name, other, &size);
        Fd visit = NewSocket();
        // A refused connect means that the member is not there yet: it will connect to this one
        // when it comes.
        if (visit &&
            connect(visit.get(), reinterpret_cast<const sockaddr *>(&address), size) == 0) {
            Exchange(std::move(visit));
        }
    }
    return Status::Ok();
}

void LocalMeeting::Stop() {
    if (!listener_.listening()) return;
    LLDD_ON_IO_THREAD(*loop_);
    listener_.Stop();
    for (Visit &visit : visits_) loop_->Remove(visit.token);
    visits_.clear();
}

void LocalMeeting::Exchange(Fd socket) {
    if (!SameUser(socket.get())) return;
    const std::string card = own_.Encode();
    if (send(socket.get(), card.data(), card.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        LLDD_LOG(LLDD_LOG_WARNING, "cannot introduce this member to another: errno %d", errno);
        return;
    }
    const auto visit = visits_.emplace(visits_.end());
    visit->socket = std::move(socket);
    visit->token = loop_->Watch(visit->socket.get(), EPOLLIN, [this, visit](uint32_t) {
        LLDD_ON_IO_THREAD(*loop_);
        OnCard(visit);
    });
}

void LocalMeeting::OnCard(Visits::iterator visit) {
    std::vector<char> bytes(kMaxMeetingCard);
    const ssize_t received = recv(visit->socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (received < 0 && (errno == EAGAIN || errno == EINTR)) return;
    loop_->Remove(visit->token);
    visits_.erase(visit);
    MeetingCard card;
    if (received <= 0 || !card.Decode({bytes.data(), static_cast<size_t>(received)})) return;
    on_card_(card);
}

}  // namespace lldd
