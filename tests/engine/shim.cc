// SPDX-License-Identifier: Apache-2.0
extern "C" {
#include "shim.h"
}

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/checksum.h"
#include "base/codec.h"
#include "base/hmac.h"
#include "base/socket.h"
#include "engine/cache_store.h"
#include "engine/keys.h"
#include "engine/page_pool.h"
#include "engine/plan_copy.h"
#include "engine/plan_pull.h"
#include "engine/plan_push.h"
#include "engine/rank_table.h"
#include "engine/tensor.h"
#include "runtime/regions.h"

using namespace lldd;

namespace {

thread_local std::string last_text;
// Kept from call to call, as the engine does.
thread_local BlockPairs pairs;
thread_local std::vector<Run> planned;

uint32_t Answer(const Status &status) {
    last_text = status.text();
    return status.code();
}

CacheShape ShapeFrom(const shim_cache &cache) {
    CacheShape shape;
    shape.num_tensors = cache.num_tensors;
    shape.blocks = cache.blocks != 0;
    shape.placement = static_cast<Placement>(cache.placement);
    shape.data_type = cache.data_type;
    shape.tensor_bytes = cache.tensor_bytes;
    shape.count = cache.count;
    return shape;
}

PlanCache CacheFrom(const shim_cache &cache) {
    return PlanCache{cache.id, ShapeFrom(cache), cache.addrs};
}

lldd_pull_args PullFrom(const shim_pull_args &args) {
    lldd_pull_args full{};
    full.struct_size = sizeof full;
    full.cache_id = args.local.id;
    full.tensors_per_layer = args.tensors_per_layer;
    full.batch_index = args.batch_index;
    full.size = args.size;
    full.src_blocks = args.src_blocks;
    full.num_src_blocks = args.num_src_blocks;
    full.dst_blocks = args.dst_blocks;
    full.num_dst_blocks = args.num_dst_blocks;
    full.src_layer_start = args.src_layer_start;
    full.src_layer_count = args.src_layer_count;
    full.dst_layer_start = args.dst_layer_start;
    full.dst_layer_count = args.dst_layer_count;
    return full;
}

PushRequest PushFrom(const shim_push_args &args) {
    PushRequest request;
    lldd_transfer_args &full = request.args;
    full.struct_size = sizeof full;
    full.cache_id = args.local.id;
    request.local = CacheFrom(args.local);
    full.tensors_per_layer = args.tensors_per_layer;
    full.src_batch_index = args.src_batch_index;
    full.src_blocks = args.src_blocks;
    full.num_src_blocks = args.num_src_blocks;
    full.dst_blocks = args.dst_blocks;
    full.num_dst_blocks = args.num_dst_blocks;
    full.dst_block_size = args.dst_block_size;
    return request;
}

void CopyOut(const std::vector<Run> &runs, shim_run *out, uint64_t capacity, uint64_t *count) {
    *count = runs.size();
    for (size_t i = 0; i < runs.size() && i < capacity; ++i) {
        out[i] = {runs[i].local, runs[i].remote, runs[i].length};
    }
}

lldd_cache_key KeyFrom(const shim_key &key) {
    lldd_cache_key full{};
    full.struct_size = sizeof full;
    full.kind = key.kind;
    full.model_id = key.model_id;
    full.req_id = key.req_id;
    full.prefix_id = key.prefix_id;
    return full;
}

shim_found FoundFrom(const std::optional<NamedEntry> &entry) {
    if (!entry) return {0, 0, 0};
    return {entry->cache->id, entry->batch_index, entry->consumable.has_value() ? 1U : 0U};
}

int64_t IdOf(const CacheRef &removed) { return removed ? removed->id : 0; }

}  // namespace

struct shim_pool {
    PagePool pool;
};

struct shim_store {
    std::mutex mutex;
    std::vector<int64_t> released;
    std::vector<std::string> notices;
    std::string text;
    CacheStore store;
};

struct shim_pin {
    CacheRef cache;
};

extern "C" {

const char *shim_text(void) { return last_text.c_str(); }

uint64_t shim_element_bytes(uint32_t data_type) { return ElementBytes(data_type); }

uint32_t shim_shape(uint32_t num_tensors, uint32_t layout, uint32_t placement, uint32_t data_type,
                    const int64_t *dims, uint32_t num_dims, shim_cache *shape) {
    lldd_cache_desc desc{};
    desc.struct_size = sizeof desc;
    desc.num_tensors = num_tensors;
    desc.layout = layout;
    desc.placement = placement;
    desc.data_type = data_type;
    desc.num_dims = num_dims;
    desc.dims = dims;
    CacheShape result;
    std::vector<int64_t> kept;
    const Status status = ShapeOf(desc, &result, &kept);
    if (status.ok()) {
        *shape = {0,
                  result.num_tensors,
                  result.blocks ? 1U : 0U,
                  static_cast<uint32_t>(result.placement),
                  result.data_type,
                  result.tensor_bytes,
                  result.count,
                  nullptr};
    }
    return Answer(status);
}

uint32_t shim_check_shape(const shim_cache *shape) { return Answer(CheckShape(ShapeFrom(*shape))); }

uint32_t shim_check_pull(const shim_pull_args *args) {
    return Answer(CheckPull({PullFrom(*args), CacheFrom(args->local)}, &pairs));
}

uint32_t shim_plan_pull(const shim_pull_args *args, const shim_cache *remote, uint64_t remote_batch,
                        shim_run *runs, uint64_t capacity, uint64_t *count) {
    const lldd_pull_args full = PullFrom(*args);
    const PullRequest request{full, CacheFrom(args->local)};
    Status status = CheckPull(request, &pairs);
    if (status.ok()) {
        status = PlanPull(request, pairs, CacheFrom(*remote), remote_batch, &planned);
    }
    if (status.ok()) CopyOut(planned, runs, capacity, count);
    return Answer(status);
}

uint32_t shim_check_push(const shim_push_args *args) {
    return Answer(CheckPush(PushFrom(*args), &pairs));
}

uint32_t shim_plan_push(const shim_push_args *args, const shim_cache *remote, uint64_t dst_batch,
                        uint32_t src_layer, uint32_t dst_layer, shim_run *runs, uint64_t capacity,
                        uint64_t *count) {
    PushRequest request = PushFrom(*args);
    request.args.src_layer = src_layer;
    request.args.dst_layer = dst_layer;
    Status status = CheckPush(request, &pairs);
    if (status.ok()) {
        status = PlanPushLayer(request, pairs, CacheFrom(*remote), dst_batch, &planned);
    }
    if (status.ok()) CopyOut(planned, runs, capacity, count);
    return Answer(status);
}

uint32_t shim_plan_copy(const shim_copy_args *args, shim_run *runs, uint64_t capacity,
                        uint64_t *count) {
    lldd_copy_args full{};
    full.struct_size = sizeof full;
    full.dst_cache_id = args->dst.id;
    full.src_cache_id = args->src.id;
    full.dst_batch_index = args->dst_batch_index;
    full.src_batch_index = args->src_batch_index;
    full.offset = args->offset;
    full.size = args->size;
    const Status status = PlanCopy(full, CacheFrom(args->src), CacheFrom(args->dst), &planned);
    if (status.ok()) CopyOut(planned, runs, capacity, count);
    return Answer(status);
}

uint32_t shim_plan_blocks_copy(const shim_cache *cache, const uint64_t *src_blocks,
                               const uint64_t *dst_blocks, uint64_t num_pairs, shim_run *runs,
                               uint64_t capacity, uint64_t *count) {
    const Status status =
        PlanBlocksCopy(CacheFrom(*cache), src_blocks, dst_blocks, num_pairs, &pairs, &planned);
    if (status.ok()) CopyOut(planned, runs, capacity, count);
    return Answer(status);
}

uint32_t shim_plan_swap(const shim_swap_args *args, shim_run *runs, uint64_t capacity,
                        uint64_t *count) {
    lldd_swap_args full{};
    full.struct_size = sizeof full;
    full.src_placement = args->src_placement;
    full.src_addrs = args->src_addrs;
    full.dst_addrs = args->dst_addrs;
    full.num_tensors = args->num_tensors;
    full.block_bytes = args->block_bytes;
    full.src_blocks = args->src_blocks;
    full.dst_blocks = args->dst_blocks;
    full.num_blocks = args->num_blocks;
    const Status status = PlanSwap(full, &pairs, &planned);
    if (status.ok()) CopyOut(planned, runs, capacity, count);
    return Answer(status);
}

void shim_race_lists(uint64_t rounds, uint64_t *accepted, uint64_t *escaped) {
    constexpr uint64_t kGood = 1;
    constexpr uint64_t kBad = 1000000;
    constexpr uint64_t kLocal = 1 << 20;
    constexpr uint64_t kRemote = 1 << 24;
    uint64_t src = kGood;
    uint64_t dst = kGood;
    const uint64_t local_addr = kLocal;
    const uint64_t remote_addr = kRemote;

    lldd_pull_args args{};
    args.struct_size = sizeof args;
    args.tensors_per_layer = 1;
    args.src_blocks = &src;
    args.num_src_blocks = 1;
    args.dst_blocks = &dst;
    args.num_dst_blocks = 1;
    const CacheShape shape{1, true, Placement::kHost, LLDD_TYPE_INT8, 64, 4};
    const PullRequest request{args, {0, shape, &local_addr}};
    const PlanCache remote{1, shape, &remote_addr};

    std::atomic<bool> stop{false};
    std::thread changer([&] {
        for (uint64_t i = 0; !stop.load(std::memory_order_relaxed); ++i) {
            __atomic_store_n(&src, i % 2 == 0 ? kBad : kGood, __ATOMIC_RELAXED);
            __atomic_store_n(&dst, i % 4 < 2 ? kBad : kGood, __ATOMIC_RELAXED);
        }
    });
    *accepted = 0;
    *escaped = 0;
    for (uint64_t i = 0; i < rounds; ++i) {
        if (!CheckPull(request, &pairs).ok()) continue;
        if (!PlanPull(request, pairs, remote, 0, &planned).ok()) continue;
        ++*accepted;
        for (const Run &run : planned) {
            const bool inside = run.local >= kLocal && run.local + run.length <= kLocal + 64 &&
                                run.remote >= kRemote && run.remote + run.length <= kRemote + 64;
            if (!inside) ++*escaped;
        }
    }
    stop = true;
    changer.join();
}

void shim_sha256(const char *message, uint64_t size, uint8_t *digest) {
    const Digest found = Sha256({message, size});
    std::copy(found.begin(), found.end(), digest);
}

void shim_hmac_sha256(const char *key, uint64_t key_size, const char *message, uint64_t size,
                      uint8_t *digest) {
    const Digest found = HmacSha256({key, key_size}, {message, size});
    std::copy(found.begin(), found.end(), digest);
}

uint32_t shim_same_digest(const char *a, uint64_t a_size, const char *b, uint64_t b_size) {
    return SameDigest({a, a_size}, {b, b_size});
}

uint64_t shim_checksum(const char *bytes, uint64_t size, uint64_t piece) {
    Checksum sum;
    for (uint64_t done = 0; done < size; done += piece)
        sum.Add(bytes + done, std::min(piece, size - done));
    return sum.Sum();
}

uint32_t shim_check_pool(uint64_t size, uint32_t page_shift) {
    return Answer(CheckPoolConfig("device", size, page_shift));
}

shim_pool *shim_pool_new(uint64_t base, uint64_t size, uint32_t page_shift) {
    return new shim_pool{{base, size, page_shift}};
}

void shim_pool_delete(shim_pool *pool) { delete pool; }

uint64_t shim_pool_allocate(shim_pool *pool, uint64_t size) {
    return pool->pool.Allocate(size).value_or(0);
}

uint32_t shim_pool_allocate_all(shim_pool *pool, uint64_t size, uint32_t count, uint64_t *addrs) {
    const std::vector<uint64_t> before{17};
    std::vector<uint64_t> all = before;
    if (!pool->pool.AllocateAll(size, count, &all)) return all == before ? 0 : 2;
    std::copy(all.begin() + 1, all.end(), addrs);
    return 1;
}

uint32_t shim_pool_free(shim_pool *pool, uint64_t addr) { return pool->pool.Free(addr) ? 1 : 0; }

uint64_t shim_pool_free_bytes(shim_pool *pool) { return pool->pool.free_bytes(); }

uint64_t shim_pool_round_up(shim_pool *pool, uint64_t size) { return pool->pool.RoundUp(size); }

shim_store *shim_store_new(void) { return new shim_store; }

void shim_store_delete(shim_store *store) { delete store; }

uint32_t shim_store_add(shim_store *store, uint32_t registered, uint32_t blocks, uint64_t count,
                        const shim_key *keys, uint64_t num_keys, int64_t *id) {
    auto cache = std::make_shared<Cache>();
    cache->id = *id = store->store.NextId();
    cache->shape = {1, blocks != 0, Placement::kHost, LLDD_TYPE_INT8, count, count};
    cache->registered = registered != 0;
    cache->release = [store](const Cache &gone) {
        // A release may call the store: it would not return if the lock were held.
        static_cast<void>(store->store.version());
        const std::lock_guard<std::mutex> lock(store->mutex);
        store->released.push_back(gone.id);
    };
    std::vector<lldd_cache_key> full;
    for (uint64_t i = 0; i < num_keys; ++i) full.push_back(KeyFrom(keys[i]));
    std::vector<std::string> notices;
    const Status status =
        registered != 0
            ? store->store.AddRegistered(std::move(cache), full.data(), num_keys, &notices)
            : store->store.AddAllocated(std::move(cache), full.data(), num_keys, &notices);
    const std::lock_guard<std::mutex> lock(store->mutex);
    store->notices.insert(store->notices.end(), notices.begin(), notices.end());
    return Answer(status);
}

const char *shim_store_notice(shim_store *store) {
    const std::lock_guard<std::mutex> lock(store->mutex);
    store->text.clear();
    if (!store->notices.empty()) {
        store->text = store->notices.front();
        store->notices.erase(store->notices.begin());
    }
    return store->text.c_str();
}

shim_pin *shim_store_pin(shim_store *store, int64_t id) {
    CacheRef cache = store->store.Find(id);
    return cache ? new shim_pin{std::move(cache)} : nullptr;
}

void shim_store_unpin(shim_pin *pin) { delete pin; }

shim_found shim_store_find(shim_store *store, const shim_key *key) {
    return FoundFrom(store->store.Find(CacheName::Of(KeyFrom(*key))));
}

shim_found shim_store_find_entry(shim_store *store, int64_t id, uint64_t batch_index) {
    return FoundFrom(store->store.Find(id, batch_index));
}

int64_t shim_store_deallocate(shim_store *store, int64_t id) {
    return IdOf(store->store.Deallocate(id));
}

int64_t shim_store_remove_key(shim_store *store, const shim_key *key) {
    return IdOf(store->store.RemoveKey(CacheName::Of(KeyFrom(*key))));
}

int64_t shim_store_unregister(shim_store *store, int64_t id) {
    return IdOf(store->store.Unregister(id));
}

uint64_t shim_store_clear(shim_store *store) { return store->store.Clear().size(); }

uint64_t shim_store_released(shim_store *store, int64_t *ids, uint64_t capacity) {
    const std::lock_guard<std::mutex> lock(store->mutex);
    for (size_t i = 0; i < store->released.size() && i < capacity; ++i) ids[i] = store->released[i];
    return store->released.size();
}

uint64_t shim_store_table(shim_store *store, int64_t *ids, uint64_t *num_ids, shim_name *names,
                          uint64_t *num_names, uint64_t capacity) {
    const CacheTable table = store->store.Table();
    *num_ids = table.caches.size();
    *num_names = table.names.size();
    for (size_t i = 0; i < table.caches.size() && i < capacity; ++i) ids[i] = table.caches[i]->id;
    for (size_t i = 0; i < table.names.size() && i < capacity; ++i) {
        names[i] = {table.names[i].req_id, table.names[i].model_id, table.names[i].cache_id};
    }
    return table.version;
}

const char *shim_store_describe(shim_store *store) {
    store->text = store->store.DescribeBlocks();
    return store->text.c_str();
}

const char *shim_rank_table_difference(const char *own, const char *other) {
    const RankTable here(own);
    const RankTable there(other);
    last_text = here.SaysTheSame(there) ? "" : here.DifferenceTo(there);
    return last_text.c_str();
}

uint32_t shim_derive_key(const uint8_t *base, uint64_t size, const char *initiator,
                         const char *acceptor, uint8_t *key) {
    wire::Hello first;
    wire::Hello second;
    if (!first.Decode({initiator, wire::Hello::kSize}).ok() ||
        !second.Decode({acceptor, wire::Hello::kSize}).ok())
        return 0;
    const LinkKey derived = DeriveKey({reinterpret_cast<const char *>(base), size}, first, second);
    std::copy(derived.begin(), derived.end(), key);
    return 1;
}

void shim_proof(const uint8_t *key, uint32_t by_initiator, const char *label, const char *message,
                uint64_t size, uint8_t *proof) {
    LinkKey of{};
    std::copy(key, key + of.size(), of.begin());
    const LinkEnd sender = by_initiator != 0 ? LinkEnd::kInitiator : LinkEnd::kAcceptor;
    const std::string made = Proof(of, sender, label, {message, size});
    std::copy(made.begin(), made.end(), proof);
}

uint32_t shim_is_address(const char *bytes, uint64_t size) {
    SocketAddress address;
    return SocketAddress::Parse(std::string(bytes, size), 1, &address).ok() ? 1 : 0;
}

uint64_t shim_network(const char *ip) {
    SocketAddress address;
    return SocketAddress::Parse(ip, 1, &address).ok() ? address.Network() : 0;
}

uint64_t shim_find_region(const uint64_t *addrs, const uint64_t *sizes, uint64_t count,
                          uint64_t address) {
    std::vector<AddressRange> ranges(count);
    for (uint64_t i = 0; i < count; ++i) ranges[i] = {addrs[i], sizes[i]};
    SortedRegions<AddressRange> regions;
    regions.Assign(std::move(ranges));
    return regions.Find(address, [](const AddressRange &) { return true; });
}

void shim_read_numbers(const char *bytes, uint64_t size, uint16_t *first, uint32_t *second,
                       uint32_t *is_read) {
    Reader reader(std::string_view(bytes, size));
    *first = reader.Number<uint16_t>();
    *second = reader.Number<uint32_t>();
    *is_read = reader.ok() ? 1 : 0;
}

}  // extern "C"
