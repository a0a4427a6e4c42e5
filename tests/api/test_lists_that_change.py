# SPDX-License-Identifier: Apache-2.0
"""Lists and dicts that change during a call, or lie about their length: decision 71."""

from __future__ import annotations

import ctypes

import pytest

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    CacheKey,
    DataType,
    LLMClusterInfo,
    LLMException,
    LLMStatusCode,
    MemInfo,
    Memtype,
    Placement,
    TransferConfig,
)
from tests.api.test_transfer import Layers

DESC = CacheDesc(4, [8, 16], DataType.DT_INT8)
HOST_DESC = CacheDesc(4, [8, 16], DataType.DT_INT8, Placement.HOST)
BLOCKS = Cache(5, DESC, [1, 2, 3, 4], True)

pytestmark = pytest.mark.rule("C10-71")


class Lying(list):
    """Says that it has four elements."""

    def __len__(self):
        return 4


def parameter_invalid(call, text):
    with pytest.raises(LLMException, match=text) as caught:
        call()
    assert caught.value.status_code is LLMStatusCode.LLM_PARAM_INVALID


def cluster(cluster_id, port=26000):
    info = LLMClusterInfo()
    info.remote_cluster_id = cluster_id
    info.append_remote_ip_info("127.0.0.1", port)
    info.append_local_ip_info("127.0.0.1", 0)
    return info


def test_addresses_are_as_many_as_there_are(native, manager):
    parameter_invalid(lambda: manager.register_cache(DESC, Lying([16, 32])), "got 2")
    manager.register_blocks_cache(DESC, Lying([16, 32]))
    args = native.last("cache_register")[1]
    assert (args["num_addrs"], args["addrs"]) == (2, [16, 32])


def test_keys_are_as_many_as_there_are(native, manager):
    keys = Lying([CacheKey(1, 7)])
    native.on("cache_allocate", lambda *_: None)
    manager.allocate_cache(DESC, keys)
    assert len(native.last("cache_allocate")[2]) == native.last("cache_allocate")[3] == 1
    manager.register_cache(DESC, [16, 32, 48, 64], keys)
    args = native.last("cache_register")[1]
    assert args["num_keys"] == len(args["keys"]) == 1


@pytest.mark.parametrize("operation", ["link_clusters", "unlink_clusters"])
def test_clusters_appended_during_the_call(native, open_datadist, operation):
    clusters = [cluster(9)]
    # As another thread does while the library works.
    native.on(operation, lambda *_: clusters.append(cluster(10)))
    _, codes = getattr(open_datadist(), operation)(clusters, 1000)
    assert len(codes) == 1
    assert len(clusters) == 2


def test_addresses_of_a_cluster_that_grow_while_they_are_read(native, open_datadist):
    class Growing(LLMClusterInfo):
        reads = 0

        @property
        def remote_ip_info_list(self):
            Growing.reads += 1
            return [("127.0.0.1", 1)] * Growing.reads

    info = Growing()
    info.remote_cluster_id = 4
    info.append_local_ip_info("127.0.0.1", 0)
    open_datadist().link_clusters([info], 1000)
    (struct,) = native.last("link_clusters")[1]
    assert len(struct["remote"]) == struct["num_remote"] == 1


def test_targets_of_a_block_are_as_many_as_there_are(native, manager):
    manager.copy_blocks(BLOCKS, {0: Lying([1])})
    assert native.last("blocks_copy")[2:] == ([0], [1], 1)


def test_pairs_of_a_swap_are_taken_together(native, manager):
    class Shrinking(dict):
        def values(self):
            return list(super().values())[:1]

    host = Cache.create_cpu_cache(HOST_DESC, [10, 20, 30, 40])
    manager.swap_blocks(host, BLOCKS, Shrinking({7: 0, 1: 2}))
    args = native.last("blocks_swap")[1]
    assert (args["src_blocks"], args["dst_blocks"], args["num_blocks"]) == ([7, 1], [0, 2], 2)


def test_addresses_of_a_cpu_cache_are_as_many_as_there_are():
    parameter_invalid(lambda: Cache.create_cpu_cache(HOST_DESC, Lying([16, 32])), "got 2")


def test_destinations_are_as_many_as_there_are(request_manager):
    cache = Cache(5, CacheDesc(4, [8, 16], DataType.DT_INT8), [1, 2, 3, 4], False)
    configs = [TransferConfig(9, Lying([1, 2]))]
    parameter_invalid(
        lambda: request_manager.transfer_cache_async(cache, Layers(), configs), "got 2"
    )


def test_pieces_of_memory_are_as_many_as_there_are(native, manager):
    manager.remap_registered_memory(Lying([MemInfo(Memtype.MEM_TYPE_DEVICE, 4096, 4096)]))
    assert native.last("memory_remap")[2] == 1


def test_members_of_a_communicator_are_as_many_as_there_are(native, open_datadist):
    class Growing(dict):
        def __len__(self):
            return 3

    open_datadist().link("name", Growing({1: 0, 2: 1}), "{}")
    assert native.last("link")[1]["num_members"] == 2


@pytest.mark.parametrize("operation", ["pull_blocks", "push_blocks"])
def test_block_ids_that_lie_about_their_number(native, manager, operation):
    getattr(manager, operation)(BlocksCacheKey(9), BLOCKS, Lying([1]), Lying([2]))
    args = native.last(operation[:4])[1]
    assert (args["src_blocks"], args["num_src_blocks"]) == ([1], 1)
    assert (args["dst_blocks"], args["num_dst_blocks"]) == ([2], 1)


@pytest.mark.parametrize("operation", ["pull_blocks", "push_blocks"])
def test_block_ids_that_an_element_takes_away(native, manager, operation):
    class Taker:
        def __index__(self):
            del ids[1:]
            return 1

    ids = [Taker(), 2, 3]
    getattr(manager, operation)(BlocksCacheKey(9), BLOCKS, ids, [4, 5, 6])
    args = native.last(operation[:4])[1]
    assert (args["src_blocks"], args["num_src_blocks"]) == ([1], 1)


@pytest.mark.rule("C10-73")
def test_a_ctypes_array_with_a_negative_id(native, manager):
    ids = (ctypes.c_int64 * 2)(1, -2)
    native.fail("pull", LLMStatusCode.LLM_PARAM_INVALID)
    with pytest.raises(TypeError, match=r"src_blocks\[1\].*-2"):
        manager.pull_blocks(BlocksCacheKey(9), BLOCKS, ids, [4, 5])


@pytest.mark.rule("C10-73")
@pytest.mark.parametrize("kind", [ctypes.c_int64, ctypes.c_uint64])
def test_a_ctypes_array_that_the_engine_refuses(native, manager, kind):
    native.fail("pull", LLMStatusCode.LLM_PARAM_INVALID)
    parameter_invalid(
        lambda: manager.pull_blocks(BlocksCacheKey(9), BLOCKS, (kind * 2)(1, 99), [4, 5]),
        "the library's own text",
    )
