// The cache table of a peer, and what is planned from it: an input begins with what is asked for,
// the table follows.
//
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "engine/peer_table.h"
#include "engine/plan_pull.h"
#include "target.h"

namespace lldd::fuzz {
namespace {

constexpr uint64_t kBlock = 1024;
constexpr uint64_t kBlocks = 4;
constexpr uint64_t kLocal[] = {0x100000, 0x200000};

struct Asked {
    bool with_dims;
    KeyTarget target;
    uint64_t own_blocks[2];
    uint64_t peers_blocks[2];
    uint32_t layers;
};

Asked AskedFor(Input *in) {
    Asked asked{};
    const uint8_t how = in->Byte();
    asked.with_dims = (how & 1) != 0;
    if ((how & 2) != 0) {
        asked.target.cache_id = in->Byte();
    } else {
        asked.target.name = CacheName{false, (how & 4) != 0 ? LLDD_ID_UNSET : in->Byte(), 0};
    }
    for (uint64_t &block : asked.own_blocks) block = in->Below(kBlocks);
    for (uint64_t &block : asked.peers_blocks) block = in->Byte();
    asked.layers = in->Byte() % 3;
    return asked;
}

bool IsWithin(uint64_t start, uint64_t length, uint64_t first, uint64_t size) {
    return start >= first && length <= size && start - first <= size - length;
}

bool IsInTensor(const PlanCache &cache, uint64_t start, uint64_t length) {
    return std::any_of(cache.addrs, cache.addrs + cache.shape.num_tensors, [&](uint64_t addr) {
        return IsWithin(start, length, addr, cache.shape.tensor_bytes);
    });
}

// Whatever the peer says, a pull stays within the tensors of both sides.
void PlanFrom(const PeerTable::Found &found, const Asked &asked) {
    lldd_pull_args args{};
    args.struct_size = sizeof args;
    args.tensors_per_layer = 1;
    args.src_layer_count = asked.layers;
    args.dst_layer_count = asked.layers;
    args.src_blocks = asked.peers_blocks;
    args.num_src_blocks = 2;
    args.dst_blocks = asked.own_blocks;
    args.num_dst_blocks = 2;
    const CacheShape shape{2, true, Placement::kHost, LLDD_TYPE_INT8, kBlocks * kBlock, kBlocks};
    const PullRequest request{args, {1, shape, kLocal}};
    BlockPairs pairs;
    if (!CheckPull(request, &pairs).ok()) return;
    const PlanCache remote = PlanOf(*found.cache);
    std::vector<lldd::Run> runs;
    if (!PlanPull(request, pairs, remote, found.batch_index, &runs).ok()) return;
    for (const lldd::Run &run : runs) {
        DEMAND(run.length != 0);
        DEMAND(IsInTensor(request.local, run.local, run.length));
        DEMAND(IsInTensor(remote, run.remote, run.length));
    }
}

void Run(std::string_view input) {
    Input in(input);
    const Asked asked = AskedFor(&in);
    PeerTable table;
    bool written = false;
    if (!PeerTable::Decode(in.Rest(), asked.with_dims, &table, &written)) return;
    DEMAND(table.DescribeIds().size() < 4096 && table.DescribeBlocksNames().size() < 4096);
    const PeerTable::Found found = table.Find(asked.target);
    if (found.cache == nullptr) return;
    DEMAND(found.cache->addrs.size() == found.cache->shape.num_tensors);
    DEMAND(asked.with_dims || found.cache->dims.empty());
    PlanFrom(found, asked);
}

CacheRef BlocksCache(CacheStore *store) {
    const auto cache = std::make_shared<Cache>();
    cache->id = store->NextId();
    cache->shape = {2, true, Placement::kDevice, LLDD_TYPE_INT8, kBlocks * kBlock, kBlocks};
    cache->dims = {kBlocks, kBlock};
    cache->addrs = {0x10000, 0x20000};
    cache->remote_accessible = true;
    return cache;
}

std::vector<std::string> Seeds() {
    CacheStore store;
    std::vector<std::string> notices;
    const std::string empty = PeerTable::Encode(store.Table());
    lldd_cache_key key{};
    key.struct_size = sizeof key;
    key.kind = LLDD_KEY_BLOCKS;
    std::vector<std::string> seeds{std::string(7, '\0') + empty};
    if (!store.AddRegistered(BlocksCache(&store), &key, 1, &notices).ok()) return seeds;
    const std::string one = PeerTable::Encode(store.Table());
    seeds.push_back(std::string("\4\0\1\2\3\0", 6) + one);
    seeds.push_back(std::string("\5\0\1\1\2\1", 6) + one);
    key.kind = LLDD_KEY_REQUEST;
    key.req_id = 9;
    const auto contiguous = std::make_shared<Cache>();
    contiguous->id = store.NextId();
    contiguous->shape = {2, false, Placement::kHost, LLDD_TYPE_INT8, kBlocks * kBlock, kBlocks};
    contiguous->dims = {kBlocks, kBlock};
    contiguous->addrs = {0x30000, 0x40000};
    if (!store.AddRegistered(contiguous, &key, 1, &notices).ok()) return seeds;
    const std::string two = PeerTable::Encode(store.Table());
    seeds.push_back(std::string("\0\x09\0\1\2\3\0", 7) + two);
    seeds.push_back(std::string("\2\2\0\1\2\3\0", 7) + two);
    return seeds;
}

const Registration kRegistered({"table", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
