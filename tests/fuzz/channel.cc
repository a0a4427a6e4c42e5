// What comes over the channel between two devices on one host: the first byte of an input says
// which end hears it, the next ones which descriptors come with it, the rest is the message.
//
// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/channel.h"

#include <fcntl.h>
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

void HearAsAcceptor(Owner *owner, const std::vector<Fd> &descriptors, std::string_view message) {
    mock::EndpointData own;
    DEMAND(mock::DecodeEndpoint(owner->Endpoint(NonceOfLink()), &own).ok());
    const auto connection =
        owner->Connect(LinkEnd::kAcceptor, NonceOfLink(), mock::EncodeEndpoint(Peer()));
    DEMAND(connection != nullptr);
    sockaddr_un address;
    const socklen_t size = AddressOf(own.channel, &address);
    const Fd visitor = Socket();
    DEMAND(connect(visitor.get(), reinterpret_cast<sockaddr *>(&address), size) == 0);
    Send(visitor.get(), message, descriptors);
    owner->LetLoopRun();
    const std::string answer = ReceiveSome(visitor.get());
    DEMAND(answer.find(std::string(sizeof(LinkNonce), kSecretByte)) == std::string::npos);
    owner->loop().RunAndWait([&] { static_cast<void>(connection->Confirm()); });
    Transfer(owner, connection.get());
}

void HearAsInitiator(Owner *owner, const std::vector<Fd> &descriptors, std::string_view message) {
    const Fd listener = ListenAsPeer();
    const EventLoop::Token token = owner->loop().Watch(listener.get(), EPOLLIN, [&](uint32_t) {
        const Fd dialling(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (dialling) Send(dialling.get(), message, descriptors);
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
    const bool acceptor = in.Byte() % 2 == 0;
    const size_t count = in.Below(kMostDescriptors + 1);
    std::vector<Fd> descriptors;
    for (size_t i = 0; i < count; ++i) descriptors.push_back(DescriptorOf(in.Byte()));
    const std::string_view message = in.Rest();
    if (acceptor) {
        HearAsAcceptor(&owner, descriptors, message);
    } else {
        HearAsInitiator(&owner, descriptors, message);
    }
}

// What the real initiator sends when it gives this much.
std::string MessageOf(const mock::ChannelGift &gift) {
    const Fd listener = ListenAsPeer();
    mock::ChannelGift none;
    pid_t pid = 0;
    // It is not answered.
    static_cast<void>(mock::ExchangeOverChannel(PeersName(), NonceOfLink(), gift,
                                                Deadline::Passed(), &none, &pid));
    const Fd dialling(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    DEMAND(dialling);
    return ReceiveSome(dialling.get());
}

std::vector<std::string> Seeds() {
    const Fd page = DescriptorOf(0);
    const Fd table = DescriptorOf(1);
    const Fd pool = DescriptorOf(2);
    mock::ChannelGift gift;
    gift.own_region_table = table.get();
    const std::string bare = MessageOf(gift);
    mock::PoolOffer offer;
    offer.number = 3;
    offer.size = kPool;
    offer.own_fd = pool.get();
    gift.pools.push_back(std::move(offer));
    const std::string answered = MessageOf(gift);
    gift.own_link_page = page.get();
    const std::string full = MessageOf(gift);
    const std::string three(kGood, 3);
    return {std::string("\0\3", 2) + three + full, std::string("\0\3\0\1\3", 5) + full,
            std::string("\1\2\1\2", 4) + answered, std::string("\1\1\1", 3) + bare,
            std::string("\0\2\0\1", 4) + full};
}

const Registration kRegistered({"channel", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
