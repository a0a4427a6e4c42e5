# SPDX-License-Identifier: Apache-2.0
"""Checks in the order that the contract gives them: 1.4, 1.4.1, 1.7, 1.9 and 1.10.

Each call starts with every argument wrong and has them put right one after the other; what is
raised must be what the first wrong one asks for.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import pytest

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    CacheKey,
    DataType,
    LLMClusterInfo,
    LLMDataDist,
    LLMException,
    LLMRole,
    LLMStatusCode,
    Placement,
)

S = LLMStatusCode
INVALID = S.LLM_PARAM_INVALID
DESC = CacheDesc(2, [4, 8], DataType.DT_INT8)
HOST_DESC = CacheDesc(2, [4, 8], DataType.DT_INT8, Placement.HOST)
NO_TENSORS = CacheDesc(0, [4, 8], DataType.DT_INT8)
CONTIGUOUS = Cache(1, DESC, [1, 2], False)
BLOCKS = Cache(2, DESC, [1, 2], True)


class Step(NamedTuple):
    """A wrong value of an argument, and what it alone must raise."""

    name: str
    value: Any
    error: type[Exception] | LLMStatusCode
    text: str


def check_order(call: Callable[..., Any], good: dict[str, Any], steps: list[Step]) -> None:
    for first in range(len(steps)):
        arguments = dict(good)
        # Where one argument is wrong in two ways, the way that is to be found first.
        for step in reversed(steps[first:]):
            arguments[step.name] = step.value
        error, text = steps[first].error, steps[first].text
        kind = LLMException if isinstance(error, LLMStatusCode) else error
        with pytest.raises(kind, match=text) as caught:
            call(**arguments)
        if isinstance(error, LLMStatusCode):
            assert caught.value.status_code is error
        else:
            assert not isinstance(caught.value, LLMException)
    call(**good)


@pytest.mark.rule("C1.7-1")
def test_c1_7_1_order_of_a_cache_desc():
    check_order(
        CacheDesc,
        {"num_tensors": 1, "shape": [2], "data_type": DataType.DT_INT8},
        [
            Step("num_tensors", -1, ValueError, "num_tensors"),
            Step("shape", "4", TypeError, "shape only support"),
            Step("data_type", 2, TypeError, "data_type only support"),
            Step("placement", 1, TypeError, "placement only support"),
            Step("batch_dim_index", "0", TypeError, "batch_dim_index only support"),
            Step("seq_len_dim_index", 2**31, ValueError, "seq_len_dim_index"),
            Step("kv_tensor_format", 1, TypeError, "kv_tensor_format only support"),
            Step("batch_dim_index", 1, INVALID, "batch_dim_index"),
            Step("seq_len_dim_index", 1, INVALID, "seq_len_dim_index"),
            Step("shape", [2**63], ValueError, r"shape\[0\]"),
        ],
    )


@pytest.mark.rule("C1.4-15", "C1.4-16", "C1.4-17", "C1.4-18")
def test_c1_4_15_order_of_link_clusters(open_datadist):
    no_local, no_id, good = LLMClusterInfo(), LLMClusterInfo(), LLMClusterInfo()
    for info in (no_id, good):
        info.append_local_ip_info("127.0.0.1", 1)
    good.append_remote_ip_info("127.0.0.1", 2)
    good.remote_cluster_id = 7
    check_order(
        open_datadist().link_clusters,
        {"clusters": [good]},
        [
            Step("timeout", "1", TypeError, "timeout only support"),
            Step("timeout", 2**31, ValueError, "timeout"),
            Step("timeout", 0, INVALID, "timeout"),
            Step("clusters", {1: good}, TypeError, "clusters only support"),
            Step("clusters", [no_local], INVALID, "local_ip_info_list is empty"),
            Step("clusters", [no_id], TypeError, "remote_cluster_id"),
        ],
    )


@pytest.mark.rule(*(f"C1.4-{n}" for n in range(22, 30)))
def test_c1_4_22_order_of_link(open_datadist):
    check_order(
        open_datadist(1).link,
        {"comm_name": "x" * 127, "cluster_rank_info": {1: 0, 2: 0}, "rank_table": "{}"},
        [
            Step("comm_name", None, TypeError, "comm_name only support"),
            Step("comm_name", "", INVALID, "comm_name"),
            Step("comm_name", "x" * 128, INVALID, "comm_name"),
            Step("cluster_rank_info", [1], TypeError, "cluster_rank_info only support"),
            Step("cluster_rank_info", {"1": 0}, TypeError, "only support int"),
            Step("cluster_rank_info", {-each: 0 for each in range(5)}, INVALID, "at most 4"),
            Step("cluster_rank_info", {-1: 0}, ValueError, "cluster id"),
            Step("cluster_rank_info", {1: 2**32}, ValueError, "cluster_rank_info"),
            Step("rank_table", None, TypeError, "rank_table only support"),
            Step("cluster_rank_info", {1: 0}, INVALID, "at least 2"),
            Step("cluster_rank_info", {1: 1, 2: 0}, INVALID, "ascend"),
        ],
    )


@pytest.mark.rule(
    "C1.4.1-2",
    "C1.4.1-3",
    "C1.4.1-5",
    "C1.4.1-9",
    *(f"C1.4.1-{n}" for n in range(11, 16)),
    "C1.4.1-17",
    "C1.4.1-19",
)
def test_c1_4_1_14_order_of_init(native, open_datadist):
    size, resource, mode = "ge.flowGraphMemMaxSize", "llm.LocalCommRes", "llm.EnableCacheManager"
    backend, accessible = "llm.TransferBackend", "llm.EnableRemoteCacheAccessible"
    listen = "llm.listenIpInfo"
    first = open_datadist(1)
    datadist = LLMDataDist(LLMRole.PROMPT, 2)
    options: Any = "no dict"

    def init_raises(error: Any, text: str) -> None:
        kind = LLMException if isinstance(error, LLMStatusCode) else error
        with pytest.raises(kind, match=text) as caught:
            datadist.init(options)
        assert getattr(caught.value, "status_code", error) is error
        assert LLMDataDist.llm_engine_instance in (None, first)

    init_raises(S.LLM_FAILED, "initialized already")
    first.finalize()
    init_raises(TypeError, "options only support dict")
    native.fail("engine_open", S.LLM_FAILED)
    options = {size: 5, resource: "", mode: "0", backend: "", accessible: "0"}
    init_raises(TypeError, "flowGraphMemMaxSize only support str")
    options[size] = "1,2"
    init_raises(INVALID, "flowGraphMemMaxSize")
    options[size] = "12"
    init_raises(INVALID, "LocalCommRes.*EnableCacheManager")
    del options[resource]
    init_raises(INVALID, "TransferBackend.*EnableCacheManager")
    options[mode] = "1"
    init_raises(INVALID, "EnableRemoteCacheAccessible")
    del options[accessible]
    init_raises(INVALID, "listenIpInfo")
    options[listen] = "127.0.0.1"
    init_raises(INVALID, "listenIpInfo")
    options[listen] = "127.0.0.1:x"
    init_raises(ValueError, "invalid literal")
    options[listen] = "127.0.0.1:0"
    init_raises(INVALID, "TransferBackend")
    assert native.of("engine_open")[1:] == []
    options[backend] = "hixl"
    init_raises(S.LLM_FAILED, r"\[init\] failed")
    native.fail("engine_open", 0)
    datadist.init(options)
    assert LLMDataDist.llm_engine_instance is datadist
    datadist.finalize()


@pytest.mark.rule("C1.10-3")
def test_c1_10_3_order_of_allocate_cache(native, open_datadist):
    native.on("cache_allocate", lambda engine, desc, keys, n, out, addrs: None)
    host_only = open_datadist(host_mem_pool_cfg='{"memory_size": 65536}').cache_manager
    check_order(
        host_only.allocate_cache,
        {"cache_desc": CacheDesc(1, [1], DataType.DT_INT8, Placement.HOST)},
        [
            Step("cache_desc", "x", TypeError, "cache_desc only support"),
            Step("cache_desc", NO_TENSORS, INVALID, "num_tensors"),
            Step("cache_desc", DESC, INVALID, "mem_pool_cfg"),
            Step("cache_keys", [BlocksCacheKey(1)], TypeError, "cache_keys"),
        ],
    )


@pytest.mark.rule("C1.10-4")
def test_c1_10_4_order_of_allocate_blocks_cache(native, open_datadist):
    native.on("cache_allocate", lambda engine, desc, keys, n, out, addrs: None)
    device_only = open_datadist(mem_pool_cfg='{"memory_size": 65536}').cache_manager
    check_order(
        device_only.allocate_blocks_cache,
        {"cache_desc": CacheDesc(1, [1], DataType.DT_INT8)},
        [
            Step("cache_desc", "x", TypeError, "cache_desc only support"),
            Step("cache_desc", NO_TENSORS, INVALID, "num_tensors"),
            Step("cache_desc", HOST_DESC, INVALID, "host_mem_pool_cfg"),
            Step("blocks_cache_key", CacheKey(1, 2), TypeError, "blocks_cache_key"),
        ],
    )


@pytest.mark.rule("C1.10-7")
def test_c1_10_7_order_of_register_cache(native, manager):
    manager.set_is_call_linked()
    check_order(
        manager.register_cache,
        {"cache_desc": DESC, "addrs": [1, 2]},
        [
            Step("cache_desc", None, TypeError, "cache_desc only support"),
            Step("addrs", (1, 2), TypeError, "addrs only support list"),
            Step("addrs", ["1"], TypeError, r"addrs\[0\]"),
            Step("cache_keys", CacheKey(1, 2), TypeError, "cache_keys only support"),
            Step("remote_accessible", 1, TypeError, "remote_accessible only support"),
            Step("remote_accessible", True, INVALID, "link"),
            Step("addrs", [], INVALID, "addrs is empty"),
            Step("addrs", [0], INVALID, "2 tensors"),
            Step("addrs", [1, 0], INVALID, "zero"),
        ],
    )


@pytest.mark.rule("C1.10-8")
def test_c1_10_8_order_of_register_blocks_cache(native, manager):
    manager.set_is_call_linked()
    check_order(
        manager.register_blocks_cache,
        # Count and zero are left to the engine.
        {"cache_desc": DESC, "addrs": [0]},
        [
            Step("cache_desc", None, TypeError, "cache_desc only support"),
            Step("addrs", (1, 2), TypeError, "addrs only support list"),
            Step("blocks_cache_key", CacheKey(1, 2), TypeError, "blocks_cache_key"),
            Step("remote_accessible", 1, TypeError, "remote_accessible only support"),
            Step("remote_accessible", True, INVALID, "link"),
            Step("addrs", [], INVALID, "addrs is empty"),
        ],
    )


@pytest.mark.rule("C1.10-11")
def test_c1_10_11_order_of_copy_cache(native, manager):
    check_order(
        manager.copy_cache,
        {"dst": CONTIGUOUS, "src": CONTIGUOUS},
        [
            Step("dst", None, TypeError, "dst only support"),
            Step("src", 5, TypeError, "src only support"),
            Step("dst_batch_index", -1, ValueError, "dst_batch_index"),
            Step("src_batch_index", 2**32, ValueError, "src_batch_index"),
            Step("offset", -1, ValueError, "offset"),
            Step("size", 2**63, ValueError, "size"),
            Step("src", BLOCKS, INVALID, "src has blocks"),
            Step("dst", BLOCKS, INVALID, "dst has blocks"),
            Step("size", 0, INVALID, "size"),
            Step("req_id", -1, ValueError, "req_id"),
        ],
    )


@pytest.mark.rule("C1.10-12")
def test_c1_10_12_order_of_copy_blocks(native, manager):
    check_order(
        manager.copy_blocks,
        {"cache": BLOCKS, "copy_block_info": {1: [2]}},
        [
            Step("cache", None, TypeError, "cache only support"),
            Step("copy_block_info", [(1, 2)], TypeError, "copy_block_info only support dict"),
            Step("copy_block_info", {1: (2,)}, TypeError, "only support list"),
            Step("copy_block_info", {"1": [2]}, TypeError, "keys of copy_block_info"),
            Step("copy_block_info", {1: ["2"]}, TypeError, "values of copy_block_info"),
            Step("cache", CONTIGUOUS, INVALID, "no blocks"),
        ],
    )


@pytest.mark.rule("C1.9-4", "C1.9-5")
def test_c1_9_4_order_of_create_cpu_cache():
    check_order(
        Cache.create_cpu_cache,
        {"cache_desc": HOST_DESC, "addrs": [1, 2]},
        [
            Step("addrs", (1, 2), TypeError, "addrs only support list"),
            Step("addrs", [1, None], TypeError, r"addrs\[1\]"),
            Step("cache_desc", DESC, INVALID, "Placement.HOST"),
            Step("addrs", [1], INVALID, "2 tensors"),
        ],
    )
