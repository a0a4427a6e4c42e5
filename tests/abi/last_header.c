// SPDX-License-Identifier: Apache-2.0
// A program of the last version: compiled against the header that release/abi has, it moves a block
// between two engines of the library of today. Prints "moved" and ends with 0.
#include <llm_datadist.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kBlocks = 4, kBlockBytes = 4096 };

static char source[kBlocks * kBlockBytes], destination[kBlocks * kBlockBytes];

static void Check(lldd_status status, const char *what) {
    if (status == LLDD_SUCCESS) return;
    printf("%s: %s: %s\n", what, lldd_status_name(status), lldd_last_error());
    exit(1);
}

static lldd_engine *Open(uint64_t cluster_id, uint32_t role) {
    lldd_config config = {0};
    config.struct_size = sizeof config;
    config.cluster_id = cluster_id;
    config.role = role;
    config.mode = LLDD_MODE_ONE_SIDED;
    config.flags = LLDD_CONFIG_LISTEN;
    config.listen_ip = "127.0.0.1";
    config.rdma_traffic_class = config.rdma_service_level = LLDD_UNSET;
    lldd_engine *engine = NULL;
    Check(lldd_engine_open(&config, &engine), "open");
    return engine;
}

static lldd_cache_key KeyOf(uint64_t cluster_id) {
    lldd_cache_key key = {0};
    key.struct_size = sizeof key;
    key.kind = LLDD_KEY_BLOCKS;
    key.cluster_id = cluster_id;
    key.model_id = 7;
    return key;
}

static int64_t Register(lldd_engine *engine, uint64_t cluster_id, char *memory) {
    const int64_t dims[] = {kBlocks, kBlockBytes};
    lldd_cache_desc desc = {0};
    desc.struct_size = sizeof desc;
    desc.num_tensors = 1;
    desc.layout = LLDD_LAYOUT_BLOCKS;
    desc.placement = LLDD_PLACEMENT_DEVICE;
    desc.data_type = LLDD_TYPE_INT8;
    desc.num_dims = 2;
    desc.dims = dims;
    const uint64_t addrs[] = {(uint64_t)(uintptr_t)memory};
    const lldd_cache_key key = KeyOf(cluster_id);
    lldd_register_args args = {0};
    args.struct_size = sizeof args;
    args.flags = LLDD_REGISTER_REMOTE_ACCESSIBLE;
    args.desc = &desc;
    args.addrs = addrs;
    args.num_addrs = 1;
    args.keys = &key;
    args.num_keys = 1;
    int64_t cache_id = -1;
    Check(lldd_cache_register(engine, &args, &cache_id), "register");
    return cache_id;
}

static void LinkTo(lldd_engine *engine, lldd_engine *peer) {
    lldd_engine_info info = {0};
    info.struct_size = sizeof info;
    Check(lldd_engine_describe(peer, &info), "describe");
    lldd_address address = {0};
    address.struct_size = sizeof address;
    address.ip = info.listen_ip;
    address.port = info.listen_port;
    lldd_cluster cluster = {0};
    cluster.struct_size = sizeof cluster;
    cluster.remote = &address;
    cluster.num_remote = 1;
    lldd_cluster_result result = {0};
    result.struct_size = sizeof result;
    Check(lldd_link_clusters(engine, &cluster, 1, 10000, &result), "link");
    if (result.remote_cluster_id != info.cluster_id) exit(2);
}

int main(void) {
    for (size_t i = 0; i < sizeof source; ++i) source[i] = (char)(i * 31 + i / kBlockBytes);
    lldd_engine *prompt = Open(1, LLDD_ROLE_PROMPT);
    lldd_engine *decoder = Open(2, LLDD_ROLE_DECODER);
    Register(prompt, 1, source);
    const int64_t cache_id = Register(decoder, 2, destination);
    LinkTo(decoder, prompt);

    const uint64_t from[] = {3}, to[] = {1};
    const lldd_cache_key key = KeyOf(1);
    lldd_pull_args args = {0};
    args.struct_size = sizeof args;
    args.tensors_per_layer = 1;
    args.key = &key;
    args.cache_id = cache_id;
    args.size = -1;
    args.src_blocks = from;
    args.num_src_blocks = 1;
    args.dst_blocks = to;
    args.num_dst_blocks = 1;
    Check(lldd_pull(decoder, &args), "pull");
    lldd_counters counters = {0};
    counters.struct_size = sizeof counters;
    Check(lldd_engine_counters(decoder, &counters), "counters");
    const int moved =
        memcmp(destination + kBlockBytes, source + 3 * kBlockBytes, kBlockBytes) == 0 &&
        counters.pulls == 1 && counters.bytes_in == kBlockBytes;
    lldd_engine_free(decoder);
    lldd_engine_free(prompt);
    if (moved) puts("moved");
    return moved ? 0 : 3;
}
