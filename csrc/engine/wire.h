// The control protocol between two engines: what is on the TCP connection of a link.
//
// Every connection to a listener begins with a Hello of fixed size, which says what the connection
// is for; greeting.h has what follows, and the proofs. All numbers are little-endian. What comes
// then depends on the purpose:
//
//   kLink        frames, see FrameHeader. The handshake is LinkRequest ->, <- LinkReply,
//                LinkConfirm ->, <- LinkDone; afterwards both ends send requests and answer them in
//                any order. Closing the connection ends the link at the peer.
//   kStream*     the connection is a byte stream of the runtime; the nonce of the Hello is that of
//                its link.
//
// A peer is not trusted: every length is checked against what is there and against a bound before
// memory is taken for it.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/runtime.h"

namespace lldd::wire {

constexpr uint32_t kMagic = 0x4444'4C4C;  // "LLDD" in the order of the bytes

// Both ends must speak the same version: an end that reads another one in a greeting or a card
// refuses the peer, and names both. It grows when an end that does not know of a change would
// misread a message or miss a promise.
//   1  the first
//   2  the greeting has a word of features; a cache has its dimensions, an answer to kLocate the
//      data types; kMessage, with which a runtime may fence off what a failed push has left
constexpr uint16_t kVersion = 2;

// What an end can do beyond what its version says, one bit each, in its greeting: optional kinds of
// messages, and optional ends of bodies. A bit that is not known here is ignored, so a feature needs
// no new version.
//
// To add one: define `constexpr uint32_t kFeatureX = 1u << n` here with the next free bit, with a
// comment that says what an end that sets it understands; add it to kOwnFeatures; and let the
// sender use it only on a link whose Link::Identity::peer_features has it. No bit is used again for
// something else within one version. Without a secret nothing proves a greeting: nothing that protects
// an end may depend on a bit.
constexpr uint32_t kFeatureReports = 1u << 0;  // takes kReport
constexpr uint32_t kFeatureEvents = 1u << 1;   // takes kEventsWanted and kEvent
constexpr uint32_t kOwnFeatures = kFeatureReports | kFeatureEvents;
// Of an engine with a box: takes kBoxCalls and kBoxClock. In the greetings of such an engine only.
constexpr uint32_t kFeatureBox = 1u << 8;

// "the other end speaks version 1 of the control protocol, this end 2"; `who` is the subject.
Status OtherVersion(const char *who, uint16_t version);

enum class Purpose : uint8_t {
    kLink = 1,
    kStreamInitiatorAsks = 2,
    kStreamAcceptorAsks = 3,
    kMeeting = 4,  // in a frame, at a rendezvous: see kGreeting
};

// How the two ends prove that they know the shared secret.
//   kHmacSha256  both prove it in the greeting, and a LinkRequest and its successful LinkReply carry
//                a proof of the message: see greeting.h.
enum class Auth : uint8_t { kNone = 0, kHmacSha256 = 1 };

struct Hello {
    Purpose purpose = Purpose::kLink;
    Auth auth = Auth::kNone;
    uint32_t features = kOwnFeatures;
    // Of a link: the sender's cluster id; with a secret 0, because it is not told before the other end
    // has proved itself. Of a stream with a secret: a number that its sender has not used before.
    uint64_t id = 0;
    LinkNonce nonce{};  // fresh random bytes; of a stream's initiator: the nonce of the link

    // In every version: magic and version come first, and it has this size.
    static constexpr size_t kSize = 36;
    std::array<char, kSize> Encode() const;
    // LLDD_LINK_FAILED with what is wrong.
    Status Decode(std::string_view bytes);
};

// What a frame is. An answer has the kind of its request with kAnswer added, and its request_id.
enum Kind : uint16_t {
    kLinkRequest = 1,  // LinkRequest; answered by a LinkReply
    kLinkConfirm = 2,  // StatusBody; answered by a StatusBody (LinkDone)
    kUnlink = 3,       // empty; answered by an empty frame, then the connection closes
    kTable = 4,        // empty; answered by the cache table, see peer_table.h; empty: too large
    // Acceptor to initiator, empty; answered by a StatusBody when the stream is on its way.
    kDialStream = 5,
    // Request mode: Resolve; answered by a ResolveReply, which may have to wait for another pull.
    kResolve = 6,
    kRelease = 7,    // request mode: Release; answered by an empty frame
    kLocate = 8,     // request mode: Locate; answered by a LocateReply
    kCard = 9,       // at a rendezvous: with a secret a proof, then a MeetingCard; not answered
    kMessage = 10,   // of the runtime, see StreamProvider::Ask; answered by an empty frame
    kGreeting = 11,  // at a rendezvous with a secret: a Hello; the holder's has its proof behind it
    kSums = 12,      // Sums; answered by a SumsReply, which takes as long as reading the memory
    kHeartbeat = 13,  // whether the other end is there, empty; answered by an empty frame
    // Report of wire_report.h, to an end with kFeatureReports; not answered.
    kReport = 14,
    // One byte, 1: tell this end of each transfer over the link, 0: no more; answered by an empty frame.
    // To an end with kFeatureEvents, as is the next one.
    kEventsWanted = 15,
    kBoxCalls = 16,  // BoxCalls of wire_box.h, to an end with kFeatureBox; not answered
    kBoxClock = 17,  // BoxClock; not answered
    kEvent = 18,     // TransferEvent of wire_event.h; not answered
    // The address of another client with this end's cluster id, whose link takes the place of this one,
    // which closes; not answered.
    kReplaced = 19,
    kAnswer = 0x8000,
};

struct FrameHeader {
    uint32_t body_size = 0;
    uint16_t kind = 0;
    uint16_t reserved = 0;
    uint32_t request_id = 0;

    static constexpr size_t kSize = 12;
    std::array<char, kSize> Encode() const;
    static FrameHeader Decode(std::string_view bytes);  // at least kSize bytes
};

// The largest frame body accepted: a cache table of a million tensors fits.
constexpr uint32_t kMaxBody = 64u << 20;
// The largest from a peer that is not linked yet: an endpoint with a quarter of a million regions.
constexpr uint32_t kMaxStrangersBody = 8u << 20;

struct LinkRequest {
    uint64_t cluster_id = 0;
    uint32_t mode = 0;        // LLDD_MODE_*
    uint32_t link_style = 0;  // LLDD_LINK_STYLE_*
    bool replace = false;     // the initiator has no link to the acceptor: an old one is dropped
    LinkNonce nonce{};
    std::string group;     // the name of a communicator; "": made by link_clusters
    std::string endpoint;  // of the initiator's runtime
    std::string proof;     // last; Encode leaves it out when it is empty, for what is proved

    std::string Encode() const;
    bool Decode(std::string_view body);
};

struct LinkReply {
    lldd_status status = LLDD_SUCCESS;
    std::string text;      // what is wrong, for people
    std::string endpoint;  // of the acceptor's runtime
    std::string proof;     // as in LinkRequest

    std::string Encode() const;
    bool Decode(std::string_view body);
};

struct StatusBody {
    lldd_status status = LLDD_SUCCESS;
    std::string text;

    static StatusBody Of(const Status &status) { return {status.code(), status.text()}; }
    Status ToStatus() const { return status == LLDD_SUCCESS ? Status::Ok() : Status(status, text); }
    std::string Encode() const;
    bool Decode(std::string_view body);
};

// Which cache a key means: the members of lldd_cache_key that count.
struct Resolve {
    uint64_t pin = 0;  // chosen by the puller: what Release names
    lldd_cache_key key{};

    std::string Encode() const;
    bool Decode(std::string_view body);
};

struct ResolveReply {
    StatusBody status;
    uint64_t batch_index = 0;
    bool owner_has_device_pool = false;
    std::string cache;  // see DecodeCache in peer_table.h

    std::string Encode() const;
    bool Decode(std::string_view body);
};

struct Release {
    uint64_t pin = 0;
    bool done = false;  // the bytes have arrived
    uint32_t first_tensor = 0;
    uint32_t num_tensors = 0;  // 0: all of them

    std::string Encode() const;
    bool Decode(std::string_view body);
};

// Addresses that should lie in caches of the peer.
struct Locate {
    std::vector<uint64_t> addrs;

    std::string Encode() const;
    bool Decode(std::string_view body);
};

struct LocateReply {
    // What an address lies in.
    struct Place {
        uint64_t end = 0;        // where the tensor ends
        uint32_t data_type = 0;  // LLDD_TYPE_*, or kSeveralTypes of tensor.h
    };
    StatusBody status;
    std::vector<Place> places;  // one for each address

    std::string Encode() const;
    bool Decode(std::string_view body);
};

// Memory of the receiver whose checksums the sender asks for, to compare them with its own: see
// verify.h.
struct Sums {
    struct Range {
        uint64_t addr = 0;
        uint64_t length = 0;
    };
    // What one request may have: so the owner is busy with it for some milliseconds only.
    static constexpr size_t kMostRanges = 4096;
    static constexpr uint64_t kMostBytes = 16u << 20;

    std::vector<Range> ranges;

    std::string Encode() const;
    // False also if there is more than one request may have, or a range is empty or reaches past the
    // end of the address space.
    bool Decode(std::string_view body);
};

struct SumsReply {
    StatusBody status;
    std::vector<uint64_t> sums;  // one for each range

    std::string Encode() const;
    bool Decode(std::string_view body);
};

}  // namespace lldd::wire
