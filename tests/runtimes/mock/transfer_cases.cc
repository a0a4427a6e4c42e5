// Bytes arrive, on whatever path the environment allows.
//
// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <random>
#include <thread>

#include "side.h"

namespace lldd::test {
namespace {

constexpr uint64_t kMiB = 1U << 20;

// The path that LLM_DATADIST_MOCK_TRANSPORT, set to a single name by the test, must give.
std::string OnlyTransport() {
    const char *value = std::getenv("LLM_DATADIST_MOCK_TRANSPORT");
    CHECK(value != nullptr);
    return value;
}

// Memory of both ends that the allowed transport reaches.
uint64_t Reachable(Side *side, uint64_t size) {
    return OnlyTransport() == "mapped" ? side->Pool(size) : side->Registered(size);
}
uint64_t Reachable(PeerProcess *peer, uint64_t size) {
    return OnlyTransport() == "mapped" ? peer->Pool(size) : peer->Registered(size);
}

// Sizes around every limit: words, pages, streaming copies, chunks, requests, helper threads.
void EverySize(bool initiator) {
    Side side;
    PeerProcess peer;
    const uint64_t size = 24 * kMiB;
    const uint64_t own = Reachable(&side, size);
    const uint64_t theirs = Reachable(&peer, size);
    CHECK_OK(peer.Link(&side, 1, initiator));
    uint64_t seed = 1;
    for (const uint64_t length :
         {uint64_t{1}, uint64_t{63}, uint64_t{64}, uint64_t{1023}, uint64_t{4096}, uint64_t{65537},
          256 * uint64_t{1024}, kMiB - 1, kMiB + 1, 5 * kMiB + 13, 23 * kMiB + 7}) {
        for (const uint64_t shift : {uint64_t{0}, uint64_t{1}, uint64_t{4093}}) {
            ++seed;
            peer.Fill(theirs + shift, length, seed);
            Fill(own, length + 64, 0);
            CHECK_OK(side.Read(own + 3, theirs + shift, length));
            CHECK(Holds(own + 3, length, seed));
            Fill(own + shift, length, seed + 1000);
            CHECK_OK(side.Write(own + shift, theirs + 5, length));
            CHECK(peer.Holds(theirs + 5, length, seed + 1000));
        }
    }
}

void EverySizeAsInitiator() { EverySize(true); }
void EverySizeAsAcceptor() { EverySize(false); }

// Both ends ask, over streams of their own where there are streams.
void BothEndsAsk() {
    Side side;
    PeerProcess peer;
    const uint64_t size = 8 * kMiB;
    const uint64_t own = Reachable(&side, 2 * size);
    const uint64_t theirs = Reachable(&peer, 2 * size);
    CHECK_OK(peer.Link(&side));
    Fill(own, size, 1);
    peer.Fill(theirs, size, 2);
    const auto numbers = [](uint64_t a, uint64_t b, uint64_t c) {
        return std::to_string(a) + " " + std::to_string(b) + " " + std::to_string(c) + " 5000";
    };
    peer.Begin("read " + numbers(theirs + size, own, size));
    CHECK_OK(side.Read(own + size, theirs, size));
    CHECK_OK(peer.Finish());
    side.Synchronise();
    CHECK(Holds(own + size, size, 2));
    CHECK(peer.Holds(theirs + size, size, 1));
    peer.Begin("write " + numbers(theirs, own, size));
    CHECK_OK(side.Write(own + size, theirs + size, size));
    CHECK_OK(peer.Finish());
    side.Synchronise();
    CHECK(Holds(own, size, 2));
    CHECK(peer.Holds(theirs + size, size, 2));
}

// Thousands of scattered blocks of odd size, against a plain copy.
void Scattered() {
    Side side;
    PeerProcess peer;
    const uint64_t block = 1003;
    const uint64_t blocks = 12000;
    const uint64_t size = block * blocks;
    const uint64_t own = Reachable(&side, size);
    const uint64_t theirs = Reachable(&peer, size);
    CHECK_OK(peer.Link(&side));
    peer.Fill(theirs, size, 7);
    std::vector<char> there(size);
    Fill(reinterpret_cast<uint64_t>(there.data()), size, 7);
    std::vector<uint64_t> from(blocks);
    for (uint64_t i = 0; i < blocks; ++i) from[i] = i;
    std::mt19937_64 random(5);
    std::shuffle(from.begin(), from.end(), random);
    std::vector<Run> runs;
    std::vector<char> expected(size);
    for (uint64_t i = 0; i < blocks; ++i) {
        runs.push_back({own + i * block, theirs + from[i] * block, block});
        std::copy_n(there.data() + from[i] * block, block, expected.data() + i * block);
    }
    for (int round = 0; round < 3; ++round) {
        Fill(own, size, 0);
        CHECK_OK(side.connection().Read(runs.data(), runs.size(), Deadline::InMs(5000)));
        CHECK(std::equal(expected.begin(), expected.end(), reinterpret_cast<char *>(own)));
    }
    // And back again.
    peer.Fill(theirs, size, 8);
    CHECK_OK(side.connection().Write(runs.data(), runs.size(), Deadline::InMs(5000)));
    CHECK(peer.Holds(theirs, size, 7));
}

// A run that lies in two regions which meet, and regions that overlap.
void AcrossRegions() {
    Side side;
    PeerProcess peer;
    const uint64_t size = 64 * 4096;
    const uint64_t theirs = peer.Memory(size);
    const auto registers = [&](uint64_t offset, uint64_t length) {
        peer.Tell("register " + std::to_string(theirs + offset) + " " + std::to_string(length));
    };
    registers(0, 10000);
    registers(10000, 50000);
    registers(60000, size - 60000);
    registers(5000, 20000);
    CHECK_OK(peer.Link(&side));
    peer.Fill(theirs, size, 3);
    const uint64_t own = MapMemory(size);
    CHECK_OK(side.Read(own, theirs, size));
    CHECK(Holds(own, size, 3));
    // With the overlapping one gone the others still serve.
    peer.Tell("unregister " + std::to_string(theirs + 5000) + " 20000 1000");
    Fill(own, size, 0);
    CHECK_OK(side.Read(own, theirs, size));
    CHECK(Holds(own, size, 3));
}

// The local side is any memory of the process, known to the device or not.
void UnregisteredLocal() {
    Side side;
    PeerProcess peer;
    const uint64_t size = 3 * kMiB;
    const uint64_t theirs = Reachable(&peer, size);
    CHECK_OK(peer.Link(&side));
    peer.Fill(theirs, size, 4);
    const uint64_t own = MapMemory(size);
    CHECK_OK(side.Read(own, theirs, size));
    CHECK(Holds(own, size, 4));
    Fill(own, size, 5);
    CHECK_OK(side.Write(own, theirs, size));
    CHECK(peer.Holds(theirs, size, 5));
}

// Two links with other devices, driven from two threads at a time.
void TwoLinksAtOnce() {
    const uint64_t size = 6 * kMiB;
    Side first(0);
    Side second(1);
    PeerProcess one;
    PeerProcess other;
    const uint64_t own[2] = {Reachable(&first, size), Reachable(&second, size)};
    const uint64_t theirs[2] = {Reachable(&one, size), Reachable(&other, size)};
    CHECK_OK(one.Link(&first, 1));
    CHECK_OK(other.Link(&second, 2));
    one.Fill(theirs[0], size, 1);
    other.Fill(theirs[1], size, 2);
    const auto pull = [&](Side *side, int i) {
        for (int round = 0; round < 10; ++round) {
            Fill(own[i], size, 99);
            CHECK_OK(side->Read(own[i], theirs[i], size));
            CHECK(Holds(own[i], size, static_cast<uint64_t>(i) + 1));
        }
    };
    std::thread helper([&] { pull(&second, 1); });
    pull(&first, 0);
    helper.join();
}

// Two peers that read as much at the same time get their bytes together, not one after the other.
void OwnerIsFair() {
    const uint64_t size = 96 * kMiB;
    PeerProcess readers[2];
    Side first(0);
    Side second(1);
    Side *const owners[2] = {&first, &second};
    uint64_t from[2];
    uint64_t to[2];
    for (size_t i = 0; i < 2; ++i) {
        from[i] = owners[i]->Registered(size);
        to[i] = readers[i].Registered(size);
        CHECK_OK(readers[i].Link(owners[i], i + 1));
        Fill(from[i], size, i + 1);
    }
    for (size_t i = 0; i < 2; ++i) {
        // The streams are opened by the first transfer of each.
        CHECK_OK(readers[i].Try(Format("read %" PRIu64 " %" PRIu64 " 64 5000", to[i], from[i])));
    }
    for (size_t i = 0; i < 2; ++i) {
        // The second one is cut off, and then waits for this long.
        const int ms = i == 0 ? 30000 : 2000;
        readers[i].Begin(
            Format("read %" PRIu64 " %" PRIu64 " %" PRIu64 " %d", to[i], from[i], size, ms));
    }
    CHECK_OK(readers[0].Finish());
    CHECK_OK(second.Disconnect());  // no byte comes to the other one any more
    const Status other = readers[1].Finish();
    CHECK(other.ok() || other.code() == LLDD_TIMEOUT);
    CHECK(readers[0].Holds(to[0], size, 1));
    CHECK(readers[1].Holds(to[1], size / 4, 2));
}

// Both ends in one process: the same device, and two devices.
void LinkToOneself() {
    for (const bool same : {true, false}) {
        Side side(0);
        Side other(1);
        Side &target = same ? side : other;
        const uint64_t size = 2 * kMiB;
        const uint64_t own = Reachable(&side, size);
        const uint64_t theirs = Reachable(&target, size);
        const std::string initiator = side.Endpoint(9);
        const std::string acceptor = target.Endpoint(9);
        if (same) {
            // One side holds one connection, so the acceptor's is made by hand.
            std::unique_ptr<Connection> passive;
            ConnectionSetup setup;
            setup.end = LinkEnd::kAcceptor;
            setup.nonce = NonceOf(9);
            setup.peer_endpoint = initiator;
            setup.streams = &other;
            const auto loop = EventLoop::Acquire();
            loop->RunAndWait(
                [&] { CHECK_OK(side.device().Connect(setup, Deadline::InMs(1000), &passive)); });
            CHECK_OK(side.Connect(LinkEnd::kInitiator, 9, acceptor, other.port()));
            loop->RunAndWait([&] { CHECK_OK(passive->Confirm()); });
            if (OnlyTransport() != "tcp") {
                Fill(theirs, size, 6);
                CHECK_OK(side.Read(own, theirs, size));
                CHECK(Holds(own, size, 6));
                CHECK_OK(passive->Write(std::vector<Run>{{own, theirs, 4096}}.data(), 1,
                                        Deadline::InMs(1000)));
            }
            CHECK_OK(passive->Close(Deadline::InMs(1000)));
            continue;
        }
        CHECK_OK(target.Connect(LinkEnd::kAcceptor, 9, initiator, side.port()));
        CHECK_OK(side.Connect(LinkEnd::kInitiator, 9, acceptor, target.port()));
        CHECK_OK(target.Confirm());
        Fill(theirs, size, 6);
        CHECK_OK(side.Read(own, theirs, size));
        CHECK(Holds(own, size, 6));
        Fill(own, size, 7);
        CHECK_OK(target.Read(theirs, own, size));
        CHECK(Holds(theirs, size, 7));
        CHECK_OK(side.Disconnect());
    }
}

// The allowed transport is the path, and its reason says why it is not a faster one.
void PathsTellWhy() {
    Side side;
    PeerProcess peer;
    peer.Pool(kMiB);
    CHECK_OK(peer.Link(&side));
    const std::vector<PathDescription> paths = side.connection().Paths();
    CHECK(paths.size() == 2);
    CHECK(paths[0].memory == LLDD_MEMORY_ALLOCATED && paths[0].path == OnlyTransport());
    CHECK(paths[1].memory == LLDD_MEMORY_REGISTERED);
    const bool mapped = OnlyTransport() == "mapped";
    CHECK(paths[1].path == (mapped ? "none" : OnlyTransport()));
    for (const PathDescription &path : paths) CHECK(!path.reason.empty());
    if (!mapped) {
        CHECK(paths[1].reason.find("mapped: not in LLM_DATADIST_MOCK_TRANSPORT") !=
              std::string::npos);
    } else {
        CHECK(paths[1].reason.find("only pools can be mapped") != std::string::npos);
    }
    // The peer sees its end the same way.
    CHECK(peer.Tell("paths").find(OnlyTransport() + " (") == 0);
}

}  // namespace

const std::vector<NamedCase> kTransferCases = {
    {"transfer.every_size_as_initiator", EverySizeAsInitiator},
    {"transfer.every_size_as_acceptor", EverySizeAsAcceptor},
    {"transfer.both_ends_ask", BothEndsAsk},
    {"transfer.scattered", Scattered},
    {"registered.across_regions", AcrossRegions},
    {"transfer.unregistered_local", UnregisteredLocal},
    {"transfer.two_links_at_once", TwoLinksAtOnce},
    {"tcp.owner_is_fair", OwnerIsFair},
    {"transfer.link_to_oneself", LinkToOneself},
    {"transfer.paths_tell_why", PathsTellWhy},
};

}  // namespace lldd::test
