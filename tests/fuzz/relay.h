// What stands between two engines that link, and changes what they say.
//
// It knows greetings and frames, so that a change is one of a message: which connection, which of
// the two directions, which message, what is changed. Everything else, such as a proof, is as the
// engines make it, whatever the protocol is.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <list>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/socket.h"
#include "engine/keys.h"
#include "engine/wire.h"
#include "target.h"

namespace lldd::fuzz {

// A change of one message, or beside it.
struct Change {
    enum class How : uint8_t {
        kFlip,      // other bits at a place
        kNumber,    // four bytes at a place become a number
        kCut,       // its end is missing; the header tells so
        kTear,      // its end is missing, and the header does not tell
        kGrow,      // more bytes at its end; the header tells so
        kReplace,   // another body; the header tells so
        kDrop,      // it does not come
        kTwice,     // it comes twice
        kKind,      // its header says another kind
        kInsert,    // another message comes before it
        kEarlier,   // an earlier message of the direction comes in its place
        kReplay,    // what the connection has said so far is said on a new one
        kStranger,  // bytes come on a new connection
        kHangUp,    // the connection ends before it
        kSwap,      // it comes after the next one
    };
    static constexpr size_t kHows = 15;

    uint8_t connection = 0;
    bool back = false;  // from the one that accepted
    uint8_t message = 0;
    How how = How::kFlip;
    uint8_t place = 0;
    uint8_t value = 0;
    std::string bytes;

    static Change From(Input *in);
};

// A change in the bytes of an input; bit 7 of `message`: it is one of the other direction.
std::string ChangeTo(uint8_t connection, uint8_t message, Change::How how, uint8_t place,
                     uint8_t value, const std::string &bytes = "");

// Bytes that must not come from the victim, whichever messages they are cut into.
class Watch {
public:
    Watch() = default;
    // All of one length.
    explicit Watch(std::vector<std::string> words) : words_(std::move(words)) {}
    void Look(std::string_view bytes);

private:
    std::vector<std::string> words_;
    std::string tail_;
};

class Relay {
public:
    Relay();

    uint32_t port() const { return address_.port(); }
    // Passes on what comes to the relay until Finish: to the victim and back, changed. When nothing
    // moves any more, since a message is missing, all connections end, and so does the call if
    // `until_stalled`.
    void Run(const SocketAddress &victim, std::vector<Change> changes,
             const std::vector<std::string> &forbidden, bool until_stalled = false);
    // Any thread.
    void Finish();

private:
    // One direction of a connection.
    struct Way {
        int from = -1;
        int to = -1;
        std::string bytes;  // that are no message yet
        size_t messages = 0;
        bool greeted = false;
        bool framed = false;
        size_t unframed = 0;  // bytes of proofs before the frames
        int accepted = -1;    // of what the victim says: its connection
        std::vector<std::string> said;
        std::string later;  // comes after the next message
        Watch watch;
    };
    struct Connection {
        Fd client;
        Fd victim;
        Way ways[2];
        bool open = true;
    };

    void Accept(const SocketAddress &victim, const std::vector<std::string> &forbidden);
    bool Pass(Connection *connection, size_t number, bool back);
    static bool NextMessage(Way *way, std::string *message);
    void Tell(Connection *connection, size_t number, bool back, std::string message);
    void Apply(const Change &change, Connection *connection, Way *way, std::string *message);
    void OnNewConnection(const std::string &bytes);
    void HangUp(Connection *connection);

    SocketAddress address_;
    SocketAddress victim_;
    Fd listener_;
    Fd finished_;  // an eventfd
    std::vector<Change> changes_;
    std::list<Connection> connections_;
    std::vector<Fd> strangers_;
    bool over_ = false;
};

}  // namespace lldd::fuzz
