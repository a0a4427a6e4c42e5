// Whole conversations with a live engine: an attacker's engine links to the victim's, pulls, pushes
// and unlinks through a relay that changes what they say. An input begins with who they are and
// what they do; a list of changes follows, see relay.h.
//
// Then the victim must link to a legitimate peer and give it the right bytes, and neither end's
// memory may have been read or written but where the caches are.
//
// SPDX-License-Identifier: Apache-2.0
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <iterator>
#include <thread>

#include "base/address.h"
#include "base/event_loop.h"
#include "llm_datadist.h"
#include "owner.h"
#include "relay.h"
#include "target.h"

namespace lldd::fuzz {
namespace {

constexpr uint64_t kSides = 0x2100'0000'0000;
constexpr uint64_t kPlace = 0x1000;  // of a secret part, of the cache, and of a secret part
constexpr int64_t kBlocks = 4;
constexpr int64_t kBlock = kPlace / 4;
constexpr uint32_t kPatienceMs = 20000;
constexpr size_t kMostChanges = 12;
// Of a victim that demands a secret which the attacker does not have.
const std::string kOpenWord = "open-to-the-peer";

// A part full of that word, which has a power of two of bytes.
std::string PartOf(const std::string &word) {
    std::string part;
    while (part.size() < kPlace) part += word;
    return part;
}
const std::string kSecretPart = PartOf(kSecretWord);
const std::string kOpenPart = PartOf(kOpenWord);

void Fill(uint64_t addr, const std::string &part) {
    std::memcpy(Pointer(addr), part.data(), part.size());
}

bool Holds(uint64_t addr, const std::string &part) {
    return std::memcmp(Pointer(addr), part.data(), part.size()) == 0;
}

// An engine with one cache of blocks between two secret parts.
class Side {
public:
    Side(uint64_t cluster_id, uint32_t mode, const char *secret, bool listens)
        : id_(cluster_id), memory_(kSides + cluster_id * 8 * kPlace) {
        DEMAND(mmap(Pointer(memory_), 3 * kPlace, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == Pointer(memory_));
        Fill(memory_, kSecretPart);
        Fill(memory_ + 2 * kPlace, kSecretPart);
        lldd_config config{};
        config.struct_size = sizeof config;
        config.role = LLDD_ROLE_MIX;
        config.cluster_id = cluster_id;
        config.mode = mode;
        config.sync_timeout_ms = kPatienceMs;
        config.flags = listens ? LLDD_CONFIG_LISTEN : 0;
        config.listen_ip = listens ? "127.0.0.1" : nullptr;
        config.rdma_traffic_class = LLDD_UNSET;
        config.rdma_service_level = LLDD_UNSET;
        config.auth_token = secret;
        DEMAND(lldd_engine_open(&config, &engine_) == LLDD_SUCCESS);
        Register();
    }

    uint64_t cache_addr() const { return memory_ + kPlace; }
    SocketAddress address() const {
        lldd_engine_info info{};
        info.struct_size = sizeof info;
        DEMAND(lldd_engine_describe(engine_, &info) == LLDD_SUCCESS);
        SocketAddress address;
        DEMAND(SocketAddress::Parse("127.0.0.1", info.listen_port, &address).ok());
        return address;
    }
    void DemandSecretsKept() const {
        DEMAND(Holds(memory_, kSecretPart));
        DEMAND(Holds(memory_ + 2 * kPlace, kSecretPart));
    }

    lldd_status Link(uint32_t port) { return OnLink(port, 0, false, false); }
    void Unlink(uint64_t peer, uint32_t port, bool force) {
        static_cast<void>(OnLink(port, peer, true, force));
    }
    // Whichever peers it has; one may have been named differently on the way.
    void UnlinkAll() {
        lldd_link_info links[kMostLinks];
        for (lldd_link_info &link : links) link.struct_size = sizeof link;
        uint64_t count = 0;
        DEMAND(lldd_links(engine_, links, kMostLinks, &count) == LLDD_SUCCESS);
        for (uint64_t i = 0; i < count && i < kMostLinks; ++i)
            Unlink(links[i].peer_cluster_id, 1, true);
    }
    // Blocks 0 and 2 of the peer's cache, to or from 1 and 3.
    lldd_status Pull(uint64_t peer) {
        const lldd_cache_key key = KeyOf(peer);
        lldd_pull_args args{};
        args.struct_size = sizeof args;
        args.tensors_per_layer = 1;
        args.key = &key;
        args.cache_id = cache_;
        args.size = -1;
        args.src_blocks = kPeersBlocks;
        args.dst_blocks = kOwnBlocks;
        args.num_src_blocks = args.num_dst_blocks = 2;
        return lldd_pull(engine_, &args);
    }
    lldd_status Push(uint64_t peer) {
        const lldd_cache_key key = KeyOf(peer);
        lldd_push_args args{};
        args.struct_size = sizeof args;
        args.tensors_per_layer = 1;
        args.key = &key;
        args.cache_id = cache_;
        args.src_blocks = kOwnBlocks;
        args.dst_blocks = kPeersBlocks;
        args.num_src_blocks = args.num_dst_blocks = 2;
        args.num_layers = LLDD_ALL_LAYERS;
        uint32_t done = 0;
        return lldd_push(engine_, &args, &done);
    }
    // In request mode: to addresses of the peer.
    lldd_status TransferTo(uint64_t peer, uint64_t addr) {
        lldd_transfer_args args{};
        args.struct_size = sizeof args;
        args.tensors_per_layer = 1;
        args.dst_cluster_id = peer;
        args.cache_id = cache_;
        args.dst_addrs = &addr;
        args.num_dst_addrs = 1;
        args.src_blocks = kOwnBlocks;
        args.dst_blocks = kPeersBlocks;
        args.num_src_blocks = args.num_dst_blocks = 2;
        return lldd_transfer_layer(engine_, &args);
    }
    bool HasPulledFrom(const Side &other) const {
        for (int i = 0; i < 2; ++i) {
            if (std::memcmp(Pointer(cache_addr() + kOwnBlocks[i] * kBlock),
                            Pointer(other.cache_addr() + kPeersBlocks[i] * kBlock), kBlock) != 0)
                return false;
        }
        return true;
    }
    uint64_t id() const { return id_; }

private:
    static constexpr uint64_t kMostLinks = 64;
    static constexpr uint64_t kPeersBlocks[] = {0, 2};
    static constexpr uint64_t kOwnBlocks[] = {1, 3};

    void Register() {
        const int64_t dims[] = {kBlocks, kBlock};
        lldd_cache_desc desc{};
        desc.struct_size = sizeof desc;
        desc.num_tensors = 1;
        desc.layout = LLDD_LAYOUT_BLOCKS;
        desc.placement = LLDD_PLACEMENT_DEVICE;
        desc.data_type = LLDD_TYPE_INT8;
        desc.num_dims = 2;
        desc.dims = dims;
        const lldd_cache_key key = KeyOf(0);
        const uint64_t addr = cache_addr();
        lldd_register_args args{};
        args.struct_size = sizeof args;
        args.flags = LLDD_REGISTER_REMOTE_ACCESSIBLE;
        args.desc = &desc;
        args.addrs = &addr;
        args.num_addrs = 1;
        args.keys = &key;
        args.num_keys = 1;
        DEMAND(lldd_cache_register(engine_, &args, &cache_) == LLDD_SUCCESS);
    }
    static lldd_cache_key KeyOf(uint64_t peer) {
        lldd_cache_key key{};
        key.struct_size = sizeof key;
        key.kind = LLDD_KEY_BLOCKS;
        key.cluster_id = peer;
        key.req_id = LLDD_ID_UNSET;
        key.prefix_id = LLDD_ID_UNSET;
        return key;
    }
    lldd_status OnLink(uint32_t port, uint64_t peer, bool unlink, bool force) {
        lldd_address remote{};
        remote.struct_size = sizeof remote;
        remote.port = port;
        remote.ip = "127.0.0.1";
        lldd_cluster cluster{};
        cluster.struct_size = sizeof cluster;
        cluster.flags = peer == 0 ? 0 : LLDD_CLUSTER_HAS_ID;
        cluster.remote_cluster_id = peer;
        cluster.remote = &remote;
        cluster.num_remote = 1;
        lldd_cluster_result result{};
        result.struct_size = sizeof result;
        return unlink
                   ? lldd_unlink_clusters(engine_, &cluster, 1, kPatienceMs, force ? 1 : 0, &result)
                   : lldd_link_clusters(engine_, &cluster, 1, kPatienceMs, &result);
    }

    const uint64_t id_;
    const uint64_t memory_;
    lldd_engine *engine_ = nullptr;
    int64_t cache_ = 0;
};

// A victim, who attacks it, and who links to it afterwards.
struct Scene {
    Side victim;
    Side attacker;
    Side legitimate;
    bool by_request;
    bool stranger;  // the attacker does not know the secret
};

Scene MakeScene(uint64_t number) {
    const uint32_t mode = number == 1 ? LLDD_MODE_REQUEST : LLDD_MODE_ONE_SIDED;
    const char *const secret = number < 2 ? nullptr : "a secret";
    const char *const attackers = number == 3 ? "another secret" : secret;
    const uint64_t first = 10 * (number + 1);
    return {Side(first, mode, secret, true), Side(first + 1, mode, attackers, false),
            Side(first + 2, mode, secret, false), mode == LLDD_MODE_REQUEST, number == 3};
}

// The scenes last as long as the process, as engines do.
Scene &SceneOf(size_t number) {
    static Scene *scenes[4] = {};
    if (scenes[0] == nullptr) {
        DEMAND(setenv("LLM_DATADIST_MOCK_TRANSPORT", "tcp", 1) == 0);
        DEMAND(setenv("LLM_DATADIST_MOCK_THREADS", "1", 1) == 0);
        for (uint64_t i = 0; i < std::size(scenes); ++i) scenes[i] = new Scene(MakeScene(i));
    }
    return *scenes[number % std::size(scenes)];
}

void Attack(Scene *scene, uint8_t deeds, uint32_t port) {
    Side &attacker = scene->attacker;
    const uint64_t victim = scene->victim.id();
    if (attacker.Link(port) == LLDD_SUCCESS) {
        if ((deeds & 1) != 0) static_cast<void>(attacker.Pull(victim));
        if ((deeds & 2) != 0 && !scene->by_request) static_cast<void>(attacker.Push(victim));
        if ((deeds & 2) != 0 && scene->by_request)
            static_cast<void>(attacker.TransferTo(victim, scene->victim.cache_addr()));
        if ((deeds & 4) != 0) static_cast<void>(attacker.Pull(victim));
        if ((deeds & 8) != 0) static_cast<void>(scene->victim.Pull(attacker.id()));
        if ((deeds & 16) != 0 && !scene->by_request)
            static_cast<void>(scene->victim.Push(attacker.id()));
        if ((deeds & 32) != 0) attacker.Unlink(victim, port, false);
    }
}

void Run(std::string_view input) {
    static Relay *const relay = new Relay;
    static const auto loop = EventLoop::Acquire();
    Input in(input);
    Scene &scene = SceneOf(in.Byte());
    const uint8_t deeds = in.Byte();
    std::vector<Change> changes;
    while (!in.empty() && changes.size() < kMostChanges) changes.push_back(Change::From(&in));
    static const std::string attackers = PartOf("attackers-memory");
    Fill(scene.victim.cache_addr(), kOpenPart);
    Fill(scene.attacker.cache_addr(), attackers);

    std::vector<std::string> forbidden{kSecretWord};
    if (scene.stranger) forbidden.push_back(kOpenWord);
    std::thread attack([&] {
        Attack(&scene, deeds, relay->port());
        relay->Finish();
    });
    relay->Run(scene.victim.address(), std::move(changes), forbidden);
    attack.join();
    // What the connections brought, their ends included, is handled.
    for (int i = 0; i < 4; ++i) loop->RunAndWait([] {});
    scene.attacker.UnlinkAll();
    scene.victim.UnlinkAll();

    if (scene.stranger) DEMAND(Holds(scene.victim.cache_addr(), kOpenPart));
    const uint32_t port = scene.victim.address().port();
    Side &legitimate = scene.legitimate;
    DEMAND(legitimate.Link(port) == LLDD_SUCCESS);
    DEMAND(legitimate.Pull(scene.victim.id()) == LLDD_SUCCESS);
    DEMAND(legitimate.HasPulledFrom(scene.victim));
    legitimate.Unlink(scene.victim.id(), port, false);
    for (const Side *side : {&scene.victim, &scene.attacker, &scene.legitimate})
        side->DemandSecretsKept();
}

std::vector<std::string> Seeds() {
    using How = Change::How;
    std::vector<std::string> seeds;
    for (char scene = 0; scene < 4; ++scene) seeds.push_back(std::string(1, scene) + '\x3f');
    const std::string one("\0\x3f", 2);
    seeds.push_back(one + ChangeTo(0, 1, How::kFlip, 12, 1));
    seeds.push_back(one + ChangeTo(0, 0x83, How::kNumber, 20, 14));
    seeds.push_back(one + ChangeTo(0, 3, How::kCut, 14, 0) + ChangeTo(0, 0x80, How::kTwice, 0, 0));
    seeds.push_back(one + ChangeTo(1, 1, How::kNumber, 32, 15) + ChangeTo(1, 2, How::kTear, 9, 0));
    seeds.push_back(one + ChangeTo(1, 0x81, How::kFlip, 8, 2));
    seeds.push_back(one + ChangeTo(0, 2, How::kInsert, 4, 9) + ChangeTo(0, 2, How::kReplay, 0, 0) +
                    ChangeTo(0, 3, How::kEarlier, 1, 0));
    seeds.push_back(one + ChangeTo(0, 1, How::kStranger, 0, 0, "not a greeting") +
                    ChangeTo(0, 2, How::kSwap, 0, 0) + ChangeTo(0, 4, How::kHangUp, 0, 0));
    return seeds;
}

const Registration kRegistered({"conversation", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
