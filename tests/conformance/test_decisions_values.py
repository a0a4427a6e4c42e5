# SPDX-License-Identifier: Apache-2.0
"""Decisions of chapter 10 that one engine, or none, is enough for."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from typing import Any, Callable

import pytest

import llm_datadist
from llm_datadist import (
    BlocksCacheKey,
    CacheDesc,
    CacheKey,
    CacheKeyByIdAndIndex,
    DataType,
    LLMClusterInfo,
    LLMConfig,
    LLMDataDist,
    LLMDataDistWarning,
    LLMException,
    LLMRole,
    LLMStatusCode,
    status,
)
from llm_datadist.options import EngineOptions
from tests.conformance.engines import HOST, POOL, EngineHere, Engines, blocks_of, pool_config
from tests.conformance.paths import IP
from tests.conformance.refusals import check_refusal, refused

S = LLMStatusCode
TOKEN = "a-token-that-nobody-may-see"


@pytest.fixture
def engine(engines: Engines) -> EngineHere:
    return engines.open(1, host_pool=1 << 20)


@pytest.mark.rule("C10-1")
def test_c10_1_one_description_serves_both_layouts(engine: EngineHere) -> None:
    desc = CacheDesc(2, [4, 64], DataType.DT_INT8)
    assert desc.size == 4 * 64
    before, text = dict(vars(desc)), repr(desc)
    manager = engine.manager
    addrs = engine.addresses(desc)
    made = [
        manager.allocate_blocks_cache(desc),
        manager.allocate_cache(desc),
        manager.register_blocks_cache(desc, list(addrs)),
        manager.register_cache(desc, list(addrs)),
        manager.allocate_blocks_cache(desc),
    ]
    assert [cache.is_blocks_cache for cache in made] == [True, False, True, False, True]
    assert (vars(desc), repr(desc)) == (before, text)
    # The engine went by the call, too: each layout has a copy of its own.
    manager.copy_blocks(made[4], {0: [1]})
    manager.copy_cache(made[1], made[1], 1, 0)
    with refused(S.LLM_PARAM_INVALID, "has blocks"):
        manager.copy_cache(made[4], made[4], 1, 0)
    with refused(S.LLM_PARAM_INVALID, "has no blocks"):
        manager.copy_blocks(made[1], {0: [1]})


@pytest.mark.rule("C10-2")
def test_c10_2_cache_manager_mode_must_be_asked_for() -> None:
    datadist = LLMDataDist(LLMRole.MIX, 1)
    config = LLMConfig()
    with refused(S.LLM_FEATURE_NOT_ENABLED, "enable_cache_manager = True"):
        datadist.init(config.generate_options())
    assert LLMDataDist.llm_engine_instance is None
    config.enable_cache_manager = True
    datadist.init(config.generate_options())
    datadist.finalize()


@pytest.mark.rule("C10-3")
def test_c10_3_star_import_works() -> None:
    names: dict[str, Any] = {}
    exec("from llm_datadist import *", names)
    assert set(llm_datadist.v2_list) <= set(names)


@pytest.mark.rule("C10-4")
@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("device_id", -1),
        ("sync_kv_timeout", 0),
        ("sync_kv_timeout", "1s"),
        ("link_total_time", 2**32),
        ("link_retry_count", 0),
        ("link_retry_count", 101),
        ("mem_utilization", 1.5),
    ],
)
def test_c10_4_what_setters_raise_is_also_a_value_error(member: str, value: Any) -> None:
    with pytest.raises(ValueError, match=member) as caught:
        setattr(LLMConfig(), member, value)
    assert type(caught.value) is status.LLMConfigValueError
    check_refusal(caught.value, S.LLM_PARAM_INVALID, member)


def refusals_of_arguments() -> dict[str, Callable[[EngineHere], Any]]:
    """Calls that are refused with LLM_PARAM_INVALID: in Python, by the engine, by a value class."""
    desc = CacheDesc(1, [4, 64], DataType.DT_INT8)
    return {
        "a pull": lambda e: e.manager.pull_blocks(blocks_of(), e.paged().cache, [], []),
        "a pull from the own cluster": lambda e: e.manager.pull_blocks(
            BlocksCacheKey(e.datadist.cluster_id), e.paged().cache, [0], [0]
        ),
        "a push": lambda e: e.manager.push_blocks(blocks_of(), e.paged().cache, [0], []),
        "a registration": lambda e: e.manager.register_cache(desc, []),
        "a copy": lambda e: e.manager.copy_blocks(e.paged().cache, {0: [99]}),
        "a link": lambda e: e.datadist.link_clusters([], 0),
        "options": lambda e: LLMDataDist(LLMRole.MIX, 2).init(
            {
                "llm.EnableCacheManager": "1",
                "llm.MemPoolConfig": "{}",
                "lldd.AllowMultipleInstances": "1",
            }
        ),
        "a key": lambda e: CacheKey(1),
        "a description": lambda e: CacheDesc(1, [1], DataType.DT_INT8, batch_dim_index=1),
    }


@pytest.mark.rule("C10-61")
@pytest.mark.parametrize("call", list(refusals_of_arguments()))
def test_c10_61_other_refusals_are_no_value_errors(engine: EngineHere, call: str) -> None:
    with pytest.raises(LLMException) as caught:
        refusals_of_arguments()[call](engine)
    assert type(caught.value) is status.LLMParamInvalidError
    assert caught.value.status_code is S.LLM_PARAM_INVALID
    assert not isinstance(caught.value, (TypeError, ValueError))


@pytest.mark.rule("C10-62")
def test_c10_62_which_builtins_the_other_classes_are() -> None:
    kinds = {code: type(status.native_error("op", code, "detail")) for code in S}
    builtins = (LookupError, MemoryError, NotImplementedError, OSError, TypeError, ValueError)
    found = {code: [b for b in builtins if issubclass(kind, b)] for code, kind in kinds.items()}
    assert {code: each for code, each in found.items() if each} == {
        S.LLM_KV_CACHE_NOT_EXIST: [LookupError],
        S.LLM_PREFIX_NOT_EXIST: [LookupError],
        S.LLM_OUT_OF_MEMORY: [MemoryError],
        S.LLM_DEVICE_OUT_OF_MEMORY: [MemoryError],
        S.LLM_BLOCKS_OUT_OF_MEMORY: [MemoryError],
        S.LLM_NO_FREE_BLOCK: [MemoryError],
        S.LLM_FEATURE_NOT_ENABLED: [NotImplementedError],
    }


@pytest.mark.rule("C10-5")
def test_c10_5_not_initialised_is_a_plain_runtime_error(engines: Engines) -> None:
    finalized = engines.open(1).datadist
    finalized.finalize()
    info = LLMClusterInfo()
    for datadist in (LLMDataDist(LLMRole.MIX, 2), finalized):
        calls: list[Callable[[], Any]] = [
            lambda d=datadist: d.cache_manager,
            lambda d=datadist: d.kv_cache_manager,
            lambda d=datadist: d.check_link_status(1),
            lambda d=datadist: d.link_clusters([info]),
            lambda d=datadist: d.unlink_clusters([info]),
            lambda d=datadist: d.link("", {}, ""),
            lambda d=datadist: d.unlink(1),
            lambda d=datadist: d.query_register_mem_status(1),
            lambda d=datadist: d.switch_role(LLMRole.MIX),
        ]
        for call in calls:
            with pytest.raises(RuntimeError, match="not initialized") as caught:
                call()
            assert type(caught.value) is RuntimeError
            assert not hasattr(caught.value, "status_code")


@pytest.mark.rule("C10-6")
@pytest.mark.parametrize("shape", [[2, 0], [-1, 4], [2**62, 8]])
def test_c10_6_the_size_of_an_invalid_shape(shape: list[int]) -> None:
    desc = CacheDesc(1, shape, DataType.DT_INT8)
    with refused(S.LLM_PARAM_INVALID):
        desc.size  # noqa: B018


@pytest.mark.rule("C10-22", "C10-41")
@pytest.mark.parametrize("text", ["::1", "[::1]", "0:0:0:0:0:0:0:1", "0::0001"])
def test_c10_22_ipv6_addresses_are_kept_as_normalised_text(text: str) -> None:
    info = LLMClusterInfo()
    info.append_local_ip_info(text, 0)
    info.append_remote_ip_info(text, 26000)
    info.append_remote_ip_info("127.0.0.1", 26000)
    assert info.local_ip_info_list == [("::1", 0)]
    assert info.remote_ip_info_list == [("::1", 26000), (16777343, 26000)]


@pytest.mark.rule("C10-29")
@pytest.mark.parametrize("number", [0x5010B014, 507899, 1, 0xDEADBEEF])
def test_c10_29_an_unknown_status_is_failed_and_its_number_is_kept(number: int) -> None:
    made = status.native_error("pull_blocks", number, "of a runtime")
    check_refusal(made, S.LLM_FAILED, "of a runtime")
    assert made.raw == number
    # The device's own number says more than the status it became.
    assert status.native_error("pull_blocks", S.LLM_FAILED, "", number).raw == number
    assert status.native_error("pull_blocks", S.LLM_TIMEOUT, "").raw == S.LLM_TIMEOUT


def none_calls() -> dict[str, Callable[[EngineHere], Any]]:
    """The argument that must be named, and a call that gives None for it."""
    desc = CacheDesc(1, [4, 64], DataType.DT_INT8)
    return {
        "role": lambda e: LLMDataDist(None, 1),
        "cluster_id": lambda e: LLMDataDist(LLMRole.MIX, None),
        "clusters": lambda e: e.datadist.link_clusters(None),
        "timeout": lambda e: e.datadist.unlink_clusters([], None),
        "comm_name": lambda e: e.datadist.link(None, {1: 0, 2: 1}, "{}"),
        "rank_table": lambda e: e.datadist.link("comm", {1: 0, 2: 1}, None),
        "cache_desc": lambda e: e.manager.allocate_cache(None),
        "addrs": lambda e: e.manager.register_cache(desc, None),
        "cache": lambda e: e.manager.deallocate_cache(None),
        "cache_id": lambda e: e.manager.unregister_cache(None),
        "cache_key": lambda e: e.manager.remove_cache_key(None),
        "dst": lambda e: e.manager.copy_cache(None, None),
        "copy_block_info": lambda e: e.manager.copy_blocks(
            e.manager.allocate_blocks_cache(desc), None
        ),
        "src_cache": lambda e: e.manager.swap_blocks(None, None, {}),
        "src_cache_key": lambda e: e.manager.pull_blocks(None, None),
        "num_tensors": lambda e: CacheDesc(None, [1], DataType.DT_INT8),
        "data_type": lambda e: CacheDesc(1, [1], None),
        "ip": lambda e: LLMClusterInfo().append_local_ip_info(None, 0),
    }


@pytest.mark.rule("C10-30")
@pytest.mark.parametrize("argument", list(none_calls()))
def test_c10_30_none_is_a_type_error_that_names_the_argument(
    engine: EngineHere, argument: str
) -> None:
    with pytest.raises(TypeError, match=rf"\b{argument}\b"):
        none_calls()[argument](engine)


@pytest.mark.rule("C10-30")
def test_c10_30_none_as_options_is_a_type_error_that_names_them() -> None:
    with pytest.raises(TypeError, match="options"):
        LLMDataDist(LLMRole.MIX, 1).init(None)


@pytest.mark.rule("C10-30")
def test_c10_30_none_where_it_means_not_given(engine: EngineHere) -> None:
    config = LLMConfig()
    for member in ("listen_ip_info", "mem_pool_cfg", "local_comm_res", "link_retry_count"):
        setattr(config, member, None)
    assert config.generate_options() == LLMConfig().generate_options()
    desc = CacheDesc(1, [4, 64], DataType.DT_INT8, kv_tensor_format=None)
    manager = engine.manager
    cache = manager.allocate_cache(desc, None)
    manager.allocate_blocks_cache(desc, None)
    manager.register_cache(desc, engine.addresses(desc), None, None)
    manager.copy_cache(cache, cache, 1, 0, req_id=None)
    info = LLMClusterInfo()
    info.remote_cluster_id = 77
    info.append_remote_ip_info("127.0.0.1", 1)
    assert engine.datadist.unlink_clusters([info], force=None) == (S.LLM_SUCCESS, [S.LLM_SUCCESS])
    for layers in ({}, {"src_layer_range": None, "dst_layer_range": None}):
        with refused(S.LLM_NOT_YET_LINK):
            manager.pull_cache(CacheKeyByIdAndIndex(9, 1), cache, **layers)


@pytest.mark.rule("C10-31")
@pytest.mark.parametrize("name", ["cluster_id", "model_id", "prompt_cluster_id"])
def test_c10_31_the_numbers_of_a_blocks_cache_key(name: str) -> None:
    def make(value: Any) -> BlocksCacheKey:
        more = {} if name != "model_id" else {"cluster_id": 1}
        return BlocksCacheKey(**{**more, name: value})

    for wrong in (None, "1", 1.0):
        with pytest.raises(TypeError, match=name):
            make(wrong)
        if name != "prompt_cluster_id":
            with pytest.raises(TypeError, match=name):
                BlocksCacheKey(*((wrong, 0) if name == "cluster_id" else (0, wrong)))
    for outside in (-1, 2**64):
        with pytest.raises(ValueError, match=name) as caught:
            make(outside)
        assert not isinstance(caught.value, LLMException)
    for passes in (0, 2**64 - 1):
        assert passes in (make(passes).cluster_id, make(passes).model_id)


@pytest.mark.rule("C10-41")
def test_c10_41_names_of_extensions() -> None:
    for name in ("LLMDataDistWarning", "__version__", "backend_info"):
        assert getattr(llm_datadist, name)
        assert name not in llm_datadist.v2_list
    assert issubclass(LLMDataDistWarning, UserWarning)
    config = LLMConfig()
    config.allow_multiple_instances = True
    config.auth_token = TOKEN
    options = config.generate_options()
    assert options["lldd.AllowMultipleInstances"] == "1"
    assert options["lldd.AuthToken"] == TOKEN


@pytest.mark.rule("C10-41")
def test_c10_41_listen_address_is_the_real_one(engines: Engines) -> None:
    ip, port = engines.open(1).datadist.listen_address
    assert (ip, type(port)) == (IP, int)
    assert 0 < port <= 65535
    silent = LLMDataDist(LLMRole.MIX, 2)
    config = LLMConfig()
    config.enable_cache_manager = config.allow_multiple_instances = True
    silent.init(config.generate_options())
    try:
        assert silent.listen_address is None
    finally:
        silent.finalize()


@pytest.mark.rule("C10-41")
def test_c10_41_zone_ids_are_refused(engines: Engines) -> None:
    info = LLMClusterInfo()
    for append in (info.append_local_ip_info, info.append_remote_ip_info):
        for text in ("fe80::1%lo", "[fe80::1%1]"):
            with pytest.raises(RuntimeError, match="zone"):
                append(text, 1)
    config = LLMConfig()
    config.enable_cache_manager = config.allow_multiple_instances = True
    config.listen_ip_info = "[fe80::1%lo]:0"
    with refused(S.LLM_PARAM_INVALID, "zone"):
        LLMDataDist(LLMRole.MIX, 1).init(config.generate_options())


@pytest.mark.rule("C10-41")
def test_c10_41_exceptions_pickle(engine: EngineHere) -> None:
    desc = CacheDesc(1, [4, 64], DataType.DT_INT8)
    held = engine.paged()
    calls: dict[LLMStatusCode, Callable[[], Any]] = {
        S.LLM_PARAM_INVALID: lambda: engine.manager.allocate_cache(
            CacheDesc(0, [1], desc.data_type)
        ),
        S.LLM_NOT_YET_LINK: lambda: engine.manager.pull_blocks(blocks_of(), held.cache, [0], [0]),
        S.LLM_KV_CACHE_NOT_EXIST: lambda: _copy_of_a_gone_cache(engine),
        S.LLM_OUT_OF_MEMORY: lambda: engine.manager.allocate_cache(
            CacheDesc(1, [POOL, 64], DataType.DT_INT8, HOST)
        ),
    }
    for code, call in calls.items():
        with pytest.raises(LLMException) as caught:
            call()
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            copy = pickle.loads(pickle.dumps(caught.value, protocol))
            assert type(copy) is type(caught.value)
            assert (copy.status_code, copy.raw) == (code, caught.value.raw)
            assert str(copy) == str(caught.value)


def _copy_of_a_gone_cache(engine: EngineHere) -> None:
    cache = engine.contiguous().cache
    engine.manager.unregister_cache(cache.cache_id)
    engine.manager.copy_cache(cache, cache, 1, 0)


@pytest.mark.rule("C10-41")
def test_c10_41_the_token_is_shown_by_no_repr() -> None:
    config = LLMConfig()
    config.auth_token = TOKEN
    options = config.generate_options()
    for shown in (config, options, EngineOptions(1, LLMRole.MIX, auth_token=TOKEN)):
        assert TOKEN not in repr(shown)
        assert TOKEN not in f"{shown}"


LOGGING = """
import sys
from llm_datadist import LLMClusterInfo, LLMConfig, LLMDataDist, LLMRole
from llm_datadist.testing import device
def opened(cluster, token, by_hand=False):
    config = LLMConfig()
    config.enable_cache_manager = config.allow_multiple_instances = True
    config.listen_ip_info = "127.0.0.1:0"
    if not by_hand:
        config.auth_token = token
    options = {**config.generate_options(), **device.options_of(cluster)}
    if by_hand:
        options["lldd.AuthToken"] = token
    datadist = LLMDataDist(LLMRole.MIX, cluster)
    datadist.init(options)
    return datadist
token = sys.argv[1]
server, friend, stranger = opened(1, token), opened(2, token, True), opened(3, token + "x")
for client in (friend, stranger):
    info = LLMClusterInfo()
    info.append_local_ip_info("127.0.0.1", 0)
    info.append_remote_ip_info(*server.listen_address)
    print(client.link_clusters([info]), info.link_detail)
print(server.links(), repr(server), vars(server), vars(server._engine))
"""


@pytest.mark.rule("C10-41")
def test_c10_41_the_token_is_in_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASCEND_GLOBAL_LOG_LEVEL", "0")
    done = subprocess.run(
        [sys.executable, "-c", LOGGING, TOKEN], capture_output=True, text=True, check=True
    )
    # There is a log, and it tells of both links.
    assert "[INFO]" in done.stdout or "[DEBUG]" in done.stdout
    assert "LLM_SUCCESS" in done.stdout
    assert "LLM_LINK_FAILED" in done.stdout
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.rule("C10-48")
@pytest.mark.parametrize("port", ["-1", "65536", "99999", str(2**64)])
def test_c10_48_listen_ports_outside_16_bits(engine: EngineHere, port: str) -> None:
    config = LLMConfig()
    config.enable_cache_manager = config.allow_multiple_instances = True
    config.mem_pool_cfg = pool_config(POOL)
    config.listen_ip_info = f"127.0.0.1:{port}"
    with refused(S.LLM_PARAM_INVALID, port):
        LLMDataDist(LLMRole.MIX, 2).init(config.generate_options())
    before = engine.datadist.listen_address
    with refused(S.LLM_PARAM_INVALID, port):
        engine.datadist.switch_role(LLMRole.MIX, {"llm.listenIpInfo": f"127.0.0.1:{port}"})
    assert engine.datadist.listen_address == before


@pytest.mark.rule("C10-8")
def test_c10_8_a_take_over_that_is_made_an_error_leaves_no_cache(engine: EngineHere) -> None:
    desc = CacheDesc(1, [4, 64], DataType.DT_INT8)
    manager = engine.manager
    manager.register_blocks_cache(desc, engine.addresses(desc), BlocksCacheKey(1, 7))
    with warnings.catch_warnings():
        warnings.simplefilter("error", LLMDataDistWarning)
        with pytest.raises(LLMDataDistWarning, match="cache 2"):
            manager.register_blocks_cache(desc, engine.addresses(desc), BlocksCacheKey(1, 7))
    # Neither cache has the name now, so it may be given without a warning.
    with warnings.catch_warnings():
        warnings.simplefilter("error", LLMDataDistWarning)
        manager.register_blocks_cache(desc, engine.addresses(desc), BlocksCacheKey(1, 7))


@pytest.mark.rule("C10-7")
def test_c10_7_one_placeholder_is_no_reason_to_warn(engine: EngineHere) -> None:
    desc = CacheDesc(1, [4, 64], DataType.DT_INT8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LLMDataDistWarning)
        engine.manager.allocate_cache(desc, [CacheKey(1, 2**64 - 1), CacheKey(1, 5)])
        # Two of different models are each one of its model.
        engine.manager.allocate_cache(desc, [CacheKey(1, 2**64 - 1, m) for m in (3, 4)])
