/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks by ucp_get_nbx, straight from C: one call for each block, then a flush. One context, worker and peer for each
 * process. Functions return 0 or a time, and a negative ucs_status_t for a failure.
 */
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucp/api/ucp.h>

#define TRY(call)                               \
    do {                                        \
        ucs_status_t tried = (call);            \
        if (tried != UCS_OK) return (int)tried; \
    } while (0)

static ucp_context_h context;
static ucp_worker_h worker;
static ucp_mem_h memory;
static ucp_ep_h endpoint;
static ucp_rkey_h remote_key;

int ucx_open(void) {
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES, .features = UCP_FEATURE_RMA};
    TRY(ucp_init(&params, NULL, &context));
    ucp_worker_params_t worker_params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                         .thread_mode = UCS_THREAD_MODE_SINGLE};
    TRY(ucp_worker_create(context, &worker_params, &worker));
    return 0;
}

/* *address NULL: UCX allocates memory that it can share. */
int ucx_map(void **address, uint64_t size) {
    ucp_mem_map_params_t params = {.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS |
                                                 UCP_MEM_MAP_PARAM_FIELD_LENGTH |
                                                 UCP_MEM_MAP_PARAM_FIELD_FLAGS,
                                   .address = *address,
                                   .length = size,
                                   .flags = *address == NULL ? UCP_MEM_MAP_ALLOCATE : 0};
    TRY(ucp_mem_map(context, &params, &memory));
    ucp_mem_attr_t attributes = {.field_mask = UCP_MEM_ATTR_FIELD_ADDRESS};
    TRY(ucp_mem_query(memory, &attributes));
    *address = attributes.address;
    return 0;
}

/* How the memory and the worker are reached: two lengths, the key, the address. Returns the size, -1: more than room. */
int64_t ucx_describe(char *description, uint64_t room) {
    void *key;
    size_t lengths[2];
    ucp_address_t *address;
    TRY(ucp_rkey_pack(context, memory, &key, &lengths[0]));
    TRY(ucp_worker_get_address(worker, &address, &lengths[1]));
    size_t size = sizeof lengths + lengths[0] + lengths[1];
    if (size > room) return -1;
    memcpy(description, lengths, sizeof lengths);
    memcpy(description + sizeof lengths, key, lengths[0]);
    memcpy(description + sizeof lengths + lengths[0], address, lengths[1]);
    ucp_rkey_buffer_release(key);
    ucp_worker_release_address(worker, address);
    return (int64_t)size;
}

int ucx_connect(const char *description) {
    size_t lengths[2];
    memcpy(lengths, description, sizeof lengths);
    const char *key = description + sizeof lengths;
    ucp_ep_params_t params = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS,
                              .address = (const ucp_address_t *)(key + lengths[0])};
    TRY(ucp_ep_create(worker, &params, &endpoint));
    TRY(ucp_ep_rkey_unpack(endpoint, key, &remote_key));
    return 0;
}

/* Makes progress until fd can be read, or is closed. */
void ucx_serve(int fd) {
    struct pollfd watched = {fd, POLLIN, 0};
    do {
        for (int i = 0; i < 1000; i++) ucp_worker_progress(worker);
    } while (poll(&watched, 1, 0) == 0);
}

int64_t ucx_pull(const uint64_t *src, const uint64_t *dst, uint64_t count, uint64_t size) {
    struct timespec start, end;
    ucp_request_param_t get = {.op_attr_mask = UCP_OP_ATTR_FIELD_MEMH, .memh = memory}, none = {0};
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (uint64_t i = 0; i < count; i++) {
        void *request = ucp_get_nbx(endpoint, (void *)dst[i], size, src[i], remote_key, &get);
        if (UCS_PTR_IS_ERR(request)) return UCS_PTR_STATUS(request);
        if (request != NULL) ucp_request_free(request);
    }
    void *flush = ucp_ep_flush_nbx(endpoint, &none);
    if (UCS_PTR_IS_ERR(flush)) return UCS_PTR_STATUS(flush);
    if (flush != NULL) {
        ucs_status_t status;
        while ((status = ucp_request_check_status(flush)) == UCS_INPROGRESS)
            ucp_worker_progress(worker);
        ucp_request_free(flush);
        if (status != UCS_OK) return status;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (end.tv_sec - start.tv_sec) * 1000000000ll + end.tv_nsec - start.tv_nsec;
}
