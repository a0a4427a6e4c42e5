// SPDX-License-Identifier: Apache-2.0
#include "engine/rendezvous.h"

#include <sys/epoll.h>

#include <cstdlib>
#include <utility>

#include "base/io_thread.h"
#include "base/log.h"
#include "engine/control_channel.h"
#include "engine/wire.h"

namespace lldd {
namespace {

constexpr char kVariable[] = "LLM_DATADIST_RENDEZVOUS";
// The holder is another process, maybe on another host: no event tells this one that it has come.
constexpr uint64_t kAgainMs = 50;
// A visitor that has sent no card within this time is not a member.
constexpr uint64_t kCardMs = 10'000;
constexpr size_t kMaxSessions = 512;

}  // namespace

// A connection between a member and the holder.
class Rendezvous::Session {
public:
    Session(EventLoop *loop, Fd socket, uint32_t peer_timeout_ms)
        : channel(loop, Watched(std::move(socket), peer_timeout_ms)) {
        channel.SetMaxBody(kMaxMeetingCard);
    }

    void Tell(const MeetingCard &other) { channel.Tell(wire::kCard, other.Encode()); }

    ControlChannel channel;
    EventLoop::Token timer = 0;
    bool introduced = false;
    MeetingCard card;

private:
    static Fd Watched(Fd socket, uint32_t peer_timeout_ms) {
        WatchPeerHost(socket.get(), peer_timeout_ms);
        return socket;
    }
};

// The holder's part in one meeting.
class Rendezvous::Held final : public Meeting {
public:
    Held(Rendezvous *rendezvous, MeetingCard card, MeetingCardHandler handler)
        : rendezvous_(rendezvous), card_(std::move(card)), on_card_(std::move(handler)) {
        rendezvous_->held_[card_.name] = this;
    }
    ~Held() override { rendezvous_->held_.erase(card_.name); }

    const MeetingCard &card() const { return card_; }
    void OnCard(const MeetingCard &other) const { on_card_(other); }

private:
    Rendezvous *const rendezvous_;
    const MeetingCard card_;
    const MeetingCardHandler on_card_;
};

// Any other member's part: dials until it gets through, and again when the connection breaks.
class Rendezvous::Visiting final : public Meeting, public std::enable_shared_from_this<Visiting> {
public:
    Visiting(EventLoop *loop, const SocketAddress &address, uint32_t peer_timeout_ms,
             MeetingCard own, MeetingCardHandler on_card)
        : loop_(loop),
          address_(address),
          peer_timeout_ms_(peer_timeout_ms),
          own_(std::move(own)),
          on_card_(std::move(on_card)) {}
    ~Visiting() override { Stop(); }

    void Dial() {
        timer_ = 0;
        const Status status = StartConnect(address_, &dialling_);
        if (!status.ok()) {
            DialAgain();
            return;
        }
        token_ = loop_->Watch(dialling_.get(), EPOLLOUT, [weak = weak_from_this()](uint32_t) {
            const auto self = weak.lock();
            if (self != nullptr) self->OnDialled();
        });
    }

    void Stop() {
        loop_->Cancel(timer_);
        if (token_ != 0) loop_->Remove(token_);
        token_ = 0;
        dialling_.Close();
        if (session_ != nullptr) session_->channel.Close();
        session_.reset();
    }

private:
    void OnDialled() {
        LLDD_ON_IO_THREAD(*loop_);
        const Status status = ConnectResult(dialling_.get(), address_);
        loop_->Remove(token_);
        token_ = 0;
        Fd socket = std::move(dialling_);
        if (!status.ok()) {
            DialAgain();
            return;
        }
        // The way to the holder is the way to the others, as far as this process can tell.
        own_.ip = SocketAddress::OfSocket(socket.get()).ip();
        session_ = std::make_shared<Session>(loop_, std::move(socket), peer_timeout_ms_);
        const std::weak_ptr<Visiting> weak = weak_from_this();
        session_->channel.Start(
            weak,
            [weak](uint16_t kind, uint32_t, std::string_view body) {
                const auto self = weak.lock();
                MeetingCard card;
                if (self != nullptr && kind == wire::kCard && card.Decode(body))
                    self->on_card_(card);
            },
            [weak] {
                const auto self = weak.lock();
                if (self != nullptr) self->DialAgain();
            });
        session_->Tell(own_);
    }

    void DialAgain() {
        timer_ = loop_->PostAt(Deadline::InMs(kAgainMs), [weak = weak_from_this()] {
            const auto self = weak.lock();
            if (self == nullptr) return;
            self->session_.reset();
            self->Dial();
        });
    }

    EventLoop *const loop_;
    const SocketAddress address_;
    const uint32_t peer_timeout_ms_;
    MeetingCard own_;
    const MeetingCardHandler on_card_;
    Fd dialling_;
    EventLoop::Token token_ = 0;
    EventLoop::Token timer_ = 0;
    std::shared_ptr<Session> session_;
};

namespace {

// Visiting is shared with its handlers; this is the one owner that ends it.
template <typename T>
class SharedMeeting final : public Meeting {
public:
    explicit SharedMeeting(std::shared_ptr<T> meeting) : meeting_(std::move(meeting)) {}
    ~SharedMeeting() override { meeting_->Stop(); }

private:
    const std::shared_ptr<T> meeting_;
};

}  // namespace

Status Rendezvous::FromEnvironment(bool *given, SocketAddress *address) {
    const char *text = std::getenv(kVariable);
    *given = text != nullptr && text[0] != '\0';
    if (!*given) return Status::Ok();
    std::string ip = text;
    const size_t colon = ip.rfind(':');
    const std::string port = colon == std::string::npos ? "" : ip.substr(colon + 1);
    const bool digits = !port.empty() && port.size() <= 5 &&
                        port.find_first_not_of("0123456789") == std::string::npos;
    if (digits) ip.erase(colon);
    if (ip.size() > 2 && ip.front() == '[' && ip.back() == ']') ip = ip.substr(1, ip.size() - 2);
    Status status = digits
                        ? SocketAddress::Parse(ip, static_cast<uint32_t>(std::stoul(port)), address)
                        : Failure(LLDD_PARAM_INVALID, "no port");
    if (status.ok() && address->port() != 0) return status;
    return Failure(LLDD_PARAM_INVALID, "%s is \"%s\", it must be ip:port or [ip]:port", kVariable,
                   text);
}

Rendezvous::~Rendezvous() {
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        listener_.Stop();
        while (!sessions_.empty()) End(*sessions_.begin());
    });
}

Status Rendezvous::Attend(bool holds, MeetingCard own, MeetingCardHandler on_card,
                          std::unique_ptr<Meeting> *meeting) {
    LLDD_ON_IO_THREAD(*loop_);
    if (!holds) {
        const auto visiting = std::make_shared<Visiting>(loop_, address_, peer_timeout_ms_,
                                                         std::move(own), std::move(on_card));
        visiting->Dial();
        *meeting = std::make_unique<SharedMeeting<Visiting>>(visiting);
        return Status::Ok();
    }
    const std::string name = own.name;
    if (held_.count(name) != 0) {
        return Failure(LLDD_LINK_FAILED, "this member waits for the others of \"%s\" already",
                       name.c_str());
    }
    if (!listener_.listening()) {
        Fd socket;
        const Status status = Listen(address_, &socket);
        if (!status.ok())
            return Status(LLDD_LINK_FAILED, std::string(kVariable) + ": " + status.text(),
                          status.raw());
        listener_.Start(std::move(socket), [this](Fd visitor) {
            LLDD_ON_IO_THREAD(*loop_);
            OnVisitor(std::move(visitor));
        });
    }
    own.ip = address_.ip();
    auto held = std::make_unique<Held>(this, std::move(own), std::move(on_card));
    const Held &present = *held;
    *meeting = std::move(held);
    // Some may have come before.
    for (const SessionPtr &session : std::set<SessionPtr>(sessions_)) {
        if (session->introduced && session->card.name == name) Introduce(session, present);
    }
    return Status::Ok();
}

void Rendezvous::OnVisitor(Fd socket) {
    if (sessions_.size() >= kMaxSessions) return;
    const auto session = std::make_shared<Session>(loop_, std::move(socket), peer_timeout_ms_);
    const std::weak_ptr<Session> weak = session;
    sessions_.insert(session);
    session->timer = loop_->PostAt(Deadline::InMs(kCardMs), [this, weak] {
        const SessionPtr silent = weak.lock();
        LLDD_ON_IO_THREAD(*loop_);
        if (silent != nullptr && !silent->introduced) End(silent);
    });
    session->channel.Start(
        weak,
        [this, weak](uint16_t kind, uint32_t, std::string_view body) {
            const SessionPtr known = weak.lock();
            LLDD_ON_IO_THREAD(*loop_);
            if (known == nullptr) return;
            if (kind == wire::kCard) {
                OnCard(known, body);
            } else {
                End(known);
            }
        },
        [this, weak] {
            const SessionPtr gone = weak.lock();
            LLDD_ON_IO_THREAD(*loop_);
            if (gone != nullptr) End(gone);
        });
}

void Rendezvous::OnCard(const SessionPtr &session, std::string_view body) {
    if (session->introduced || !session->card.Decode(body)) {
        End(session);
        return;
    }
    session->introduced = true;
    const auto held = held_.find(session->card.name);
    if (held != held_.end()) Introduce(session, *held->second);
}

// Makes a member known to the holder and to all that have come, and these to it.
void Rendezvous::Introduce(const SessionPtr &session, const Held &held) {
    const MeetingCard card = session->card;
    session->Tell(held.card());
    for (const SessionPtr &other : sessions_) {
        if (other == session || !other->introduced || other->card.name != card.name) continue;
        other->Tell(card);
        session->Tell(other->card);
    }
    held.OnCard(card);
}

void Rendezvous::End(const SessionPtr &session) {
    const SessionPtr ended = session;
    loop_->Cancel(ended->timer);
    ended->channel.Close();
    sessions_.erase(ended);
}

}  // namespace lldd
