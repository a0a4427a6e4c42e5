/* A flat C view of the engine's pure parts, for the tests in this folder. cffi reads what follows
 * the mark.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SHIM_H_
#define SHIM_H_

#include <stdint.h>

/* [declarations] */

typedef struct shim_cache {
    int64_t id;
    uint32_t num_tensors;
    uint32_t blocks;
    uint32_t placement;
    uint32_t data_type;
    uint64_t tensor_bytes;
    uint64_t count;
    const uint64_t *addrs;
} shim_cache;

/* `first` is local, `second` remote; of a copy within the process: destination and source. */
typedef struct shim_run {
    uint64_t first;
    uint64_t second;
    uint64_t length;
} shim_run;

typedef struct shim_pull_args {
    shim_cache local;
    uint32_t tensors_per_layer;
    uint32_t batch_index;
    int64_t size;
    const uint64_t *src_blocks;
    uint64_t num_src_blocks;
    const uint64_t *dst_blocks;
    uint64_t num_dst_blocks;
    uint32_t src_layer_start;
    uint32_t src_layer_count;
    uint32_t dst_layer_start;
    uint32_t dst_layer_count;
} shim_pull_args;

typedef struct shim_push_args {
    shim_cache local;
    uint32_t tensors_per_layer;
    uint32_t src_batch_index;
    const uint64_t *src_blocks;
    uint64_t num_src_blocks;
    const uint64_t *dst_blocks;
    uint64_t num_dst_blocks;
    uint64_t dst_block_size;
} shim_push_args;

typedef struct shim_copy_args {
    shim_cache dst;
    shim_cache src;
    uint32_t dst_batch_index;
    uint32_t src_batch_index;
    uint64_t offset;
    int64_t size;
} shim_copy_args;

typedef struct shim_swap_args {
    uint32_t src_placement;
    const uint64_t *src_addrs;
    const uint64_t *dst_addrs;
    uint64_t num_tensors;
    uint64_t block_bytes;
    const uint64_t *src_blocks;
    const uint64_t *dst_blocks;
    uint64_t num_blocks;
} shim_swap_args;

typedef struct shim_key {
    uint32_t kind;
    uint64_t model_id;
    uint64_t req_id;
    uint64_t prefix_id;
} shim_key;

typedef struct shim_found {
    int64_t cache_id; /* 0: nothing was found */
    uint64_t batch_index;
    uint32_t consumable;
} shim_found;

typedef struct shim_name {
    uint64_t req_id;
    uint64_t model_id;
    int64_t cache_id;
} shim_name;

typedef struct shim_pool shim_pool;
typedef struct shim_store shim_store;
typedef struct shim_pin shim_pin;

/* Of this thread's last call that gave a status. */
const char *shim_text(void);

uint64_t shim_element_bytes(uint32_t data_type);
uint32_t shim_shape(uint32_t num_tensors, uint32_t layout, uint32_t placement, uint32_t data_type,
                    const int64_t *dims, uint32_t num_dims, shim_cache *shape);
uint32_t shim_check_shape(const shim_cache *shape);

/* The plans: up to `capacity` runs are written, *count is how many there are. */
uint32_t shim_check_pull(const shim_pull_args *args);
uint32_t shim_plan_pull(const shim_pull_args *args, const shim_cache *remote, uint64_t remote_batch,
                        shim_run *runs, uint64_t capacity, uint64_t *count);
uint32_t shim_check_push(const shim_push_args *args);
uint32_t shim_plan_push(const shim_push_args *args, const shim_cache *remote, uint64_t dst_batch,
                        uint32_t src_layer, uint32_t dst_layer, shim_run *runs, uint64_t capacity,
                        uint64_t *count);
uint32_t shim_plan_copy(const shim_copy_args *args, shim_run *runs, uint64_t capacity,
                        uint64_t *count);
uint32_t shim_plan_blocks_copy(const shim_cache *cache, const uint64_t *src_blocks,
                               const uint64_t *dst_blocks, uint64_t num_pairs, shim_run *runs,
                               uint64_t capacity, uint64_t *count);
uint32_t shim_plan_swap(const shim_swap_args *args, shim_run *runs, uint64_t capacity,
                        uint64_t *count);
/* Plans `rounds` pulls of one block while another thread changes both lists' only element between a
 * good and a bad index. *accepted counts the plans that were made, *escaped those with a run
 * outside the caches. */
void shim_race_lists(uint64_t rounds, uint64_t *accepted, uint64_t *escaped);

/* base/hmac.h: each writes the 32 bytes of the digest. */
void shim_sha256(const char *message, uint64_t size, uint8_t *digest);
void shim_hmac_sha256(const char *key, uint64_t key_size, const char *message, uint64_t size,
                      uint8_t *digest);
uint32_t shim_same_digest(const char *a, uint64_t a_size, const char *b, uint64_t b_size);

/* base/checksum.h: of the bytes, added in pieces of `piece`. */
uint64_t shim_checksum(const char *bytes, uint64_t size, uint64_t piece);

uint32_t shim_check_pool(uint64_t size, uint32_t page_shift);
shim_pool *shim_pool_new(uint64_t base, uint64_t size, uint32_t page_shift);
void shim_pool_delete(shim_pool *pool);
/* 0: no room. */
uint64_t shim_pool_allocate(shim_pool *pool, uint64_t size);
uint32_t shim_pool_allocate_all(shim_pool *pool, uint64_t size, uint32_t count, uint64_t *addrs);
uint32_t shim_pool_free(shim_pool *pool, uint64_t addr);
uint64_t shim_pool_free_bytes(shim_pool *pool);
uint64_t shim_pool_round_up(shim_pool *pool, uint64_t size);

shim_store *shim_store_new(void);
void shim_store_delete(shim_store *store);
/* *id is written in any case. The cache has `count` strides of one byte. Notices:
 * shim_store_notice. */
uint32_t shim_store_add(shim_store *store, uint32_t registered, uint32_t blocks, uint64_t count,
                        const shim_key *keys, uint64_t num_keys, int64_t *id);
/* The oldest notice not yet taken; "" when there is none. Lives until the next call. */
const char *shim_store_notice(shim_store *store);
/* A reference that keeps the memory; null: no such cache. */
shim_pin *shim_store_pin(shim_store *store, int64_t id);
void shim_store_unpin(shim_pin *pin);
shim_found shim_store_find(shim_store *store, const shim_key *key);
shim_found shim_store_find_entry(shim_store *store, int64_t id, uint64_t batch_index);
/* The id of the cache that went, 0 if none did. */
int64_t shim_store_deallocate(shim_store *store, int64_t id);
int64_t shim_store_remove_key(shim_store *store, const shim_key *key);
int64_t shim_store_unregister(shim_store *store, int64_t id);
uint64_t shim_store_clear(shim_store *store);
/* The ids whose memory was released, in order: up to capacity are written, the number is returned.
 */
uint64_t shim_store_released(shim_store *store, int64_t *ids, uint64_t capacity);
/* The one-sided table; both arrays have `capacity` places. Returns the version. */
uint64_t shim_store_table(shim_store *store, int64_t *ids, uint64_t *num_ids, shim_name *names,
                          uint64_t *num_names, uint64_t capacity);
const char *shim_store_describe(shim_store *store);

/* What two rank tables have differently; "": they say the same. Lives until the next call. */
const char *shim_rank_table_difference(const char *own, const char *other);

/* The key of a connection: 32 bytes are written. The greetings have 36 bytes each; 0: one of them is
 * none. */
uint32_t shim_derive_key(const uint8_t *base, uint64_t size, const char *initiator,
                         const char *acceptor, uint8_t *key);
/* A proof with that key: 32 bytes are written. */
void shim_proof(const uint8_t *key, uint32_t by_initiator, const char *label, const char *message,
                uint64_t size, uint8_t *proof);

/* Whether so many bytes are an IP address. */
uint32_t shim_is_address(const char *bytes, uint64_t size);
/* By which strangers are told apart: of an IP address. */
uint64_t shim_network(const char *ip);

/* runtime/regions.h: which of these regions holds the address, as its place in the order of their
 * addresses; `count`: none. */
uint64_t shim_find_region(const uint64_t *addrs, const uint64_t *sizes, uint64_t count,
                          uint64_t address);

/* base/codec.h: the two numbers that begin the bytes, of 2 and 4 bytes; *is_read: both were there. */
void shim_read_numbers(const char *bytes, uint64_t size, uint16_t *first, uint32_t *second,
                       uint32_t *is_read);

/* [end of declarations] */

#endif /* SHIM_H_ */
