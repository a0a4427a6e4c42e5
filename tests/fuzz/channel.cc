// What comes over the channel between two devices on one host: the first byte of an input says
// which end hears it and in the place of what, the next ones which descriptors come with it, the rest
// is the message. In the place of a gift it comes after a proof that is right, since a mutation finds
// none; so what is behind the proof is heard.
//
// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>

#include "base/address.h"
#include "base/hmac.h"
#include "mock_runtime/endpoint.h"
#include "mock_runtime/region_table.h"
#include "owner.h"
#include "target.h"

namespace lldd::fuzz {
namespace {

constexpr uint64_t kPeers = 0x1000'0000;
constexpr uint64_t kPool = 0x4000;
constexpr uint64_t kPage = 0x1000;
constexpr uint64_t kTable = uint64_t{mock::kMostRegions} * sizeof(uint32_t);
constexpr size_t kMostDescriptors = 8;
constexpr int kSealed = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW;
constexpr char kGood[] = "\0\1\2";  // a link page, a table and a pool

LinkNonce NonceOfLink() {
    LinkNonce nonce{};
    nonce.fill('n');
    return nonce;
}

Fd MemoryOf(uint64_t size, int seals) {
    Fd made(memfd_create("peers", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    DEMAND(ftruncate(made.get(), static_cast<off_t>(size)) == 0);
    DEMAND(fcntl(made.get(), F_ADD_SEALS, seals) == 0);
    return made;
}

Fd DescriptorOf(uint8_t kind) {
    const uint32_t one = 1;
    Fd made;
    switch (kind % 8) {
        case 0: made = MemoryOf(kPage, kSealed); break;
        case 1: made = MemoryOf(kTable, kSealed); break;
        case 2: made = MemoryOf(kPool, kSealed); break;
        case 3: made = MemoryOf(kPool, F_SEAL_GROW); break;
        case 4: made = MemoryOf(2 * kPool, kSealed); break;
        case 5: return Fd(open("/dev/zero", O_RDWR | O_CLOEXEC));
        case 6: return Fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
        default: return Fd(epoll_create1(EPOLL_CLOEXEC));
    }
    // Alive, and region 0 in its first generation.
    DEMAND(pwrite(made.get(), &one, sizeof one, 0) == sizeof one);
    return made;
}

void Send(int socket, std::string_view bytes, const std::vector<Fd> &descriptors) {
    alignas(cmsghdr) char control[CMSG_SPACE(kMostDescriptors * sizeof(int))] = {};
    iovec data{const_cast<char *>(bytes.data()), bytes.size()};
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    if (!descriptors.empty()) {
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(descriptors.size() * sizeof(int));
        cmsghdr *const rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
        auto *place = CMSG_DATA(rights);
        for (const Fd &each : descriptors) {
            const int fd = each.get();
            std::memcpy(place, &fd, sizeof fd);
            place += sizeof fd;
        }
    }
    static_cast<void>(sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT));
}

socklen_t AddressOf(const mock::ChannelName &name, sockaddr_un *address) {
    *address = {};
    address->sun_family = AF_UNIX;
    std::string text(1, '\0');
    text += "lldd-";
    for (const uint8_t byte : name) text += Format("%02x", byte);
    std::memcpy(address->sun_path, text.data(), text.size());
    return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + text.size());
}

Fd Socket() { return Fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)); }

// Where this target plays the peer that is dialled.
const mock::ChannelName &PeersName() {
    static const mock::ChannelName name = [] {
        mock::ChannelName made;
        made.fill('f');
        const auto pid = static_cast<uint32_t>(getpid());
        std::memcpy(made.data(), &pid, sizeof pid);
        return made;
    }();
    return name;
}

Fd ListenAsPeer() {
    sockaddr_un address;
    const socklen_t size = AddressOf(PeersName(), &address);
    Fd listener = Socket();
    DEMAND(bind(listener.get(), reinterpret_cast<sockaddr *>(&address), size) == 0);
    DEMAND(listen(listener.get(), 16) == 0);
    return listener;
}

// A peer with one pool, number 3.
mock::EndpointData Peer() {
    mock::EndpointData peer;
    peer.transports = 1;
    peer.channel = PeersName();
    mock::Region region;
    region.addr = kPeers;
    region.size = kPool;
    region.pool = 3;
    region.name = {0, 1};
    peer.regions.push_back(region);
    return peer;
}

// As they are sent: see mock_runtime/channel.h.
constexpr uint32_t kMagic = 0x48434D4C;
constexpr uint32_t kVersion = 2;
struct Opening {
    uint32_t magic = kMagic;
    uint32_t version = kVersion;
    LinkNonce nonce = NonceOfLink();
    mock::ChannelChallenge challenge{};
};
struct Answer {
    uint32_t magic = kMagic;
    uint32_t version = kVersion;
    mock::ChannelChallenge challenge{};
    Digest proof{};
};
struct Gift {
    uint32_t magic = kMagic;
    uint32_t version = kVersion;
    Digest proof{};
    uint32_t has_link_page = 0;
    uint32_t num_pools = 0;
    uint32_t refused = 0;
    uint32_t reserved = 0;
    struct {
        uint64_t size = 0;
        uint32_t number = 0;
        uint32_t reserved = 0;
    } pools[mock::kMostPoolsOnChannel];
};
constexpr size_t kProofAt = offsetof(Gift, proof);

template <typename Part>
std::string BytesOf(const Part &part) {
    return std::string(reinterpret_cast<const char *>(&part), sizeof part);
}

// The link of a target has a key of zeros.
Digest ProofOf(const char *label, const Opening &opening, const mock::ChannelChallenge &answered) {
    std::string said(label);
    said.push_back('\0');
    for (const auto &part : {opening.nonce, opening.challenge, answered})
        said.append(part.begin(), part.end());
    return HmacSha256(std::string(sizeof(LinkKey), '\0'), said);
}

// With whatever the peer handed over a transfer stays within its pool, and ends.
void Transfer(Owner *owner, Connection *connection) {
    const lldd::Run run{kOpen + 64, kPeers + kPool - 64, 64};
    const Deadline deadline = Deadline::InMs(5000);
    static_cast<void>(connection->Read(&run, 1, deadline));
    static_cast<void>(connection->Write(&run, 1, deadline));
    DEMAND(!deadline.passed());
    static_cast<void>(connection->Paths());
    connection->PeerGone();
    DEMAND(connection->Close(Deadline::InMs(5000)).ok());
    owner->DemandUntouched();
}

// The message with a proof that is right.
std::string Proved(int visitor, std::string_view message) {
    std::string proved(message);
    Opening opening;
    Answer answer;
    Send(visitor, BytesOf(opening), {});
    pollfd answered{visitor, POLLIN, 0};
    DEMAND(poll(&answered, 1, 5000) == 1);
    DEMAND(recv(visitor, &answer, sizeof answer, 0) == sizeof answer);
    const Digest proof = ProofOf("\1channel", opening, answer.challenge);
    if (proved.size() >= kProofAt + proof.size())
        std::copy(proof.begin(), proof.end(), proved.begin() + kProofAt);
    return proved;
}

void HearAsAcceptor(Owner *owner, bool opens, const std::vector<Fd> &descriptors,
                    std::string_view message) {
    mock::EndpointData own;
    DEMAND(mock::DecodeEndpoint(owner->Endpoint(NonceOfLink()), &own).ok());
    const auto connection =
        owner->Connect(LinkEnd::kAcceptor, NonceOfLink(), mock::EncodeEndpoint(Peer()));
    DEMAND(connection != nullptr);
    sockaddr_un address;
    const socklen_t size = AddressOf(own.channel, &address);
    const Fd visitor = Socket();
    DEMAND(connect(visitor.get(), reinterpret_cast<sockaddr *>(&address), size) == 0);
    Send(visitor.get(), opens ? std::string(message) : Proved(visitor.get(), message), descriptors);
    owner->LetLoopRun();
    const std::string answer = ReceiveSome(visitor.get());
    DEMAND(answer.find(std::string(sizeof(LinkNonce), kSecretByte)) == std::string::npos);
    owner->loop().RunAndWait([&] { static_cast<void>(connection->Confirm()); });
    Transfer(owner, connection.get());
}

// Plays the peer to which an initiator opens the channel.
void Welcome(int dialling, bool answers, const std::vector<Fd> &descriptors,
             std::string_view message) {
    Opening opening;
    DEMAND(recv(dialling, &opening, sizeof opening, 0) == sizeof opening);
    if (!answers) {
        Answer answer;
        answer.proof = ProofOf("\2channel", opening, answer.challenge);
        Send(dialling, BytesOf(answer), {});
        Gift gift;
        DEMAND(recv(dialling, &gift, sizeof gift, 0) == sizeof gift);
    }
    Send(dialling, message, descriptors);
}

void HearAsInitiator(Owner *owner, bool answers, const std::vector<Fd> &descriptors,
                     std::string_view message) {
    const Fd listener = ListenAsPeer();
    const EventLoop::Token token = owner->loop().Watch(listener.get(), EPOLLIN, [&](uint32_t) {
        const Fd dialling(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (dialling) Welcome(dialling.get(), answers, descriptors, message);
    });
    const auto connection =
        owner->Connect(LinkEnd::kInitiator, NonceOfLink(), mock::EncodeEndpoint(Peer()));
    owner->loop().Remove(token);
    if (connection != nullptr) Transfer(owner, connection.get());
}

void Run(std::string_view input) {
    Input in(input);
    Owner &owner = Owner::Of("mapped");
    owner.Restore();
    const uint8_t kind = in.Byte();
    const bool acceptor = kind % 2 == 0;
    const bool early = kind % 4 > 1;  // in the place of what opens the channel
    const size_t count = in.Below(kMostDescriptors + 1);
    std::vector<Fd> descriptors;
    for (size_t i = 0; i < count; ++i) descriptors.push_back(DescriptorOf(in.Byte()));
    const std::string_view message = in.Rest();
    if (acceptor) {
        HearAsAcceptor(&owner, early, descriptors, message);
    } else {
        HearAsInitiator(&owner, early, descriptors, message);
    }
}

std::vector<std::string> Seeds() {
    Gift gift;
    const std::string bare = BytesOf(gift);
    gift.num_pools = 1;
    gift.pools[0].number = 3;
    gift.pools[0].size = kPool;
    const std::string answered = BytesOf(gift);
    gift.has_link_page = 1;
    const std::string full = BytesOf(gift);
    const std::string three(kGood, 3);
    return {std::string("\0\3", 2) + three + full,     std::string("\0\3\0\1\3", 5) + full,
            std::string("\1\2\1\2", 4) + answered,     std::string("\1\1\1", 3) + bare,
            std::string("\0\2\0\1", 4) + full,         std::string("\2\0", 2) + BytesOf(Opening()),
            std::string("\3\0", 2) + BytesOf(Answer())};
}

const Registration kRegistered({"channel", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
