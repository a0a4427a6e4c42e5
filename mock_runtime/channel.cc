// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/channel.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include "base/io_thread.h"
#include "base/log.h"
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

struct Message {
    uint32_t magic;
    uint32_t version;
    uint8_t nonce[16];
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

Message MessageFor(const LinkNonce &nonce) {
    Message message{};
    message.magic = kMagic;
    message.version = kVersion;
    std::memcpy(message.nonce, nonce.data(), nonce.size());
    return message;
}

Status Refuse(int socket, const LinkNonce &nonce, int error) {
    Message message = MessageFor(nonce);
    message.refused = static_cast<uint32_t>(error);
    if (send(socket, &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT) !=
        static_cast<ssize_t>(sizeof message)) {
        return ErrnoFailure(LLDD_FAILED, errno, "cannot send over the channel");
    }
    return Status::Ok();
}

Status Send(int socket, const LinkNonce &nonce, const ChannelGift &gift) {
    Message message = MessageFor(nonce);
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

// *nonce is that of a message that was in order, also where its descriptors could not be taken.
Status Receive(int socket, LinkNonce *nonce, ChannelGift *gift) {
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
    if (in_order) std::memcpy(nonce->data(), message.nonce, nonce->size());
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

void ChannelListener::Expect(const LinkNonce &nonce, Taker taker) {
    loop_->RunAndWait([&] {
        LLDD_ON_IO_THREAD(*loop_);
        takers_[nonce] = std::move(taker);
    });
}

void ChannelListener::Forget(const LinkNonce &nonce) {
    loop_->RunAndWait([&] {
        LLDD_ON_IO_THREAD(*loop_);
        takers_.erase(nonce);
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

void ChannelListener::Hear(EventLoop::Token visitor) {
    const auto found = visitors_.find(visitor);
    if (found == visitors_.end()) return;
    const Status answered = Answer(found->second.socket.get());
    if (!answered.ok()) LLDD_LOG(LLDD_LOG_INFO, "channel: %s", answered.text().c_str());
    Dismiss(visitor);
}

Status ChannelListener::Answer(int socket) {
    LinkNonce nonce{};
    ChannelGift gift;
    Status received = Receive(socket, &nonce, &gift);
    if (OutOfDescriptors(received.raw()))
        LLDD_RETURN_IF_ERROR(Refuse(socket, nonce, static_cast<int>(received.raw())));
    LLDD_RETURN_IF_ERROR(std::move(received));
    const auto taker = takers_.find(nonce);
    if (taker == takers_.end()) return Failure(LLDD_FAILED, "nobody expects that link");
    const Taker take = std::move(taker->second);
    takers_.erase(taker);
    ChannelGift own;
    LLDD_RETURN_IF_ERROR(take(std::move(gift), PeerPid(socket), &own));
    return Send(socket, nonce, own);
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

}  // namespace

Status ExchangeOverChannel(const ChannelName &name, const LinkNonce &nonce, const ChannelGift &own,
                           const Deadline &deadline, ChannelGift *gift, pid_t *pid) {
    Fd channel(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!channel) return ErrnoFailure(LLDD_LINK_FAILED, errno, "cannot make a socket");
    LLDD_RETURN_IF_ERROR(ConnectChannel(channel.get(), name, deadline));
    LLDD_RETURN_IF_ERROR(Send(channel.get(), nonce, own));
    if (!WaitFor(channel.get(), POLLIN, deadline).ok()) {
        return Failure(LLDD_TIMEOUT, "the peer's channel does not answer in time");
    }
    LinkNonce answered{};
    LLDD_RETURN_IF_ERROR(Receive(channel.get(), &answered, gift));
    if (answered != nonce) return Failure(LLDD_FAILED, "the channel answered for another link");
    *pid = PeerPid(channel.get());
    return Status::Ok();
}

}  // namespace lldd::mock
