// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/channel.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <string_view>
#include <type_traits>

#include "base/hmac.h"
#include "base/io_thread.h"
#include "base/log.h"
#include "base/older_libc.h"
#include "base/socket.h"

namespace lldd::mock {
namespace {

constexpr uint32_t kMagic = 0x48434D4C;  // "LMCH"
constexpr uint32_t kVersion = 2;
// The link page, the region table and the pools.
constexpr size_t kMostDescriptors = 2 + kMostPoolsOnChannel;
// Visitors must say all they have to say within kPatienceMs. When there are kMostVisitors, the first of
// the user with the most of them makes room.
constexpr uint64_t kPatienceMs = 10000;
constexpr size_t kMostVisitors = 256;

struct Opening {
    uint32_t magic;
    uint32_t version;
    LinkNonce nonce;
    ChannelChallenge challenge;
};
static_assert(std::is_trivially_copyable_v<Opening>, "sent as it is");

struct Answer {
    uint32_t magic;
    uint32_t version;
    ChannelChallenge challenge;
    Digest proof;
};
static_assert(std::is_trivially_copyable_v<Answer>, "sent as it is");

struct Message {
    uint32_t magic;
    uint32_t version;
    Digest proof;  // of the initiator; an acceptor has proved itself already
    uint32_t has_link_page;
    uint32_t num_pools;
    // In an answer that passes nothing: why, an errno value. The sender has no descriptors left.
    uint32_t refused;
    uint32_t reserved;
    struct {
        uint64_t size;
        uint32_t number;
        uint32_t reserved;
    } pools[kMostPoolsOnChannel];
};
static_assert(std::is_trivially_copyable_v<Message>, "sent as it is");

union ControlBuffer {
    cmsghdr align;
    char bytes[CMSG_SPACE(kMostDescriptors * sizeof(int))];
};

// The address in the abstract name space: a zero byte, then the name in hexadecimal digits.
socklen_t AddressOf(const ChannelName &name, sockaddr_un *address) {
    std::memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    std::string text = "lldd-";
    for (const uint8_t byte : name) text += Format("%02x", byte);
    std::memcpy(address->sun_path + 1, text.data(), text.size());
    return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
}

ucred CredentialsOf(int socket) {
    ucred peer{0, static_cast<uid_t>(-1), static_cast<gid_t>(-1)};
    socklen_t size = sizeof peer;
    getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size);
    return peer;
}

pid_t PeerPid(int socket) { return CredentialsOf(socket).pid; }

// Of both challenges and the link's nonce, for one end of it.
Digest ProofOf(const LinkKey &key, LinkEnd sender, const ChannelOpening &opening) {
    std::string text(sender == LinkEnd::kInitiator ? "\1channel" : "\2channel");
    text.push_back('\0');
    for (const auto &part : {opening.nonce, opening.initiator, opening.acceptor})
        text.append(part.begin(), part.end());
    return HmacSha256({reinterpret_cast<const char *>(key.data()), key.size()}, text);
}

bool IsProof(const Digest &proof, const LinkKey &key, LinkEnd sender,
             const ChannelOpening &opening) {
    const auto text = [](const Digest &digest) {
        return std::string_view(reinterpret_cast<const char *>(digest.data()), digest.size());
    };
    return SameDigest(text(proof), text(ProofOf(key, sender, opening)));
}

template <typename Part>
Part NewPart() {
    Part part{};
    part.magic = kMagic;
    part.version = kVersion;
    return part;
}

bool IsProper(const Opening &part) { return part.magic == kMagic && part.version == kVersion; }
bool IsProper(const Answer &part) { return part.magic == kMagic && part.version == kVersion; }

template <typename Part>
Status SendPart(int socket, const Part &part) {
    if (send(socket, &part, sizeof part, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof part)
        return Status::Ok();
    return ErrnoFailure(LLDD_FAILED, errno, "cannot send over the channel");
}

template <typename Part>
Status ReceivePart(int socket, Part *part) {
    // Descriptors that come with it are closed by the kernel: there is no room for them.
    const ssize_t size = recv(socket, part, sizeof *part, MSG_DONTWAIT | MSG_TRUNC);
    if (size < 0) return ErrnoFailure(LLDD_FAILED, errno, "cannot receive over the channel");
    if (size == 0) return Failure(LLDD_FAILED, "the peer closed the channel");
    if (size != sizeof *part || !IsProper(*part))
        return Failure(LLDD_FAILED, "the channel got no proper message");
    return Status::Ok();
}

Status FillRandom(ChannelChallenge *challenge) {
    if (getrandom(challenge->data(), challenge->size(), 0) ==
        static_cast<ssize_t>(challenge->size()))
        return Status::Ok();
    return ErrnoFailure(LLDD_FAILED, errno, "no random numbers");
}

Status Refuse(int socket, int error) {
    auto message = NewPart<Message>();
    message.refused = static_cast<uint32_t>(error);
    return SendPart(socket, message);
}

// `proof`: of the initiator.
Status Send(int socket, const Digest &proof, const ChannelGift &gift) {
    auto message = NewPart<Message>();
    message.proof = proof;
    int descriptors[kMostDescriptors];
    size_t count = 0;
    message.has_link_page = gift.own_link_page >= 0 ? 1 : 0;
    if (gift.own_link_page >= 0) descriptors[count++] = gift.own_link_page;
    descriptors[count++] = gift.own_region_table;
    for (const PoolOffer &pool : gift.pools) {
        if (message.num_pools == kMostPoolsOnChannel) break;
        message.pools[message.num_pools].number = pool.number;
        message.pools[message.num_pools].size = pool.size;
        ++message.num_pools;
        descriptors[count++] = pool.own_fd;
    }
    ControlBuffer control;
    std::memset(&control, 0, sizeof control);
    iovec data{&message, sizeof message};
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = control.bytes;
    header.msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsghdr *rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(count * sizeof(int));
    std::memcpy(CMSG_DATA(rights), descriptors, count * sizeof(int));
    if (sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) !=
        static_cast<ssize_t>(sizeof message)) {
        return ErrnoFailure(LLDD_FAILED, errno, "cannot send over the channel");
    }
    return Status::Ok();
}

// Takes ownership of every descriptor that came, before the message is checked.
std::vector<Fd> OwnDescriptors(msghdr *header) {
    std::vector<Fd> received;
    for (cmsghdr *part = CMSG_FIRSTHDR(header); part != nullptr; part = CMSG_NXTHDR(header, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
            received.emplace_back(fd);
        }
    }
    return received;
}

// *proof is that of a message that was in order, also where its descriptors could not be taken.
Status Receive(int socket, Digest *proof, ChannelGift *gift) {
    Message message{};
    ControlBuffer control;
    iovec data{&message, sizeof message};
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = control.bytes;
    header.msg_controllen = sizeof control.bytes;
    const ssize_t size = recvmsg(socket, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (size < 0) return ErrnoFailure(LLDD_FAILED, errno, "cannot receive over the channel");
    std::vector<Fd> received = OwnDescriptors(&header);
    if (size == 0) return Failure(LLDD_FAILED, "the peer closed the channel");
    const bool in_order = size == static_cast<ssize_t>(sizeof message) &&
                          (header.msg_flags & MSG_TRUNC) == 0 && message.magic == kMagic &&
                          message.version == kVersion && message.has_link_page <= 1 &&
                          message.num_pools <= kMostPoolsOnChannel;
    if (in_order) *proof = message.proof;
    if (in_order && message.refused != 0) {
        return Status(LLDD_LINK_FAILED, "the peer has no file descriptor left", message.refused);
    }
    const size_t expected = 1 + size_t{message.has_link_page} + message.num_pools;
    if (in_order && (header.msg_flags & MSG_CTRUNC) != 0 && received.size() < expected) {
        return ErrnoFailure(LLDD_LINK_FAILED, EMFILE, "cannot take the descriptors of the peer");
    }
    if (!in_order || (header.msg_flags & MSG_CTRUNC) != 0 || received.size() != expected) {
        return Failure(LLDD_FAILED, "the channel got no proper message");
    }
    size_t next = 0;
    if (message.has_link_page == 1) gift->link_page = std::move(received[next++]);
    gift->region_table = std::move(received[next++]);
    for (uint32_t i = 0; i < message.num_pools; ++i) {
        PoolOffer pool;
        pool.number = message.pools[i].number;
        pool.size = message.pools[i].size;
        pool.fd = std::move(received[next++]);
        gift->pools.push_back(std::move(pool));
    }
    return Status::Ok();
}

}  // namespace

ChannelListener::ChannelListener(std::shared_ptr<EventLoop> loop)
    : loop_(std::move(loop)),
      strangers_(loop_.get(), "the same-host channel", {kMostVisitors, kPatienceMs, 0}),
      listener_(loop_.get()) {}

Status ChannelListener::Create(std::shared_ptr<EventLoop> loop,
                               std::unique_ptr<ChannelListener> *listener) {
    std::unique_ptr<ChannelListener> made(new ChannelListener(std::move(loop)));
    if (getrandom(made->name_.data(), made->name_.size(), 0) !=
        static_cast<ssize_t>(made->name_.size())) {
        return ErrnoFailure(LLDD_FAILED, errno, "no random numbers");
    }
    sockaddr_un address;
    const socklen_t size = AddressOf(made->name_, &address);
    Fd listening(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!listening || bind(listening.get(), reinterpret_cast<sockaddr *>(&address), size) != 0 ||
        listen(listening.get(), SOMAXCONN) != 0) {
        return ErrnoFailure(LLDD_FAILED, errno, "cannot listen on the channel");
    }
    made->listener_.Start(std::move(listening), [self = made.get()](Fd visitor) {
        LLDD_ON_IO_THREAD(*self->loop_);
        self->Welcome(std::move(visitor));
    });
    *listener = std::move(made);
    return Status::Ok();
}

ChannelListener::~ChannelListener() {
    listener_.Stop();
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        while (!visitors_.empty()) Dismiss(visitors_.begin()->first);
    });
}

void ChannelListener::Expect(const ChannelLink &link, Taker taker) {
    loop_->RunAndWait([&] {
        LLDD_ON_IO_THREAD(*loop_);
        expected_[link.nonce] = {link.key, std::move(taker)};
    });
}

void ChannelListener::Forget(const LinkNonce &nonce) {
    loop_->RunAndWait([&] {
        LLDD_ON_IO_THREAD(*loop_);
        expected_.erase(nonce);
    });
}

void ChannelListener::Welcome(Fd socket) {
    // The token is known only after the call; the handler runs later, on this very thread.
    auto token = std::make_shared<EventLoop::Token>(0);
    *token = loop_->Watch(socket.get(), EPOLLIN, [this, token](uint32_t) {
        LLDD_ON_IO_THREAD(*loop_);
        Hear(*token);
    });
    Visitor &visitor = visitors_[*token];
    visitor.socket = std::move(socket);
    const uint64_t user = CredentialsOf(visitor.socket.get()).uid;
    visitor.place = strangers_.Admit(user, [this, token](const char *) {
        LLDD_ON_IO_THREAD(*loop_);
        Dismiss(*token);
    });
}

void ChannelListener::Hear(EventLoop::Token token) {
    const auto found = visitors_.find(token);
    if (found == visitors_.end()) return;
    Visitor &visitor = found->second;
    const bool opens = !visitor.opened;
    const Status status = opens ? Open(&visitor) : Exchange(visitor);
    if (!status.ok()) LLDD_LOG(LLDD_LOG_INFO, "channel: %s", status.text().c_str());
    if (!opens || !status.ok()) Dismiss(token);
}

Status ChannelListener::Open(Visitor *visitor) {
    Opening opening;
    LLDD_RETURN_IF_ERROR(ReceivePart(visitor->socket.get(), &opening));
    const auto expected = expected_.find(opening.nonce);
    if (expected == expected_.end()) return Failure(LLDD_FAILED, "nobody expects that link");
    visitor->opened = true;
    visitor->opening.nonce = opening.nonce;
    visitor->opening.initiator = opening.challenge;
    LLDD_RETURN_IF_ERROR(FillRandom(&visitor->opening.acceptor));
    auto answer = NewPart<Answer>();
    answer.challenge = visitor->opening.acceptor;
    answer.proof = ProofOf(expected->second.key, LinkEnd::kAcceptor, visitor->opening);
    return SendPart(visitor->socket.get(), answer);
}

Status ChannelListener::Exchange(const Visitor &visitor) {
    const int socket = visitor.socket.get();
    Digest proof{};
    ChannelGift gift;
    Status received = Receive(socket, &proof, &gift);
    if (!received.ok() && !OutOfDescriptors(received.raw())) return received;
    const auto expected = expected_.find(visitor.opening.nonce);
    if (expected == expected_.end()) return Failure(LLDD_FAILED, "nobody expects that link");
    if (!IsProof(proof, expected->second.key, LinkEnd::kInitiator, visitor.opening))
        return Failure(LLDD_FAILED, "a visitor does not know the link that it names");
    if (!received.ok()) {
        LLDD_RETURN_IF_ERROR(Refuse(socket, static_cast<int>(received.raw())));
        return received;
    }
    const Taker take = std::move(expected->second.taker);
    expected_.erase(expected);
    ChannelGift own;
    LLDD_RETURN_IF_ERROR(take(std::move(gift), PeerPid(socket), &own));
    return Send(socket, {}, own);
}

void ChannelListener::Dismiss(EventLoop::Token visitor) {
    const auto found = visitors_.find(visitor);
    if (found == visitors_.end()) return;
    loop_->Remove(visitor);
    visitors_.erase(found);
}

namespace {

// Waits while the listener's queue is full.
Status ConnectChannel(int channel, const ChannelName &name, const Deadline &deadline) {
    sockaddr_un address;
    const socklen_t size = AddressOf(name, &address);
    do {
        const int ms = deadline.NextLookMs();
        const timeval patience{ms / 1000, static_cast<suseconds_t>(ms % 1000) * 1000 + 1};
        setsockopt(channel, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        if (connect(channel, reinterpret_cast<sockaddr *>(&address), size) == 0)
            return Status::Ok();
        if (errno != EAGAIN && errno != EINTR) {
            return ErrnoFailure(LLDD_FAILED, errno,
                                "not on this host or in another network namespace");
        }
        deadline.LookAtCaller();
    } while (!deadline.passed());
    return Failure(LLDD_TIMEOUT, "the peer's channel does not answer in time");
}

Status DialChannel(const ChannelName &name, const Deadline &deadline, Fd *channel) {
    Fd dialled(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!dialled) return ErrnoFailure(LLDD_LINK_FAILED, errno, "cannot make a socket");
    LLDD_RETURN_IF_ERROR(ConnectChannel(dialled.get(), name, deadline));
    *channel = std::move(dialled);
    return Status::Ok();
}

// Whoever holds the name, on this host, of a peer that may be on another one.
Status NotThePeer(int channel, const char *what) {
    const ucred holder = CredentialsOf(channel);
    Status status = Failure(LLDD_FAILED,
                            "process %d of user %u, which holds the name of the peer's channel, %s",
                            static_cast<int>(holder.pid), holder.uid, what);
    LLDD_LOG(LLDD_LOG_WARNING, "%s", status.text().c_str());
    return status;
}

// Each end proves to the other that it has the key: the acceptor first.
Status OpenChannel(int channel, const ChannelLink &link, const Deadline &deadline, Digest *proof) {
    ChannelOpening opened;
    opened.nonce = link.nonce;
    LLDD_RETURN_IF_ERROR(FillRandom(&opened.initiator));
    auto opening = NewPart<Opening>();
    opening.nonce = link.nonce;
    opening.challenge = opened.initiator;
    LLDD_RETURN_IF_ERROR(SendPart(channel, opening));
    const auto half = std::chrono::milliseconds(deadline.RemainingMs() / 2);
    const Deadline soon = deadline.OrAt(Deadline::Clock::now() + half);
    if (!WaitFor(channel, POLLIN, soon).ok()) {
        if (deadline.passed())
            return Failure(LLDD_TIMEOUT, "the peer's channel does not answer in time");
        return NotThePeer(channel, "does not answer");
    }
    Answer answer;
    LLDD_RETURN_IF_ERROR(ReceivePart(channel, &answer));
    opened.acceptor = answer.challenge;
    if (!IsProof(answer.proof, link.key, LinkEnd::kAcceptor, opened))
        return NotThePeer(channel, "is not the peer");
    *proof = ProofOf(link.key, LinkEnd::kInitiator, opened);
    return Status::Ok();
}

}  // namespace

Status ExchangeOverChannel(const ChannelName &name, const ChannelLink &link, const ChannelGift &own,
                           const Deadline &deadline, ChannelGift *gift, pid_t *pid) {
    Fd channel;
    Digest proof{};
    LLDD_RETURN_IF_ERROR(DialChannel(name, deadline, &channel));
    LLDD_RETURN_IF_ERROR(OpenChannel(channel.get(), link, deadline, &proof));
    LLDD_RETURN_IF_ERROR(Send(channel.get(), proof, own));
    if (!WaitFor(channel.get(), POLLIN, deadline).ok()) {
        return Failure(LLDD_TIMEOUT, "the peer's channel does not answer in time");
    }
    LLDD_RETURN_IF_ERROR(Receive(channel.get(), &proof, gift));
    *pid = PeerPid(channel.get());
    return Status::Ok();
}

}  // namespace lldd::mock
