// SPDX-License-Identifier: Apache-2.0
#include "engine/rendezvous.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "base/hmac.h"
#include "base/io_thread.h"
#include "base/log.h"
#include "engine/control_channel.h"
#include "engine/keys.h"
#include "engine/wire.h"

namespace lldd {
namespace {

constexpr char kVariable[] = "LLM_DATADIST_RENDEZVOUS";
// The holder is another process, maybe on another host: no event tells this one that it has come.
constexpr uint64_t kAgainMs = 50;
// A visitor that is not a member of a communicator within this time is sent away.
constexpr uint64_t kCardMs = 10'000;
constexpr size_t kMaxSessions = 512;
// What visitors that are not members may hold of cards, complete or not.
constexpr size_t kMaxStrangersCards = 16U << 20;
constexpr uint32_t kGreetingBytes = wire::Hello::kSize + kProofBytes;

wire::Hello MeetingHello() {
    wire::Hello hello;
    hello.purpose = wire::Purpose::kMeeting;
    hello.auth = wire::Auth::kHmacSha256;
    hello.nonce = RandomNonce();
    return hello;
}

bool IsProof(std::string_view proof, const LinkKey &key, LinkEnd sender, std::string_view label,
             std::string_view message) {
    return SameDigest(proof, Proof(key, sender, label, message));
}

}  // namespace

// A connection between a member and the holder: either's end of it.
class Rendezvous::Session {
public:
    Session(EventLoop *loop, Fd socket, LinkEnd own_end, bool has_secret, uint32_t peer_timeout_ms)
        : channel(loop, Watched(std::move(socket), peer_timeout_ms)),
          own_end_(own_end),
          has_secret_(has_secret) {
        channel.SetMaxBody(has_secret ? kGreetingBytes : kMaxMeetingCard);
    }

    bool has_secret() const { return has_secret_; }
    // From now on cards may come.
    void SetKey(const LinkKey &key) {
        key_ = key;
        keyed_ = true;
        channel.SetMaxBody(kMaxMeetingCard + kProofBytes);
    }
    bool may_have_cards() const { return keyed_ || !has_secret_; }

    void Tell(const MeetingCard &other) {
        const std::string encoded = other.Encode();
        const std::string proof =
            has_secret_ ? Proof(key_, own_end_, kCardLabel, encoded) : std::string();
        channel.Tell(wire::kCard, proof + encoded);
    }
    // False: it is none, or does not come from who has the secret.
    bool Read(std::string_view body, MeetingCard *read) const {
        if (!may_have_cards()) return false;
        if (has_secret_) {
            const std::string_view proof = body.substr(0, kProofBytes);
            body.remove_prefix(proof.size());
            const LinkEnd sender =
                own_end_ == LinkEnd::kInitiator ? LinkEnd::kAcceptor : LinkEnd::kInitiator;
            if (!IsProof(proof, key_, sender, kCardLabel, body)) return false;
        }
        return read->Decode(body);
    }

    ControlChannel channel;
    // Of the holder's end. One with a place is a stranger.
    Strangers::Place place;
    uint64_t origin = 0;
    bool has_card = false;
    bool introduced = false;
    MeetingCard card;

private:
    static Fd Watched(Fd socket, uint32_t peer_timeout_ms) {
        WatchPeerHost(socket.get(), peer_timeout_ms);
        return socket;
    }

    const LinkEnd own_end_;
    const bool has_secret_;
    bool keyed_ = false;
    LinkKey key_{};
};

// The holder's part in one meeting.
class Rendezvous::Held final : public Meeting {
public:
    Held(Rendezvous *rendezvous, MeetingCard card, std::vector<uint64_t> others,
         MeetingCardHandler handler)
        : rendezvous_(rendezvous),
          card_(std::move(card)),
          others_(std::move(others)),
          on_card_(std::move(handler)) {
        rendezvous_->held_[card_.name] = this;
    }
    ~Held() override { rendezvous_->held_.erase(card_.name); }

    const MeetingCard &card() const { return card_; }
    bool IsMember(uint64_t cluster_id) const {
        return std::find(others_.begin(), others_.end(), cluster_id) != others_.end();
    }
    void OnCard(const MeetingCard &other) const { on_card_(other); }

private:
    Rendezvous *const rendezvous_;
    const MeetingCard card_;
    const std::vector<uint64_t> others_;
    const MeetingCardHandler on_card_;
};

// Any other member's part: dials until it gets through, and again when the connection breaks.
class Rendezvous::Visiting final : public Meeting, public std::enable_shared_from_this<Visiting> {
public:
    Visiting(EventLoop *loop, const SocketAddress &address, const SocketAddress &from,
             std::string secret, uint32_t peer_timeout_ms, MeetingCard own,
             MeetingCardHandler on_card)
        : loop_(loop),
          address_(address),
          from_(from),
          secret_(std::move(secret)),
          peer_timeout_ms_(peer_timeout_ms),
          own_(std::move(own)),
          on_card_(std::move(on_card)) {}
    ~Visiting() override { Stop(); }

    void Dial() {
        timer_ = 0;
        const Status status = StartConnect(address_, from_, &dialling_);
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
        session_ = std::make_shared<Session>(loop_, std::move(socket), LinkEnd::kInitiator,
                                             !secret_.empty(), peer_timeout_ms_);
        const std::weak_ptr<Visiting> weak = weak_from_this();
        session_->channel.Start(
            weak,
            [weak](uint16_t kind, uint32_t, std::string_view body) {
                if (const auto self = weak.lock()) self->OnFrame(kind, body);
            },
            [weak] {
                const auto self = weak.lock();
                if (self != nullptr) self->DialAgain();
            });
        if (secret_.empty()) {
            session_->Tell(own_);
            return;
        }
        hello_ = MeetingHello();
        const auto bytes = hello_.Encode();
        session_->channel.Tell(wire::kGreeting, {bytes.data(), bytes.size()});
    }

    void OnFrame(uint16_t kind, std::string_view body) {
        MeetingCard card;
        if (kind == wire::kGreeting && !session_->may_have_cards()) {
            if (OnGreeting(body)) return;
        } else if (kind == wire::kCard && session_->Read(body, &card)) {
            on_card_(card);
            return;
        } else if (secret_.empty()) {
            return;
        }
        LLDD_LOG(LLDD_LOG_WARNING, "what is at the rendezvous %s has another auth token",
                 address_.ToString().c_str());
        session_->channel.Close();
        DialAgain();
    }

    // The holder proves itself; only then it learns what this member is.
    bool OnGreeting(std::string_view body) {
        wire::Hello holder;
        if (body.size() != kGreetingBytes || !holder.Decode(body.substr(0, holder.kSize)).ok() ||
            holder.auth != hello_.auth)
            return false;
        const LinkKey key = DeriveKey(secret_, hello_, holder);
        if (!IsProof(body.substr(holder.kSize), key, LinkEnd::kAcceptor, kGreetingLabel, {}))
            return false;
        session_->SetKey(key);
        session_->Tell(own_);
        return true;
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
    const SocketAddress from_;
    const std::string secret_;
    const uint32_t peer_timeout_ms_;
    wire::Hello hello_;
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

Rendezvous::Rendezvous(EventLoop *loop, const SocketAddress &address, const SocketAddress &from,
                       std::string secret, uint32_t peer_timeout_ms)
    : loop_(loop),
      address_(address),
      from_(from),
      secret_(std::move(secret)),
      peer_timeout_ms_(peer_timeout_ms),
      strangers_(loop, "the rendezvous", {kMaxSessions, kCardMs, kMaxStrangersCards}),
      listener_(loop) {}

Rendezvous::~Rendezvous() {
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        listener_.Stop();
        while (!sessions_.empty()) End(*sessions_.begin());
    });
}

Status Rendezvous::Attend(bool holds, MeetingCard own, std::vector<uint64_t> others,
                          MeetingCardHandler on_card, std::unique_ptr<Meeting> *meeting) {
    LLDD_ON_IO_THREAD(*loop_);
    if (!holds) {
        const auto visiting = std::make_shared<Visiting>(
            loop_, address_, from_, secret_, peer_timeout_ms_, std::move(own), std::move(on_card));
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
    auto held = std::make_unique<Held>(this, std::move(own), std::move(others), std::move(on_card));
    const Held &present = *held;
    *meeting = std::move(held);
    // Some may have come before.
    for (const SessionPtr &session : std::set<SessionPtr>(sessions_)) {
        if (session->has_card && session->card.name == name) Introduce(session, present);
    }
    return Status::Ok();
}

void Rendezvous::OnVisitor(Fd socket) {
    const uint64_t origin = SocketAddress::OfPeer(socket.get()).Network();
    const auto session = std::make_shared<Session>(loop_, std::move(socket), LinkEnd::kAcceptor,
                                                   !secret_.empty(), peer_timeout_ms_);
    const std::weak_ptr<Session> weak = session;
    sessions_.insert(session);
    BecomeStranger(session, origin);
    session->channel.SetHeldHandler([this, weak](size_t bytes) {
        const SessionPtr known = weak.lock();
        LLDD_ON_IO_THREAD(*loop_);
        if (known != nullptr && !known->has_card) known->place.Hold(bytes);
    });
    session->channel.Start(
        weak,
        [this, weak](uint16_t kind, uint32_t, std::string_view body) {
            const SessionPtr known = weak.lock();
            LLDD_ON_IO_THREAD(*loop_);
            if (known != nullptr && !OnFrame(known, kind, body)) End(known);
        },
        [this, weak] {
            const SessionPtr gone = weak.lock();
            LLDD_ON_IO_THREAD(*loop_);
            if (gone != nullptr) End(gone);
        });
}

void Rendezvous::BecomeStranger(const SessionPtr &session, uint64_t origin) {
    session->introduced = false;
    session->origin = origin;
    session->place =
        strangers_.Admit(origin, [this, weak = std::weak_ptr<Session>(session)](const char *) {
            const SessionPtr ended = weak.lock();
            LLDD_ON_IO_THREAD(*loop_);
            if (ended != nullptr) End(ended);
        });
}

bool Rendezvous::OnFrame(const SessionPtr &session, uint16_t kind, std::string_view body) {
    if (kind == wire::kCard) return OnCard(session, body);
    return kind == wire::kGreeting && !session->may_have_cards() && OnGreeting(session.get(), body);
}

bool Rendezvous::OnGreeting(Session *session, std::string_view body) {
    wire::Hello visitor;
    const wire::Hello own = MeetingHello();
    if (!visitor.Decode(body).ok() || visitor.purpose != own.purpose || visitor.auth != own.auth)
        return false;
    const LinkKey key = DeriveKey(secret_, visitor, own);
    const auto bytes = own.Encode();
    session->channel.Tell(wire::kGreeting, std::string(bytes.begin(), bytes.end()) +
                                               Proof(key, LinkEnd::kAcceptor, kGreetingLabel, {}));
    session->SetKey(key);
    return true;
}

bool Rendezvous::OnCard(const SessionPtr &session, std::string_view body) {
    if (session->has_card || !session->Read(body, &session->card)) return false;
    session->has_card = true;
    session->place.Hold(body.size());
    const auto held = held_.find(session->card.name);
    if (held != held_.end()) Introduce(session, *held->second);
    return true;
}

// Makes a member known to the holder and to all that have come, and these to it. Who is none learns
// only what the holder attends, and the holder what it says, so that both can tell the difference.
void Rendezvous::Introduce(const SessionPtr &session, const Held &held) {
    const MeetingCard card = session->card;
    session->Tell(held.card());
    if (held.IsMember(card.cluster_id)) {
        for (const SessionPtr &other : std::set<SessionPtr>(sessions_)) {
            if (other == session || !other->introduced || other->card.name != card.name) continue;
            if (other->card.cluster_id == card.cluster_id) {
                // The same member once more: this is its younger connection.
                BecomeStranger(other, other->origin);
                continue;
            }
            other->Tell(card);
            session->Tell(other->card);
        }
        session->introduced = true;
        session->place.Leave();
    }
    held.OnCard(card);
}

void Rendezvous::End(const SessionPtr &session) {
    const SessionPtr ended = session;
    ended->place.Leave();
    ended->channel.Close();
    sessions_.erase(ended);
}

}  // namespace lldd
