/* llm_datadist.h - the C ABI of llm_datadist: moving KV-cache blocks between processes.
 *
 * SPDX-License-Identifier: Apache-2.0
 *
 * One header, several libraries: libllm_datadist_mock.so moves the bytes through host memory on any Linux host,
 * libllm_datadist_ascend.so through CANN. Both export exactly the functions below, with the same structs and statuses.
 *
 * THE MODEL
 *   An *engine* is one participant. It owns *caches*: groups of equally shaped tensors whose memory it allocated from
 *   its pools or was told of by the client ("registered"). A cache is *contiguous* (dims[0] is the batch size) or has
 *   *blocks* (dims[0] is the number of blocks); tensor bytes / dims[0] is one *stride*. Caches are found by id or by
 *   *key*. Two engines that made a *link* may pull from and push to each other's caches.
 *   In *one-sided mode* a transfer reads or writes the peer's memory directly, after reading a copy of the peer's cache
 *   table once per link; in *request mode* the owner looks the key up for each pull. Both ends must use one mode.
 *
 * A MINIMAL PULLER
 *     lldd_config config = {0};
 *     config.struct_size = sizeof config;
 *     config.cluster_id = 2;
 *     config.role = LLDD_ROLE_DECODER;
 *     config.mode = LLDD_MODE_ONE_SIDED;
 *     config.rdma_traffic_class = config.rdma_service_level = LLDD_UNSET;
 *     lldd_engine *engine;
 *     if (lldd_engine_open(&config, &engine) != LLDD_SUCCESS) { puts(lldd_last_error()); exit(1); }
 *     ... lldd_cache_register, lldd_link_clusters, lldd_pull ...
 *     lldd_engine_close(engine);
 *     lldd_engine_free(engine);
 *
 * RULES FOR EVERY FUNCTION
 *   Statuses     A function that can fail returns lldd_status; LLDD_SUCCESS is 0. lldd_last_error() has the details.
 *                Three statuses are possible everywhere and not repeated below: LLDD_ABI_MISMATCH (a struct_size that
 *                this library cannot serve), LLDD_PARAM_INVALID for a null argument that must not be null, and
 *                LLDD_FAILED (an error inside the library, memory exhausted, or the engine belongs to the parent of
 *                this forked process).
 *   Structs      struct_size, the first member, is sizeof of the struct as the caller's header has it; zero the rest
 *                before use, reserved members stay zero. A smaller struct means defaults for what is missing. A larger
 *                one is accepted if its tail is zero. Out-structs are written up to the caller's struct_size. In an
 *                array of structs all elements have the struct_size of the first, which is also the stride.
 *   Out values   are written only on success, unless a function says otherwise.
 *   Ownership    The library never keeps a pointer it was given, except that memory of registered caches is used until
 *                the cache is unregistered. Arrays are borrowed for the call and each element is read exactly once.
 *                Returned `const char *` belong to the library; see each function for how long they live.
 *   Threads      Every function may be called from any thread at any time. Transfers over one link queue; transfers
 *                over different links run in parallel.
 *   Blocking     Calls block the calling thread, at the longest for the deadline named, which starts with the call:
 *                waiting for other transfers of the link counts. No function calls back into the client.
 *   After close  lldd_engine_close() makes every later call on the handle answer LLDD_ENGINE_FINALIZED, before it looks at
 *                any other argument; closing again succeeds. Only lldd_engine_free() ends the handle.
 *   Fork         A child process must not use the engines of its parent: each call answers LLDD_FAILED. It may open
 *                engines of its own.
 *   Memory       Addresses are of the calling process. Any non-zero address may be registered, it is not touched then;
 *                a transfer that meets unmapped memory answers LLDD_FAILED in the process that asked and never ends the
 *                peer. Unmapping memory while it is registered is an error of the client and can at worst end its own
 *                process.
 */
#ifndef LLM_DATADIST_H_
#define LLM_DATADIST_H_

#include <stdint.h>

#if UINTPTR_MAX != UINT64_MAX
#error "llm_datadist needs a 64-bit platform"
#endif

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/* Everything between the two marks is read by cffi when the Python package is built. Inside it: integer literals only,
 * no casts, no attributes, no conditional compilation. */
/* [lldd declarations begin] */

/* ------------------------------------------------------------------------------------------------ constants ---- */

/* The version of this interface. A library serves callers of the same major version and a minor version not above its
 * own; until 1.0 structs may grow at the end with each minor version. */
#define LLDD_VERSION_MAJOR 0
#define LLDD_VERSION_MINOR 1

/* Statuses. The numbers are those of the Python API's LLMStatusCode. */
#define LLDD_SUCCESS 0
#define LLDD_FAILED 0xFFFFFFFF
#define LLDD_WAIT_PROCESS_TIMEOUT 0x5010B001
#define LLDD_KV_CACHE_NOT_EXIST 0x5010B002
#define LLDD_REPEAT_REQUEST 0x5010B003
#define LLDD_REQUEST_ALREADY_COMPLETED 0x5010B004
#define LLDD_PARAM_INVALID 0x5010B005
#define LLDD_ENGINE_FINALIZED 0x5010B006
#define LLDD_NOT_YET_LINK 0x5010B007
#define LLDD_ALREADY_LINK 0x5010B008
#define LLDD_LINK_FAILED 0x5010B009
#define LLDD_UNLINK_FAILED 0x5010B00A
#define LLDD_NOTIFY_PROMPT_UNLINK_FAILED 0x5010B00B
#define LLDD_CLUSTER_NUM_EXCEED_LIMIT 0x5010B00C
#define LLDD_PROCESSING_LINK 0x5010B00D
#define LLDD_DEVICE_OUT_OF_MEMORY 0x5010B00E
#define LLDD_PREFIX_ALREADY_EXIST 0x5010B00F
#define LLDD_PREFIX_NOT_EXIST 0x5010B010
#define LLDD_SEQ_LENOVERLIMIT 0x5010B011
#define LLDD_NO_FREE_BLOCK 0x5010B012
#define LLDD_BLOCKS_OUT_OF_MEMORY 0x5010B013
#define LLDD_EXIST_LINK 0x5010B018
#define LLDD_FEATURE_NOT_ENABLED 0x5010B019
#define LLDD_TIMEOUT 0x5010B01A
#define LLDD_LINK_BUSY 0x5010B01B
#define LLDD_OUT_OF_MEMORY 0x5010B01C
#define LLDD_DEVICE_MEM_ERROR 507053
#define LLDD_SUSPECT_REMOTE_ERROR 507057
/* Of this library alone: a struct_size that it cannot serve. */
#define LLDD_ABI_MISMATCH 0x4C4C0001
/* Of this library alone, with LLDD_CONFIG_TELL_NOTICES only: a transfer succeeded, and left a notice. */
#define LLDD_NOTICE_LEFT 0x4C4C0002

/* lldd_config.role */
#define LLDD_ROLE_PROMPT 1
#define LLDD_ROLE_DECODER 2
#define LLDD_ROLE_MIX 3

/* lldd_config.mode */
#define LLDD_MODE_REQUEST 0
#define LLDD_MODE_ONE_SIDED 1

/* lldd_config.link_style: how link_clusters behaves. */
/* MUTUAL: one call makes both ends, known under the id that the peer tells. ONE_WAY: only the caller may use the link, under
 * the id that it gave; there are no communicators; needs a listen address and one-sided mode. */
#define LLDD_LINK_STYLE_MUTUAL 0
#define LLDD_LINK_STYLE_ONE_WAY 1

/* lldd_config.flags. STRICT_HARDWARE: refuse what only the device refuses (sizes of requests and of the cache table). LISTEN:
 * listen_ip and listen_port count. TELL_NOTICES: a pull, push or layer that succeeded and left a notice answers
 * LLDD_NOTICE_LEFT in place of LLDD_SUCCESS. */
#define LLDD_CONFIG_STRICT_HARDWARE 1
#define LLDD_CONFIG_LISTEN 2
#define LLDD_CONFIG_TELL_NOTICES 4

/* lldd_cache_desc.layout */
#define LLDD_LAYOUT_CONTIGUOUS 0
#define LLDD_LAYOUT_BLOCKS 1

/* lldd_cache_desc.placement */
#define LLDD_PLACEMENT_HOST 0
#define LLDD_PLACEMENT_DEVICE 1

/* lldd_cache_desc.data_type: CANN's own numbering. STRING counts 16 bytes per element. */
#define LLDD_TYPE_FLOAT 0
#define LLDD_TYPE_FLOAT16 1
#define LLDD_TYPE_INT8 2
#define LLDD_TYPE_INT32 3
#define LLDD_TYPE_UINT8 4
#define LLDD_TYPE_INT16 6
#define LLDD_TYPE_UINT16 7
#define LLDD_TYPE_UINT32 8
#define LLDD_TYPE_INT64 9
#define LLDD_TYPE_UINT64 10
#define LLDD_TYPE_DOUBLE 11
#define LLDD_TYPE_BOOL 12
#define LLDD_TYPE_STRING 13
#define LLDD_TYPE_BF16 27

/* lldd_cache_key.kind */
#define LLDD_KEY_REQUEST 1
#define LLDD_KEY_ID 2
#define LLDD_KEY_BLOCKS 3
/* A req_id or prefix_id that is not given. */
#define LLDD_ID_UNSET 0xFFFFFFFFFFFFFFFF

/* lldd_register_args.flags */
#define LLDD_REGISTER_REMOTE_ACCESSIBLE 1

/* lldd_cluster.flags */
#define LLDD_CLUSTER_HAS_ID 1

/* lldd_push_args.num_layers: as many whole layers as the own cache has. */
#define LLDD_ALL_LAYERS 0xFFFFFFFF

/* lldd_config: a number that is not given. */
#define LLDD_UNSET 0xFFFFFFFF

/* lldd_link_info.state */
#define LLDD_LINK_LIVE 1
#define LLDD_LINK_PEER_GONE 2
#define LLDD_LINK_CLOSING 3
/* The peer does not answer for peer_timeout_ms, but its host does, or may: LIVE again when it answers. */
#define LLDD_LINK_SILENT 4

/* lldd_group_state: the state of a communicator made by lldd_link(). */
#define LLDD_GROUP_OK 0
#define LLDD_GROUP_PREPARING 1
#define LLDD_GROUP_FAILED 2

/* lldd_path_info.memory: what kind of memory of the peer a path reaches. */
#define LLDD_MEMORY_ALLOCATED 1
#define LLDD_MEMORY_REGISTERED 2

/* Indices of lldd_traffic.bytes_pulled and bytes_pushed; lldd_path_info.path has the names. */
#define LLDD_PATH_MAPPED 0
#define LLDD_PATH_CMA 1
#define LLDD_PATH_TCP 2
#define LLDD_PATH_HIXL 3

/* Indices of lldd_traffic.failures: the status that a transfer failed with. OTHER: any that is not listed. */
#define LLDD_FAILURE_TIMEOUT 0
#define LLDD_FAILURE_KV_CACHE_NOT_EXIST 1
#define LLDD_FAILURE_PARAM_INVALID 2
#define LLDD_FAILURE_NOT_YET_LINK 3
#define LLDD_FAILURE_OUT_OF_MEMORY 4
#define LLDD_FAILURE_FEATURE_NOT_ENABLED 5
#define LLDD_FAILURE_SUSPECT_REMOTE_ERROR 6
#define LLDD_FAILURE_OTHER 7

/* lldd_traffic.side: whose calls made the transfers. */
#define LLDD_SIDE_OWN 1
#define LLDD_SIDE_PEER 2

/* lldd_runtime_info.capabilities */
#define LLDD_CAN_DEVICE_TO_DEVICE 1
#define LLDD_CAN_HOST_REMOTE 2
#define LLDD_CAN_INJECT_FAULTS 4

/* lldd_log_set levels, as in ASCEND_GLOBAL_LOG_LEVEL. */
#define LLDD_LOG_DEBUG 0
#define LLDD_LOG_INFO 1
#define LLDD_LOG_WARNING 2
#define LLDD_LOG_ERROR 3
#define LLDD_LOG_OFF 4

/* ---------------------------------------------------------------------------------------------------- types ---- */

typedef uint32_t lldd_status;

/* One participant. Opaque. */
typedef struct lldd_engine lldd_engine;

/* Ends transfers from another thread, see lldd_token_cancel(). Opaque. */
typedef struct lldd_token lldd_token;

/* One line of the layout table: a member of a struct, or (field empty) the struct itself with its size. */
typedef struct lldd_field {
    const char *type;  /* "lldd_config" */
    const char *field; /* "cluster_id"; "" for the struct itself */
    uint32_t offset;   /* bytes from the start of the struct */
    uint32_t size;     /* bytes */
} lldd_field;

/* What the loaded library drives. */
typedef struct lldd_runtime_info {
    uint32_t struct_size;
    uint32_t device_count;  /* devices that can be opened, numbered from 0 */
    uint64_t capabilities;  /* LLDD_CAN_* */
    char name[16];          /* "mock", "ascend" */
    char version[16];       /* of the library, "0.1.0" */
    char description[208];  /* for people: transports or hardware, and why some are missing */
} lldd_runtime_info;

/* How to open an engine. */
typedef struct lldd_config {
    uint32_t struct_size;
    uint32_t role;             /* LLDD_ROLE_*; has no influence on transfers */
    uint64_t cluster_id;       /* unique among all engines that link */
    uint32_t mode;             /* LLDD_MODE_* */
    uint32_t link_style;       /* LLDD_LINK_STYLE_*: ONE_WAY is what the option transfer_backend = "hixl" asks for */
    int32_t device_id;         /* from 0 */
    uint32_t flags;            /* LLDD_CONFIG_* */
    uint32_t sync_timeout_ms;  /* deadline of pulls, pushes and of each layer; 0: 1000 */
    uint32_t listen_port;      /* with LLDD_CONFIG_LISTEN: 0 picks a free one, see lldd_engine_info; at most 65535 */
    const char *listen_ip;     /* with LLDD_CONFIG_LISTEN: "127.0.0.1", "::1" (no brackets, no zone) */
    uint64_t device_pool_size; /* bytes; 0: no device pool, nothing can be allocated on the device */
    uint64_t host_pool_size;   /* bytes; 0: no host pool */
    uint32_t device_page_shift; /* log2 of the page bytes, 10..30; 0: 16 */
    uint32_t host_page_shift;   /* the same for the host pool */
    uint32_t link_total_time_s; /* for lldd_link(); 0: 120 */
    uint32_t link_retry_count;  /* for lldd_link(), 1..100; 0: 1 */
    uint32_t rdma_traffic_class; /* LLDD_UNSET: the device's default */
    uint32_t rdma_service_level; /* LLDD_UNSET: the device's default */
    const char *local_comm_res;         /* JSON for the device, or null; kept until a link is made */
    const char *global_resource_config; /* JSON for the device, or null */
    const char *auth_token;             /* shared secret that both ends of a link must have, or null; not "" */
    const char *buffer_pool;            /* of HIXL, "num:size in MB", or null: "0:0"; both ends of a link must agree */
    uint32_t finalize_timeout_ms;       /* how long a close waits for the device's library; 0: 10000 */
    uint32_t peer_timeout_ms;   /* after which a peer that does not answer is noticed; 0: 15000; LLDD_UNSET: never */
} lldd_config;

/* What an open engine is. */
typedef struct lldd_engine_info {
    uint32_t struct_size;
    uint32_t role;
    uint64_t cluster_id;
    uint32_t mode;
    int32_t device_id;
    uint32_t listen_port;   /* the real port; 0: not listening */
    uint32_t num_links;
    uint64_t num_caches;
    uint64_t device_pool_size;
    uint64_t device_pool_free;
    uint64_t host_pool_size;
    uint64_t host_pool_free;
    char listen_ip[64];     /* "": not listening */
} lldd_engine_info;

/* The shape of a cache. */
typedef struct lldd_cache_desc {
    uint32_t struct_size;
    uint32_t num_tensors;
    uint32_t layout;     /* LLDD_LAYOUT_* */
    uint32_t placement;  /* LLDD_PLACEMENT_* */
    uint32_t data_type;  /* LLDD_TYPE_* */
    uint32_t num_dims;   /* 1..31 */
    const int64_t *dims; /* num_dims sizes, each > 0; dims[0] is the batch size or the number of blocks */
    uint32_t batch_dim_index; /* below num_dims; moves nothing: dims[0] counts. A contiguous one that is not 0 leaves a notice */
    uint32_t reserved;
} lldd_cache_desc;

/* Names a cache of a peer, or binds a name to an own one. */
typedef struct lldd_cache_key {
    uint32_t struct_size;
    uint32_t kind;        /* LLDD_KEY_*: decides which of the members below count */
    uint64_t cluster_id;  /* whose cache; ignored where a key is bound or removed */
    uint64_t model_id;    /* REQUEST and BLOCKS */
    uint64_t req_id;      /* REQUEST; LLDD_ID_UNSET: not given, or a placeholder */
    uint64_t prefix_id;   /* REQUEST; LLDD_ID_UNSET: not given; otherwise it counts and req_id does not */
    int64_t cache_id;     /* ID */
    uint32_t batch_index; /* ID */
    uint32_t reserved;
} lldd_cache_key;

/* A new cache over memory of the client. */
typedef struct lldd_register_args {
    uint32_t struct_size;
    uint32_t flags;               /* LLDD_REGISTER_* */
    const lldd_cache_desc *desc;
    const uint64_t *addrs;        /* num_addrs start addresses, one per tensor */
    uint64_t num_addrs;
    const lldd_cache_key *keys;   /* contiguous: key i names batch entry i; blocks: at most one key */
    uint64_t num_keys;
} lldd_register_args;

/* A pull: which bytes of a peer's cache go where in an own cache. */
typedef struct lldd_pull_args {
    uint32_t struct_size;
    uint32_t tensors_per_layer;   /* how many consecutive tensors are one layer; > 0 */
    const lldd_cache_key *key;    /* the source, cluster_id included */
    int64_t cache_id;             /* the own cache that receives */
    int64_t size;                 /* contiguous: bytes per tensor, -1 for the local stride; else -1 */
    const uint64_t *src_blocks;   /* block k of the source goes to block k of the destination */
    uint64_t num_src_blocks;
    const uint64_t *dst_blocks;
    uint64_t num_dst_blocks;
    uint32_t batch_index;         /* contiguous destination: which batch entry */
    uint32_t src_layer_start;     /* layers [start, start + count) of the source; */
    uint32_t src_layer_count;     /* a count of 0 means no range was given */
    uint32_t dst_layer_start;
    uint32_t dst_layer_count;
    uint32_t waited_ms;           /* how long the caller has waited before the call: it ends so much earlier */
    lldd_token *token;            /* ends the call early; or null */
} lldd_pull_args;

/* A push: which bytes of an own cache go where in a peer's cache. */
typedef struct lldd_push_args {
    uint32_t struct_size;
    uint32_t tensors_per_layer;   /* > 0; must divide the number of tensors of the own cache */
    const lldd_cache_key *key;    /* the destination: LLDD_KEY_ID or LLDD_KEY_BLOCKS */
    int64_t cache_id;             /* the own cache that is sent */
    const uint64_t *src_blocks;   /* block k of the source goes to block k of the destination */
    uint64_t num_src_blocks;
    const uint64_t *dst_blocks;
    uint64_t num_dst_blocks;
    uint32_t src_batch_index;     /* contiguous source: which batch entry */
    uint32_t src_layer_start;
    uint32_t dst_layer_start;
    uint32_t num_layers;          /* from both starts on; LLDD_ALL_LAYERS: as many as the own cache has, which is none,
                                     and success, where it has fewer tensors than a layer */
    lldd_token *token;            /* ends the call early; or null */
    uint32_t waited_ms;           /* how long the caller has waited before the call: the first layer ends so much earlier */
    uint32_t reserved;
} lldd_push_args;

/* One layer of an asynchronous transfer. */
typedef struct lldd_transfer_args {
    uint32_t struct_size;
    uint32_t tensors_per_layer;    /* > 0; must divide the number of tensors of the own cache */
    const lldd_cache_key *key;     /* one-sided mode: the destination; request mode: null */
    uint64_t dst_cluster_id;       /* request mode: the peer */
    const uint64_t *dst_addrs;     /* request mode: tensors_per_layer addresses inside a cache of the peer */
    uint64_t num_dst_addrs;
    int64_t cache_id;              /* the own cache that is sent */
    const uint64_t *src_blocks;
    uint64_t num_src_blocks;
    const uint64_t *dst_blocks;
    uint64_t num_dst_blocks;
    uint64_t dst_block_size;       /* bytes of a destination block; 0: not given */
    uint32_t src_batch_index;
    uint32_t src_layer;
    uint32_t dst_layer;            /* one-sided mode */
    uint32_t reserved;
    lldd_token *token;             /* ends the call early; or null */
} lldd_transfer_args;

/* A copy between two batch entries of own contiguous caches. */
typedef struct lldd_copy_args {
    uint32_t struct_size;
    uint32_t dst_batch_index;
    int64_t dst_cache_id;
    int64_t src_cache_id;
    uint32_t src_batch_index;
    uint32_t reserved;
    uint64_t offset; /* bytes from the start of either batch entry */
    int64_t size;    /* bytes; -1: the source stride less offset */
} lldd_copy_args;

/* Whole blocks from one set of tensors to another, host to device or back. */
typedef struct lldd_swap_args {
    uint32_t struct_size;
    uint32_t src_placement; /* LLDD_PLACEMENT_*; the other side has the other one */
    const uint64_t *src_addrs; /* num_tensors start addresses */
    const uint64_t *dst_addrs;
    uint64_t num_tensors;
    uint64_t block_bytes;
    const uint64_t *src_blocks; /* block src_blocks[k] of each source tensor goes to block dst_blocks[k] */
    const uint64_t *dst_blocks;
    uint64_t num_blocks;
} lldd_swap_args;

/* A piece of memory. */
typedef struct lldd_memory {
    uint32_t struct_size;
    uint32_t placement;
    uint64_t addr;
    uint64_t size;
} lldd_memory;

/* One TCP address. */
typedef struct lldd_address {
    uint32_t struct_size;
    uint32_t port;  /* 0..65535 */
    const char *ip; /* IPv4 or IPv6 text, no brackets, no zone */
} lldd_address;

/* A peer to link to or unlink from. */
typedef struct lldd_cluster {
    uint32_t struct_size;
    uint32_t flags;                /* LLDD_CLUSTER_HAS_ID: remote_cluster_id counts */
    uint64_t remote_cluster_id;
    const lldd_address *remote;    /* the address that the peer listens on: exactly one for linking */
    uint64_t num_remote;
    const lldd_address *local;     /* addresses of this host: connections of the link go out from the first one of the remote's
                                      family; ports do not count. 0.0.0.0, ::, or a loopback address towards another host choose
                                      nothing */
    uint64_t num_local;
} lldd_cluster;

/* What became of one lldd_cluster. */
typedef struct lldd_cluster_result {
    uint32_t struct_size;
    lldd_status status;
    uint64_t remote_cluster_id; /* linked: the id that the peer told */
    char detail[496];           /* what went wrong; "" on success */
} lldd_cluster_result;

/* One member of a communicator. */
typedef struct lldd_member {
    uint32_t struct_size;
    uint32_t rank;
    uint64_t cluster_id;
} lldd_member;

/* A communicator: engines that link to each other by all calling lldd_link() with the same description. */
typedef struct lldd_group {
    uint32_t struct_size;
    uint32_t reserved;
    const char *name;            /* 1..127 bytes */
    const lldd_member *members;  /* 2..4, ranks ascending */
    uint64_t num_members;
    const char *rank_table;      /* JSON for the device */
} lldd_group;

/* One link as this end sees it. */
typedef struct lldd_link_info {
    uint32_t struct_size;
    uint32_t state;           /* LLDD_LINK_* */
    uint64_t peer_cluster_id;
    uint64_t comm_id;         /* of lldd_link(); 0: made by link_clusters */
    uint64_t pulls;           /* that succeeded */
    uint64_t pushes;          /* layers that succeeded */
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint32_t is_initiator;    /* 1: this end made the connection */
    uint32_t number;          /* by which the logs of both ends call the link */
    char peer_address[64];    /* "127.0.0.1:26000", "[::1]:26000" */
    uint64_t failures[8];     /* of this end, by LLDD_FAILURE_* */
    uint64_t last_success_us; /* as in lldd_traffic, of this end */
    uint64_t last_error_us;
    lldd_status last_error_status;
    uint32_t reserved;
    char last_error[256];
    uint64_t peer_pulls;      /* of the peer from this end, as it reports them */
    uint64_t peer_pushes;     /* layers */
    uint64_t peer_bytes_in;   /* that it pushed into this engine */
    uint64_t peer_bytes_out;  /* that it pulled from it */
    uint64_t peer_failures;
} lldd_link_info;

/* How one kind of a peer's memory is reached over one link, and why. */
typedef struct lldd_path_info {
    uint32_t struct_size;
    uint32_t memory;  /* LLDD_MEMORY_* */
    char path[16];    /* "mapped", "cma", "tcp", "hixl"; "none": nothing may serve it */
    char reason[232]; /* "same host; process_vm_readv refused: ..." */
} lldd_path_info;

/* Totals of an engine since it was opened. */
typedef struct lldd_counters {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t pulls;         /* calls that succeeded */
    uint64_t pushes;        /* layers that succeeded, those of lldd_transfer_layer included */
    uint64_t copies;        /* local copies that succeeded */
    uint64_t failures;      /* transfers that did not succeed, timeouts included */
    uint64_t timeouts;
    uint64_t bytes_in;      /* pulled by this engine */
    uint64_t bytes_out;     /* pushed by this engine */
    uint64_t links_made;
    uint64_t links_lost;    /* links whose peer closed the connection */
    uint64_t table_reads;   /* cache tables read from peers */
    uint64_t links_silent;  /* how often a link became LLDD_LINK_SILENT */
    uint64_t peer_pulls;    /* of peers from this engine, as they report them: at the latest half a second late */
    uint64_t peer_pushes;   /* layers */
    uint64_t peer_bytes_in;  /* that peers pushed into this engine */
    uint64_t peer_bytes_out; /* that peers pulled from it */
    uint64_t peer_failures;  /* of peers' transfers with this engine */
} lldd_counters;

/* What the transfers over one link have come to, or (link 0) those over all links since the engine was opened, with the
 * failures of transfers for which there was no link. A peer reports its own every 100 ms while they go on, within 500 ms
 * after a rest, and when the link is taken down; what it reports may be anything, and only grows. */
typedef struct lldd_traffic {
    uint32_t struct_size;
    uint32_t side;             /* LLDD_SIDE_* */
    uint64_t peer_cluster_id;  /* 0 where link is 0, as are state and peer_address */
    uint32_t link;             /* lldd_link_info.number */
    uint32_t state;            /* LLDD_LINK_* */
    uint64_t pulls;            /* that succeeded */
    uint64_t pushes;           /* layers that succeeded */
    uint64_t bytes_pulled[4];  /* of these, by LLDD_PATH_* */
    uint64_t bytes_pushed[4];
    uint64_t failures[8];      /* by LLDD_FAILURE_* */
    uint64_t latency[28];      /* how many of those that succeeded took less than 2^k us and at least half of that, k the index; the
                                  last one has all longer ones. From the call to its end, of each layer of a push. Not counted
                                  where LLM_DATADIST_STATISTICS is 0 */
    uint64_t latency_us;       /* their sum */
    uint64_t last_success_us;  /* since 1970; 0: never, or LLM_DATADIST_STATISTICS is 0 */
    uint64_t last_error_us;    /* since 1970; 0: nothing has failed */
    lldd_status last_error_status;
    uint32_t reserved;
    char last_error[256];      /* its text, cut at 240 bytes */
    char peer_address[64];     /* as in lldd_link_info */
} lldd_traffic;

/* ------------------------------------------------------------------------- before any engine: the library ---- */

/* The library's LLDD_VERSION_MAJOR * 65536 + LLDD_VERSION_MINOR. Cannot fail. */
uint32_t lldd_version(void);

/* A hash of the normalised declarations that the library was built from. Python, which ships with the library, demands
 * its own value. 0: built without one. Cannot fail. */
uint64_t lldd_fingerprint(void);

/* The layout of every struct as this library has it. *count is set to the number of lines; the table is never freed. */
const lldd_field *lldd_layout(uint64_t *count);

/* What the library drives. Opens no device. */
lldd_status lldd_runtime_describe(lldd_runtime_info *info);

/* Speaks to the runtime itself, for tests and tools: the runtime's own header lists its commands ("help" lists them,
 * too). The answer is text, cut to answer_size bytes with its final zero; *answer_needed, if not null, is set to the
 * bytes the whole answer needs.
 * LLDD_PARAM_INVALID: no such command, or a bad argument. LLDD_FEATURE_NOT_ENABLED: this runtime has no commands. */
lldd_status lldd_runtime_control(const char *command, const char *argument, char *answer, uint64_t answer_size,
                                 uint64_t *answer_needed);

/* "LLDD_TIMEOUT" for a status, "unknown status" for other numbers. The text is never freed. */
const char *lldd_status_name(lldd_status status);

/* The text of this thread's last failed call: operation, peer, what was asked, what was there. "" before the first
 * failure. Lives until this thread's next call of a function that returns lldd_status. */
const char *lldd_last_error(void);

/* The device's own number behind this thread's last failed call; 0: there was none. */
int64_t lldd_last_error_raw(void);

/* From which level on log lines are written, and to which file descriptor (1 is the default; the library does not close
 * it). The level at load is that of ASCEND_GLOBAL_LOG_LEVEL, LLDD_LOG_ERROR without it.
 * LLDD_PARAM_INVALID: no such level, or a negative descriptor. */
lldd_status lldd_log_set(uint32_t level, int32_t fd);

/* --------------------------------------------------------------------------------------- life of an engine ---- */

/* Opens an engine: the device, the listener, the pools. A failure undoes what was done.
 * LLDD_PARAM_INVALID: a member out of its range, a bad listen address, no such device, a page larger than its pool.
 * LLDD_FAILED: cannot bind or listen. LLDD_OUT_OF_MEMORY: the device pool cannot be allocated (host pool: LLDD_FAILED). */
lldd_status lldd_engine_open(const lldd_config *config, lldd_engine **engine);

/* Closes an engine: no new call gets in, running transfers are interrupted (LLDD_TIMEOUT), running calls are waited for,
 * then links go (without telling the peers, who see the connection close), caches, pools, listener and threads. A second
 * close succeeds at once. LLDD_TIMEOUT: the engine is closed, but a call of the device's library has not returned within
 * finalize_timeout_ms: the device and the memory of the pools stay taken, and an engine on that device cannot be opened
 * in this process before the call returns. */
lldd_status lldd_engine_close(lldd_engine *engine);

/* Ends the handle; closes the engine first if need be. No call may be running or follow. Null is allowed. */
void lldd_engine_free(lldd_engine *engine);

/* What the engine is and holds. */
lldd_status lldd_engine_describe(lldd_engine *engine, lldd_engine_info *info);

/* Totals since the engine was opened. */
lldd_status lldd_engine_counters(lldd_engine *engine, lldd_counters *counters);

/* Takes the oldest notice that a background event left for the client (a link was silently replaced, a peer used this
 * engine's cluster id, ...). *length is set to its bytes without the final zero, 0 when there is none; a longer text is
 * cut to size. At most 64 notices wait, older ones are dropped. */
lldd_status lldd_engine_next_notice(lldd_engine *engine, char *text, uint64_t size, uint64_t *length);

/* Closes the listener (ip null) or moves it to another address; nothing happens if the port is the present one.
 * LLDD_EXIST_LINK: there are live links. LLDD_PARAM_INVALID: bad address. LLDD_FAILED: cannot bind or listen; the old
 * listener is closed by then. LLDD_FEATURE_NOT_ENABLED: another address with LLDD_LINK_STYLE_ONE_WAY. */
lldd_status lldd_engine_switch_listener(lldd_engine *engine, const char *ip, uint32_t port);

/* --------------------------------------------------------------------------------------------------- caches ---- */

/* Allocates a cache from the pool of its placement; contents are not cleared. addrs (desc->num_tensors numbers) receives
 * the start addresses, cache_id the id (from 1, never reused). Keys are bound as given: contiguous, key i names batch
 * entry i; blocks, at most one LLDD_KEY_BLOCKS key.
 * In this order: LLDD_FEATURE_NOT_ENABLED: no pool at all. LLDD_PARAM_INVALID: no pool of that placement; dims; bytes do
 * not fit int64. LLDD_OUT_OF_MEMORY: the pool has no room. LLDD_PARAM_INVALID: more keys than batch entries, a key
 * already bound or repeated. */
lldd_status lldd_cache_allocate(lldd_engine *engine, const lldd_cache_desc *desc, const lldd_cache_key *keys,
                                uint64_t num_keys, int64_t *cache_id, uint64_t *addrs);

/* Registers a cache over the client's memory. Tensors may overlap others and have any alignment. A blocks key that is
 * bound already goes over to the new cache; a contiguous one stays where it is.
 * LLDD_PARAM_INVALID: dims; number of addresses; bytes do not fit int64; a zero address or a range past the end of the
 * address space (remote accessible caches). LLDD_FAILED: the device refuses the memory. */
lldd_status lldd_cache_register(lldd_engine *engine, const lldd_register_args *args, int64_t *cache_id);

/* Releases an allocated cache: at once, or when its last key is gone. Success for registered and unknown ids, without
 * effect. LLDD_FEATURE_NOT_ENABLED: the engine has no pool. */
lldd_status lldd_cache_deallocate(lldd_engine *engine, int64_t cache_id);

/* Removes a cache, its keys and its registration, and waits until no peer is in its memory. Works for allocated caches,
 * too. Success for unknown ids. LLDD_TIMEOUT: a peer did not leave the memory within sync_timeout_ms; the cache is gone,
 * the memory must not be reused yet. */
lldd_status lldd_cache_unregister(lldd_engine *engine, int64_t cache_id);

/* Unbinds a key (LLDD_KEY_REQUEST) of an allocated cache, which is released if that was the last reference. Success
 * without effect for unknown keys and registered caches. LLDD_FEATURE_NOT_ENABLED: the engine has no pool. */
lldd_status lldd_key_remove(lldd_engine *engine, const lldd_cache_key *key);

/* ---------------------------------------------------------------------------------------------------- links ---- */

/* Links to num_clusters peers in parallel; results (as many) says what became of each, and is written whatever the
 * entries came to. The returned status is success, or that of the last failing entry. One call makes both ends; the
 * link is stored under the id that the peer told.
 * Per entry: LLDD_PARAM_INVALID: not exactly one remote address, an address that cannot be parsed, a local address that
 * is none of this host's, another mode at the peer. LLDD_LINK_FAILED: connection refused, or the peer speaks another protocol. LLDD_TIMEOUT: not done within
 * timeout_ms. LLDD_ALREADY_LINK: linked already; the link stays. Of the call itself: LLDD_PARAM_INVALID without
 * clusters or with timeout_ms 0. */
lldd_status lldd_link_clusters(lldd_engine *engine, const lldd_cluster *clusters, uint64_t num_clusters,
                               uint32_t timeout_ms, lldd_cluster_result *results);

/* Unlinks from num_clusters peers; results as above. force 0: the peer also drops its end, and exactly one remote address
 * must be given; force 1: only this end goes, the id is enough, and a dead peer does not matter. Waits for a running
 * transfer of the link. Not linked is success.
 * Per entry: LLDD_UNLINK_FAILED: the peer is gone or refuses; LLDD_TIMEOUT: the peer is silent; this end stays then. */
lldd_status lldd_unlink_clusters(lldd_engine *engine, const lldd_cluster *clusters, uint64_t num_clusters,
                                 uint32_t timeout_ms, uint32_t force, lldd_cluster_result *results);

/* Joins a communicator; returns without waiting for the other members. Its links can be used once the state is
 * LLDD_GROUP_OK. Ids count from 1.
 * LLDD_PARAM_INVALID: name, members, ranks; the own cluster id is not a member; 512 communicators exist. LLDD_LINK_FAILED:
 * the meeting point cannot be bound. */
lldd_status lldd_link(lldd_engine *engine, const lldd_group *group, uint64_t *comm_id);

/* Leaves a communicator; the others are not told. LLDD_NOT_YET_LINK: no such id. LLDD_UNLINK_FAILED: a peer did not
 * leave this engine's memory in time. */
lldd_status lldd_unlink(lldd_engine *engine, uint64_t comm_id);

/* The state of a communicator, LLDD_GROUP_*; a notice says why one failed. LLDD_NOT_YET_LINK: no such id. */
lldd_status lldd_group_state(lldd_engine *engine, uint64_t comm_id, uint32_t *state);

/* The links of the engine: up to capacity entries are written to links, *count is set to how many there are. */
lldd_status lldd_links(lldd_engine *engine, lldd_link_info *links, uint64_t capacity, uint64_t *count);

/* What transfers have come to: the sums of this end and of all peers, then both sides of each link, those included that only
 * the peer may use (one-way links). Up to capacity entries are written to rows, *count is set to how many there are. */
lldd_status lldd_engine_traffic(lldd_engine *engine, lldd_traffic *rows, uint64_t capacity, uint64_t *count);

/* Drops every link of link_clusters whose peer is gone (LLDD_LINK_PEER_GONE), as a forced unlink does; *count is set to
 * how many, in any case. Links of communicators stay until lldd_unlink. LLDD_TIMEOUT: a process of this host is still
 * within the memory of this one over such a link; the others are dropped, too. */
lldd_status lldd_drop_gone_links(lldd_engine *engine, uint64_t *count);

/* How the memory of one linked peer is reached: up to capacity entries, *count is set to how many there are.
 * LLDD_NOT_YET_LINK: no link to that cluster id. */
lldd_status lldd_link_paths(lldd_engine *engine, uint64_t peer_cluster_id, lldd_path_info *paths, uint64_t capacity,
                            uint64_t *count);

/* ------------------------------------------------------------------------------------------------ transfers ---- */

/* Pulls from a peer's cache into an own one; returns when the bytes are there.
 * On this side, in this order: LLDD_PARAM_INVALID: tensors_per_layer 0, own cluster id; LLDD_KV_CACHE_NOT_EXIST: no own
 * cache with that id; LLDD_PARAM_INVALID: batch index, layout, size, block lists, layer ranges; LLDD_NOT_YET_LINK: no
 * live link.
 * Then of the peer: LLDD_KV_CACHE_NOT_EXIST: no such cache there; LLDD_PARAM_INVALID: not remote accessible, another
 * tensor count, block size or stride, indices out of range; LLDD_FAILED: memory unmapped, withdrawn, or registered after
 * the link was made; LLDD_TIMEOUT: sync_timeout_ms is over, or the peer closed the connection.
 * LLDD_FEATURE_NOT_ENABLED: no transport that may be used reaches the memory; request mode from host to host memory. */
lldd_status lldd_pull(lldd_engine *engine, const lldd_pull_args *args);

/* Pushes layers of an own cache to a peer's, one after the other, each with its own deadline; the first failure ends the
 * call, earlier layers stay written. *layers_done, if not null, is written in any case. One-sided mode only.
 * LLDD_PARAM_INVALID, LLDD_KV_CACHE_NOT_EXIST, LLDD_NOT_YET_LINK, LLDD_FAILED, LLDD_TIMEOUT, LLDD_FEATURE_NOT_ENABLED: as for
 * lldd_pull, with the sides exchanged. */
lldd_status lldd_push(lldd_engine *engine, const lldd_push_args *args, uint32_t *layers_done);

/* Sends one layer of an own cache: to a cache of the peer (one-sided mode), or to raw addresses inside one (request
 * mode). Statuses as for lldd_push. */
lldd_status lldd_transfer_layer(lldd_engine *engine, const lldd_transfer_args *args);

/* Under which id the transfers run that this thread asks for from now on: the 128 bits of a W3C trace id, and the 64 of
 * the span that they belong to. All 0, as in a new thread: each transfer has an id of its own, and no span. Ids are what a
 * box (LLM_DATADIST_BOX) and the log call a transfer by, at both ends. Cannot fail. */
void lldd_transfer_context(uint64_t trace_high, uint64_t trace_low, uint64_t span);

/* Makes a token. A transfer that is given it ends early once it is cancelled, and any number of transfers of any engines
 * may be given one. It must outlive them. */
lldd_status lldd_token_new(lldd_token **token);

/* Cancels a token, for good: the transfers that have it answer LLDD_TIMEOUT ("interrupted by cancel"), those under way
 * within 50 ms or after the next MiB, on a device when it has done what it was told. What they leave behind is what
 * failed ones do. Returns without waiting for them; again is success. */
lldd_status lldd_token_cancel(lldd_token *token);

/* Ends a token. Null is allowed. */
void lldd_token_free(lldd_token *token);

/* --------------------------------------------------------------------------------------------- local copies ---- */

/* Copies between batch entries of two own caches, all tensors, any placement.
 * LLDD_KV_CACHE_NOT_EXIST: either cache. LLDD_PARAM_INVALID: tensor counts differ, batch index, offset or size out of range. */
lldd_status lldd_cache_copy(lldd_engine *engine, const lldd_copy_args *args);

/* Copies blocks within one cache: src_blocks[k] to dst_blocks[k] for num_pairs pairs, in no particular order.
 * LLDD_KV_CACHE_NOT_EXIST: no such cache. LLDD_PARAM_INVALID: not blocks, or an index out of range; LLDD_FAILED: memory unmapped; earlier
 * pairs may have been copied then. */
lldd_status lldd_blocks_copy(lldd_engine *engine, int64_t cache_id, const uint64_t *src_blocks,
                             const uint64_t *dst_blocks, uint64_t num_pairs);

/* Copies whole blocks between host and device tensors given by address. LLDD_PARAM_INVALID: no tensors, block_bytes 0.
 * LLDD_FAILED: memory unmapped. */
lldd_status lldd_blocks_swap(lldd_engine *engine, const lldd_swap_args *args);

/* For registered memory that was mapped anew: checks what is given and has no other effect, since no runtime has anything
 * to do then. LLDD_PARAM_INVALID: none given, host memory, zero address or size. LLDD_NOT_YET_LINK: no live link. */
lldd_status lldd_memory_remap(lldd_engine *engine, const lldd_memory *memory, uint64_t count);

/* [lldd declarations end] */

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* LLM_DATADIST_H_ */
