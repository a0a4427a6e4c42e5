// SPDX-License-Identifier: Apache-2.0
#include "engine/meeting.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/codec.h"
#include "base/io_thread.h"
#include "base/log.h"
#include "engine/keys.h"

namespace lldd {
namespace {

// How often a member calls on the others again while another user is in their way.
constexpr uint64_t kAgainMs = 100;
constexpr char kSockets[] = "/proc/net/unix";

// A name of any length as 16 hexadecimal digits: FNV-1a.
uint64_t Hash(std::string_view text) {
    uint64_t hash = 14695981039346656037ULL;
    for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211ULL;
    return hash;
}

// Of the socket of a member, without the zero byte that it begins with: so it is in no file system, and
// is gone with its socket.
std::string NameOf(const std::string &communicator, uint64_t cluster_id) {
    const char *scope = std::getenv("LLM_DATADIST_SCOPE");
    return Format("lldd-meet-%u-%016llx-%016llx-%llu", getuid(),
                  Printable(Hash(scope == nullptr ? "" : scope)), Printable(Hash(communicator)),
                  Printable(cluster_id));
}

std::string WithRandomEnd(const std::string &name) {
    const LinkNonce nonce = RandomNonce();
    std::string longer = name + "-";
    for (size_t i = 0; i < nonce.size() / 2; ++i) longer += Format("%02x", nonce[i]);
    return longer;
}

sockaddr_un AddressOf(const std::string &name, socklen_t *size) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const size_t length = std::min(name.size(), sizeof address.sun_path - 1);
    std::memcpy(address.sun_path + 1, name.data(), length);
    *size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length);
    return address;
}

Fd NewSocket() { return Fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)); }

// 0, or an errno value.
int BindTo(const std::string &name, Fd *listener) {
    socklen_t size = 0;
    const sockaddr_un address = AddressOf(name, &size);
    *listener = NewSocket();
    if (!*listener ||
        bind(listener->get(), reinterpret_cast<const sockaddr *>(&address), size) != 0 ||
        listen(listener->get(), SOMAXCONN) != 0)
        return errno;
    return 0;
}

int ConnectTo(const std::string &name, Fd *visit) {
    socklen_t size = 0;
    const sockaddr_un address = AddressOf(name, &size);
    *visit = NewSocket();
    if (!*visit || connect(visit->get(), reinterpret_cast<const sockaddr *>(&address), size) != 0)
        return errno;
    return 0;
}

ucred OtherEnd(int fd) {
    ucred other{0, static_cast<uid_t>(-1), static_cast<gid_t>(-1)};
    socklen_t size = sizeof other;
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &other, &size);
    return other;
}

// Any user can bind an abstract name, so only processes of the own user count as members.
bool SameUser(int fd) { return OtherEnd(fd).uid == getuid(); }

// The abstract names that begin so.
std::vector<std::string> NamesThatBeginWith(const std::string &beginning) {
    std::vector<std::string> names;
    std::ifstream sockets(kSockets);
    for (std::string line; std::getline(sockets, line);) {
        const size_t at = line.rfind('@');
        if (at != std::string::npos && line.compare(at + 1, beginning.size(), beginning) == 0)
            names.push_back(line.substr(at + 1));
    }
    return names;
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

Status LocalMeeting::Start(std::string *notice) {
    LLDD_ON_IO_THREAD(*loop_);
    if (own_.Encode().size() > kMaxMeetingCard) {
        return Failure(LLDD_PARAM_INVALID, "rank_table is larger than 64 KiB");
    }
    LLDD_RETURN_IF_ERROR(Bind(notice));
    bool all = notice->empty();
    // One that is called on here, and answers at once, is erased later.
    for (const uint64_t other : others_) all &= CallOn(other, NameOf(own_.name, other));
    if (!all) CallAgainLater();
    return Status::Ok();
}

Status LocalMeeting::Bind(std::string *notice) {
    const std::string name = NameOf(own_.name, own_.cluster_id);
    Fd listener;
    int error = BindTo(name, &listener);
    Fd visit;
    if (error == EADDRINUSE && ConnectTo(name, &visit) == 0 && !SameUser(visit.get())) {
        const ucred holder = OtherEnd(visit.get());
        *notice = Format(
            "link(\"%s\"): process %d of user %u holds the name at which the other members look "
            "for this one, which waits at another one",
            own_.name.c_str(), static_cast<int>(holder.pid), holder.uid);
        LLDD_LOG(LLDD_LOG_WARNING, "%s", notice->c_str());
        error = BindTo(WithRandomEnd(name), &listener);
    }
    if (error != 0) {
        return ErrnoFailure(LLDD_LINK_FAILED, error, "cannot wait for the other members of \"%s\"",
                            own_.name.c_str());
    }
    listener_.Start(std::move(listener), [this](Fd visitor) {
        LLDD_ON_IO_THREAD(*loop_);
        Exchange(std::move(visitor), own_.cluster_id);
    });
    return Status::Ok();
}

// A refused connect means that the member is not there yet: it will connect to this one when it comes.
// One whose queue is full, or who is another user, stands in the way of the member.
bool LocalMeeting::CallOn(uint64_t other, const std::string &name) {
    Fd visit;
    const int error = ConnectTo(name, &visit);
    if (error != 0) return error != EAGAIN;
    if (!SameUser(visit.get())) return false;
    Exchange(std::move(visit), other);
    return true;
}

void LocalMeeting::CallAgainLater() {
    timer_ = loop_->PostAt(Deadline::InMs(kAgainMs), [this] {
        LLDD_ON_IO_THREAD(*loop_);
        CallAgain();
    });
}

void LocalMeeting::CallAgain() {
    timer_ = 0;
    for (const uint64_t other : others_) {
        const auto called = [other](const Visit &visit) { return visit.other == other; };
        if (std::any_of(visits_.begin(), visits_.end(), called)) continue;
        const std::string name = NameOf(own_.name, other);
        CallOn(other, name);
        for (const std::string &longer : NamesThatBeginWith(name + "-")) CallOn(other, longer);
    }
    if (!others_.empty()) CallAgainLater();
}

void LocalMeeting::Stop() {
    if (!listener_.listening()) return;
    LLDD_ON_IO_THREAD(*loop_);
    listener_.Stop();
    loop_->Cancel(timer_);
    for (Visit &visit : visits_) loop_->Remove(visit.token);
    visits_.clear();
}

void LocalMeeting::Exchange(Fd socket, uint64_t other) {
    if (!SameUser(socket.get())) return;
    const std::string card = own_.Encode();
    if (send(socket.get(), card.data(), card.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        LLDD_LOG(LLDD_LOG_WARNING, "cannot introduce this member to another: errno %d", errno);
        return;
    }
    const auto visit = visits_.emplace(visits_.end());
    visit->socket = std::move(socket);
    visit->other = other;
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
    if (card.name == own_.name) others_.erase(card.cluster_id);
    on_card_(card);
}

}  // namespace lldd
