# SPDX-License-Identifier: Apache-2.0
"""What the engine does with its options (contract 3.2), and what is left after finalize (1.10)."""

from __future__ import annotations

import inspect
import os
import socket
import time
from collections.abc import Iterator
from typing import Callable

import pytest

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    CacheKey,
    CacheKeyByIdAndIndex,
    DataType,
    LLMClusterInfo,
    LLMDataDist,
    LLMDataDistWarning,
    LLMRole,
    LLMStatusCode,
    MemInfo,
    Memtype,
    Placement,
    RegisterMemStatus,
    TransferWithCacheKeyConfig,
    backend_info,
)
from llm_datadist.cache_manager import CacheManager
from llm_datadist.introspection import MemoryKind
from llm_datadist.testing import Resources, device, eventually, wait_until_given_back
from tests.conformance.engines import Engines, by_id, cluster_of
from tests.conformance.layers import Ready
from tests.conformance.refusals import refused, refused_by_engine
from tests.conformance.stage import OWNER

S = LLMStatusCode
Open = Callable[..., LLMDataDist]
REGISTERED = MemoryKind.REGISTERED
DESC = CacheDesc(2, [4, 64], DataType.DT_INT8)
# What the first use of the library leaves in a process for ever is no leak of a test.
backend_info()


@pytest.fixture
def init() -> Iterator[Open]:
    """Initialise an engine with options as they reach init()."""
    made: list[LLMDataDist] = []

    def init(cluster_id: int = 1, **options: str) -> LLMDataDist:
        datadist = LLMDataDist(LLMRole.MIX, cluster_id)
        made.append(datadist)
        prefix = {"deviceId": "ge.exec.", "session_device_id": "ge."}
        given = {prefix.get(name, "llm.") + name: value for name, value in options.items()}
        common = {"llm.EnableCacheManager": "1", "lldd.AllowMultipleInstances": "1"}
        datadist.init({**common, **given})
        return datadist

    yield init
    for datadist in made:
        datadist.finalize()


# ---- device, flags, deadline, listener ----


@pytest.mark.rule("C3.2-37")
def test_c3_2_37_a_wait_time_of_0_passes_with_a_warning(init: Open) -> None:
    with pytest.warns(LLMDataDistWarning, match=r"SyncKvCacheWaitTime is 0.* 1000 ms") as caught:
        datadist = init(SyncKvCacheWaitTime="0")
    assert caught[0].filename == __file__
    assert datadist.links() == []


@pytest.mark.rule("C3.2-2", "C3.2-3")
def test_c3_2_2_a_device_that_there_is(init: Open) -> None:
    count = backend_info().device_count
    init(1, deviceId=str(count - 1))
    init(2)
    with refused_by_engine("init", S.LLM_PARAM_INVALID, count):
        init(3, deviceId=str(count))
    with refused(S.LLM_PARAM_INVALID, "deviceId"):
        init(4, deviceId="0;1")


@pytest.mark.rule("C3.2-9")
def test_c3_2_9_the_flag_selects_the_mode(small_addresses: list[int], init: Open) -> None:
    requests, one_sided = init(1), init(2, EnableRemoteCacheAccessible="1", deviceId="1")
    by_request = CacheKey(9, 1)
    managers = [each.cache_manager for each in (requests, one_sided)]
    caches = [each.register_cache(DESC, small_addresses[:2]) for each in managers]
    with refused(S.LLM_NOT_YET_LINK):
        managers[0].pull_cache(by_request, caches[0])
    with pytest.raises(TypeError, match="cache_key only support"):
        managers[1].pull_cache(by_request, caches[1])
    by_number = CacheKeyByIdAndIndex(9, 1)
    with refused(S.LLM_PARAM_INVALID, "one-sided"):
        managers[0].push_cache(by_number, caches[0])
    with refused(S.LLM_NOT_YET_LINK):
        managers[1].push_cache(by_number, caches[1])


@pytest.mark.rule("C3.2-11")
@pytest.mark.parametrize("ip", ["127.0.0.1", "[::1]"])
def test_c3_2_11_a_listener_on_that_address_from_init_to_finalize(init: Open, ip: str) -> None:
    datadist = init(listenIpInfo=f"{ip}:0")
    address = datadist.listen_address
    assert address is not None
    assert address[0] == ip.strip("[]")
    socket.create_connection(address, timeout=10).close()
    datadist.finalize()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=10)
    assert init(2).listen_address is None


@pytest.mark.rule("C3.2-12")
@pytest.mark.parametrize("ip", ["256.1.1.1", "localhost", "", "[::g]"])
def test_c3_2_12_a_bad_listen_address(init: Open, ip: str) -> None:
    with refused(S.LLM_PARAM_INVALID):
        init(listenIpInfo=f"{ip}:0")


@pytest.mark.rule("C3.2-13", "C3.2-34", "C9-3")
def test_c3_2_13_no_listener_no_engine(init: Open) -> None:
    first = init(1, listenIpInfo="127.0.0.1:0")
    address_taken = first.listen_address
    assert address_taken is not None
    taken = f"127.0.0.1:{address_taken[1]}"
    pools = dict.fromkeys(("MemPoolConfig", "HostMemPoolConfig"), '{"memory_size": 1048576}')
    before = Resources.of(os.getpid())
    # The second is an address for documentation, which no machine has.
    for address in (taken, "203.0.113.1:0"):
        with refused_by_engine("init", S.LLM_FAILED, "cannot listen", address):
            init(2, listenIpInfo=address, **pools)
        assert LLMDataDist.llm_engine_instance is first
    wait_until_given_back(before, lambda: Resources.of(os.getpid()), 10)
    first.finalize()
    again = init(2, listenIpInfo=taken, **pools)
    assert again.listen_address == address_taken


@pytest.mark.rule("C3.3-6", "C3.3-7")
@pytest.mark.parametrize(
    ("option", "status"),
    [("MemPoolConfig", S.LLM_OUT_OF_MEMORY), ("HostMemPoolConfig", S.LLM_FAILED)],
)
def test_c3_3_6_more_memory_than_there_is(init: Open, option: str, status: LLMStatusCode) -> None:
    # More than any address space has.
    with refused_by_engine("init", status, 2**60):
        init(1, **{option: f'{{"memory_size": {2**60}, "page_shift": 30}}'})
    init(1, **{option: '{"memory_size": 1048576}'})


# ---- options for the device, ignored ones ----


@pytest.mark.rule("C3.2-17", "C3.2-23", "C3.2-31", "C3.2-32")
def test_c3_2_17_what_init_does_not_look_at(init: Open) -> None:
    init(1, LocalCommRes="not json")
    init(2, GlobalResourceConfig="not json")
    init(3, RdmaTrafficClass="100", RdmaServiceLevel="100")
    init(
        4,
        BufPoolCfg="{",
        ClusterInfo="x",
        OutputMaxSize="x",
        MemoryUtilization="x",
        EnableSwitchRole="x",
        deployResPath="x",
        session_device_id="77",
        AnyOtherKey="x",
    )


@pytest.mark.rule("C3.2-29")
def test_c3_2_29_hixl_does_not_read_the_retry_count(init: Open) -> None:
    for cluster_id, value in enumerate(("0", "101", "x")):
        with refused(S.LLM_PARAM_INVALID, "LinkRetryCount"):
            init(cluster_id, LinkRetryCount=value)
        hixl = {"TransferBackend": "hixl", "listenIpInfo": "127.0.0.1:0"}
        init(cluster_id, LinkRetryCount=value, **hixl)


# ---- times ----


@pytest.mark.rule("C3.2-25")
def test_c3_2_25_link_total_time_0_is_the_default_of_two_minutes(init: Open) -> None:
    by_default, short = init(1, LinkTotalTime="0"), init(2, LinkTotalTime="1")
    started = time.monotonic()
    comm_ids = {
        each: each.link(f"alone {each.cluster_id}", {each.cluster_id: 0, 99: 1}, "{}")
        for each in (by_default, short)
    }

    def status(datadist: LLMDataDist) -> RegisterMemStatus:
        return datadist.query_register_mem_status(comm_ids[datadist])

    assert status(short) is RegisterMemStatus.PREPARING
    with pytest.warns(
        LLMDataDistWarning,
        match=r"not all members came in time \(link_total_time: 1 s\); missing: cluster 99",
    ):
        eventually(lambda: status(short) is RegisterMemStatus.FAILED, "the second is over", 10)
    assert time.monotonic() - started >= 1
    assert status(by_default) is RegisterMemStatus.PREPARING


@pytest.mark.rule("C3.2-26")
def test_c3_2_26_link_total_time_is_not_that_of_link_clusters(init: Open) -> None:
    datadist = init(1, LinkTotalTime="1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        info = LLMClusterInfo()
        info.remote_cluster_id = 2
        info.append_local_ip_info("127.0.0.1", 0)
        info.append_remote_ip_info(*silent.getsockname())
        for timeout_ms in (1300, 200):
            started = time.monotonic()
            assert datadist.link_clusters([info], timeout_ms)[0] is S.LLM_TIMEOUT
            took = (time.monotonic() - started) * 1000
            assert timeout_ms <= took < timeout_ms + 700


# ---- caches that nobody can reach ----


@pytest.mark.rule("C1.9-8")
def test_c1_9_8_a_cpu_cache_is_no_cache_of_the_engine(engines: Engines) -> None:
    owner, puller = engines.two()
    source = owner.contiguous()
    own = puller.contiguous()
    engines.link(puller, owner)
    desc = CacheDesc(4, [4, 256], DataType.DT_INT8, Placement.HOST)
    cpu = Cache.create_cpu_cache(desc, own.cache.tensor_addrs)
    manager = puller.manager
    with refused(S.LLM_KV_CACHE_NOT_EXIST):
        manager.pull_blocks(by_id(source), cpu, [], [0])
    with refused(S.LLM_KV_CACHE_NOT_EXIST):
        manager.copy_blocks(cpu, {0: [1]})
    with refused(S.LLM_KV_CACHE_NOT_EXIST):
        manager.push_blocks(BlocksCacheKey(owner.datadist.cluster_id), cpu, [0], [0])
    paged = puller.paged(4, 256)
    manager.swap_blocks(cpu, paged.cache, {1: 2})
    assert [bytes(tensor[2]) for tensor in paged.tensors] == [bytes(t[1]) for t in own.tensors]


def operations_of(manager: CacheManager) -> dict[str, Callable[..., object]]:
    """Its methods by name: all that are public, but for a check without state and a hook."""
    names = {name for name, member in vars(CacheManager).items() if inspect.isfunction(member)}
    return {
        name: getattr(manager, name)
        for name in names - {"set_is_call_linked"}
        if not name.startswith("_")
    }


@pytest.mark.rule("C1.10-1", "C1.10-2", "C2.1-8", "C10-20")
def test_c1_10_1_a_manager_that_is_kept_after_finalize(engines: Engines) -> None:
    kept, other = engines.two(host_pool=1 << 20)
    manager = kept.manager
    contiguous, blocks = kept.contiguous().cache, kept.paged(model_id=0).cache
    addrs = list(contiguous.tensor_addrs)
    cpu = Cache.create_cpu_cache(
        CacheDesc(4, [16, 64], DataType.DT_INT8, Placement.HOST), blocks.tensor_addrs
    )
    engines.link(other, kept)
    operations = operations_of(manager)
    kept.datadist.finalize()
    desc, synchronizer = contiguous.cache_desc, Ready()
    key, by_number = BlocksCacheKey(2), CacheKeyByIdAndIndex(2, 1)
    config = TransferWithCacheKeyConfig(key, range(1), range(1))
    good: dict[str, tuple[object, ...]] = {
        "allocate_cache": (desc,),
        "allocate_blocks_cache": (desc,),
        "deallocate_cache": (contiguous,),
        "deallocate_blocks_cache": (blocks,),
        "register_cache": (desc, addrs),
        "register_blocks_cache": (desc, addrs),
        "unregister_cache": (1,),
        "remove_cache_key": (CacheKey(2, 1),),
        "pull_cache": (by_number, contiguous),
        "pull_blocks": (key, blocks, [0], [0]),
        "push_cache": (by_number, contiguous),
        "push_blocks": (key, blocks, [0], [0]),
        "transfer_cache_async": (blocks, synchronizer, [config], [0], [0]),
        "copy_cache": (contiguous, contiguous, 1),
        "copy_blocks": (blocks, {0: [1]}),
        "swap_blocks": (cpu, blocks, {0: 1}),
        "remap_registered_memory": (MemInfo(Memtype.MEM_TYPE_DEVICE, addrs[0], 64),),
        "events": (1,),
    }
    assert good.keys() == operations.keys()

    def check_all_are_refused() -> None:
        for name, arguments in good.items():
            # Nothing is looked at before, so any arguments do as well.
            for given in (arguments, (None,) * len(arguments)):
                for call in (getattr(manager, name), operations[name]):
                    with refused(S.LLM_ENGINE_FINALIZED, OWNER, "finalized"):
                        call(*given)

    check_all_are_refused()
    again = {"llm.EnableCacheManager": "1", "lldd.AllowMultipleInstances": "1"}
    kept.datadist.init({**again, **device.options_of(0)})
    assert kept.manager is not manager
    check_all_are_refused()
    assert synchronizer.asked == []
    kept.manager.unregister_cache(1)


# ---- numbers without a limit ----


@pytest.mark.rule("C8.1-1")
def test_c8_1_1_more_addresses_than_the_documents_allow(engines: Engines) -> None:
    owner, puller = engines.two()
    tensors = 241
    source = owner.paged(2, 64, model_id=0, tensors=tensors, memory=REGISTERED)
    target = puller.paged(2, 64, tensors=tensors, memory=REGISTERED)
    engines.link(puller, owner)
    puller.manager.pull_blocks(BlocksCacheKey(owner.datadist.cluster_id), target.cache, [1], [0])
    assert (target.now[:, 0] == source.first[:, 1]).all()


@pytest.mark.rule("C8.1-8")
def test_c8_1_8_more_clusters_than_the_documents_allow(engines: Engines) -> None:
    client = engines.open(1, pool=0)
    servers = [engines.open(10 + number, pool=0) for number in range(17)]
    outcome = client.datadist.link_clusters([cluster_of(server) for server in servers], 10_000)
    assert outcome == (S.LLM_SUCCESS, [S.LLM_SUCCESS] * 17)
