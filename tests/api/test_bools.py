# SPDX-License-Identifier: Apache-2.0
"""A bool where an int is asked for: contract 1.2, decision 63."""

from __future__ import annotations

import warnings

import pytest

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    CacheKey,
    CacheKeyByIdAndIndex,
    DataType,
    KvCache,
    LLMClusterInfo,
    LLMConfig,
    LLMDataDist,
    LLMDataDistWarning,
    LLMRole,
    MemInfo,
    Memtype,
    Placement,
    TransferConfig,
    TransferWithCacheKeyConfig,
    status,
)

INT8 = DataType.DT_INT8
DESC = CacheDesc(1, [4, 16], INT8)
HOST_DESC = CacheDesc(1, [4, 16], INT8, Placement.HOST)
CONTIGUOUS, BLOCKS = Cache(1, DESC, [1], False), Cache(2, DESC, [1], True)
KEY = BlocksCacheKey(9)
BY_ID = CacheKeyByIdAndIndex(9, 1)


def _set(target, member, value):
    setattr(target, member, value)
    return target


VALUES = {
    "num_tensors": lambda: CacheDesc(True, [1], INT8),
    "shape": lambda: CacheDesc(1, [True], INT8),
    "batch_dim_index": lambda: CacheDesc(1, [1, 1], INT8, batch_dim_index=True),
    "seq_len_dim_index": lambda: CacheDesc(1, [1, 1], INT8, seq_len_dim_index=True),
    "dim_index": lambda: CacheDesc(1, [1, 1], INT8).update_dim(True, 1),
    "dim_value": lambda: CacheDesc(1, [1, 1], INT8).update_dim(0, True),
    "addrs": lambda: Cache.create_cpu_cache(HOST_DESC, [True]),
    "addrs of a KvCache": lambda: KvCache.create_cpu_cache(HOST_DESC, [True]),
    "addr": lambda: MemInfo(Memtype.MEM_TYPE_DEVICE, True, 1),
    "size of a MemInfo": lambda: MemInfo(Memtype.MEM_TYPE_DEVICE, 1, True),
    "cluster_id": lambda: BlocksCacheKey(True),
    "prompt_cluster_id": lambda: BlocksCacheKey(prompt_cluster_id=True),
    "model_id": lambda: BlocksCacheKey(1, True),
    "req_id": lambda: CacheKey(1, True),
    "prefix_id": lambda: CacheKey(1, 2, 0, True),
    "cache_id": lambda: CacheKeyByIdAndIndex(1, True),
    "batch_index of a key": lambda: CacheKeyByIdAndIndex(1, 1, True),
    "cluster_id of an engine": lambda: LLMDataDist(LLMRole.MIX, True),
    "remote_cluster_id": lambda: _set(LLMClusterInfo(), "remote_cluster_id", True),
    "remote_role_type": lambda: _set(LLMClusterInfo(), "remote_role_type", True),
    "ip": lambda: LLMClusterInfo().append_local_ip_info(True, 1),
    "port": lambda: LLMClusterInfo().append_remote_ip_info("127.0.0.1", True),
    "dst_cluster_id": lambda: TransferConfig(True, [1, 2]),
    "dst_addrs": lambda: TransferConfig(1, [True, 2]),
    "src_batch_index of a config": lambda: TransferConfig(1, [1, 2], None, True),
    "src_batch_index of a config with a key": lambda: TransferWithCacheKeyConfig(
        BY_ID, range(1), range(1), True
    ),
    **{
        member: lambda m=member: _set(LLMConfig(), m, True)
        for member in (
            "device_id",
            "sync_kv_timeout",
            "link_total_time",
            "link_retry_count",
            "peer_timeout",
            "rdma_traffic_class",
            "rdma_service_level",
            "output_max_size",
        )
    },
}
CALLS = {
    "timeout": lambda d: d.link_clusters([], True),
    "timeout of unlink_clusters": lambda d: d.unlink_clusters([], True),
    "cluster_rank_info": lambda d: d.link("x", {1: False, 2: 1}, "{}"),
    "a cluster id of cluster_rank_info": lambda d: d.link("x", {True: 0, 2: 1}, "{}"),
    "comm_id": lambda d: d.unlink(True),
    "comm_id of a query": lambda d: d.query_register_mem_status(True),
    "cluster_id": lambda d: d.link_paths(True),
    "addrs": lambda d: d.cache_manager.register_cache(DESC, [True]),
    "cache_id": lambda d: d.cache_manager.unregister_cache(True),
    "batch_index": lambda d: d.cache_manager.pull_cache(BY_ID, CONTIGUOUS, True),
    "size": lambda d: d.cache_manager.pull_cache(BY_ID, CONTIGUOUS, 0, True),
    "tensor_num_per_layer": lambda d: d.cache_manager.pull_blocks(
        KEY, BLOCKS, [1], [1], tensor_num_per_layer=True
    ),
    "src_batch_index": lambda d: d.cache_manager.push_cache(
        BY_ID, CONTIGUOUS, True, tensor_num_per_layer=1
    ),
    "dst_batch_index": lambda d: d.cache_manager.copy_cache(CONTIGUOUS, CONTIGUOUS, True),
    "offset": lambda d: d.cache_manager.copy_cache(CONTIGUOUS, CONTIGUOUS, offset=True),
    "req_id": lambda d: d.cache_manager.copy_cache(CONTIGUOUS, CONTIGUOUS, req_id=True),
    "src_to_dst": lambda d: d.cache_manager.swap_blocks(
        BLOCKS, Cache(3, HOST_DESC, [1], True), {True: 2}
    ),
}


@pytest.fixture(autouse=True)
def _nothing_warned_of_yet(monkeypatch):
    monkeypatch.setattr(status, "_warned", set())


@pytest.fixture
def datadist(native, open_datadist):
    native.on("cache_register", lambda engine, args, cache_id: cache_id.__setitem__(0, 3))
    return open_datadist(1)


def check_that_it_is_taken(argument, call):
    name = argument.partition(" of ")[0] if not argument.startswith("a ") else argument
    expected = rf"^{name}(\[.+\])? is (True|False), where an int is asked for"
    with pytest.warns(LLMDataDistWarning, match=expected) as caught:
        call()
    # The line of the client, and once for each argument name.
    assert [each.filename for each in caught] == [__file__]
    call()


@pytest.mark.rule("C1.2-3", "C10-63")
@pytest.mark.parametrize("argument", VALUES)
def test_values_take_a_bool_with_a_warning(argument):
    check_that_it_is_taken(argument, VALUES[argument])


@pytest.mark.rule("C1.2-3", "C10-63")
@pytest.mark.parametrize("argument", CALLS)
def test_calls_take_a_bool_with_a_warning(datadist, argument):
    check_that_it_is_taken(argument, lambda: CALLS[argument](datadist))


@pytest.mark.rule("C10-67", "C10-69")
@pytest.mark.parametrize("argument", VALUES)
def test_values_refuse_a_bool_in_strict_hardware_mode(monkeypatch, argument):
    monkeypatch.setenv("LLM_DATADIST_STRICT_HARDWARE", "1")
    with pytest.raises(TypeError, match=r"only support .*int.*, got bool: True"):
        VALUES[argument]()


@pytest.mark.rule("C10-67", "C10-69")
@pytest.mark.parametrize("argument", CALLS)
def test_calls_refuse_a_bool_in_strict_hardware_mode(native, datadist, monkeypatch, argument):
    before = len(native.calls)
    monkeypatch.setenv("LLM_DATADIST_STRICT_HARDWARE", "1")
    with pytest.raises(TypeError, match=r"only support int, got bool: (True|False)"):
        CALLS[argument](datadist)
    assert native.calls[before:] == []


@pytest.mark.rule("C10-63")
def test_the_value_is_that_of_the_bool():
    with pytest.warns(LLMDataDistWarning):
        assert BlocksCacheKey(True).cluster_id == 1
    assert CacheKeyByIdAndIndex(False, 1).cluster_id == 0


@pytest.mark.rule("C10-63")
def test_a_warning_that_is_made_an_error_is_raised_each_time():
    with warnings.catch_warnings():
        warnings.simplefilter("error", LLMDataDistWarning)
        for _ in range(2):
            with pytest.raises(LLMDataDistWarning, match="cluster_id is True"):
                BlocksCacheKey(True)


@pytest.mark.rule("C10-63")
def test_a_bool_where_one_is_asked_for_is_no_reason_to_warn(datadist):
    config = LLMConfig()
    config.enable_cache_manager = True
    datadist.unlink_clusters([], force=True)
    datadist.cache_manager.register_cache(DESC, [1], (), True)


@pytest.mark.rule("C10-68")
def test_bools_in_lists_of_block_ids_are_not_looked_for(native, datadist):
    datadist.cache_manager.pull_blocks(KEY, BLOCKS, [True, 3], (0, True))
    args = native.last("pull")[1]
    assert (args["src_blocks"], args["dst_blocks"]) == ([1, 3], [0, 1])


@pytest.mark.rule("C3.1-23")
def test_an_option_of_a_bool_is_its_text():
    config = LLMConfig()
    with pytest.warns(LLMDataDistWarning, match="device_id"):
        config.device_id = True
    assert config.generate_options()["ge.exec.deviceId"] == "True"
    assert config.options["ge.session_device_id"] == "True"
