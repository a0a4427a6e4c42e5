# SPDX-License-Identifier: Apache-2.0
"""Pools and their page arithmetic as a client sees them: contract 3.3."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_datadist import (
    Cache,
    CacheDesc,
    DataType,
    LLMConfig,
    LLMDataDist,
    LLMException,
    LLMRole,
    LLMStatusCode,
)
from tests.conformance.engines import (
    HOST,
    OWNER,
    POOL,
    EngineHere,
    Engines,
    pool_config,
    tensors_of,
)
from tests.conformance.refusals import refused_by_engine

S = LLMStatusCode
KIB = 1 << 10
PAGE = 64 * KIB


def take(engine: EngineHere, size: int, tensors: int = 1) -> Cache:
    desc = CacheDesc(tensors, [1, size], DataType.DT_INT8)
    return engine.manager.allocate_cache(desc)


def capacity(engine: EngineHere, size: int) -> int:
    """How many tensors of this size fit now."""
    caches = []
    while True:
        try:
            caches.append(take(engine, size))
        except MemoryError:
            break
    for cache in caches:
        engine.manager.deallocate_cache(cache)
    return len(caches)


def spans(engine: EngineHere) -> list[int]:
    """The free spans in pages, largest first."""
    found: list[int] = []
    caches = []
    for pages in range(16, 0, -1):
        while True:
            try:
                caches.append(take(engine, pages * PAGE))
            except MemoryError:
                break
            found.append(pages)
    for cache in caches:
        engine.manager.deallocate_cache(cache)
    return found


@pytest.mark.rule("C3.3-9", "C3.3-15")
@pytest.mark.parametrize("size", [1, 4 * KIB, PAGE - 1, PAGE])
def test_c3_3_15_a_256_kib_pool_holds_four_tensors_of_up_to_64_kib(
    engines: Engines, size: int
) -> None:
    owner = engines.open(OWNER, pool=256 * KIB)
    assert capacity(owner, size) == 4
    assert capacity(owner, size) == 4, "all of it came back"
    with refused_by_engine("allocate_cache", S.LLM_OUT_OF_MEMORY, 5, size):
        take(owner, size, tensors=5)
    assert len(take(owner, size, tensors=4).tensor_addrs) == 4


@pytest.mark.rule("C3.3-9")
@pytest.mark.parametrize(
    ("size", "fit"), [(PAGE + 1, 2), (2 * PAGE, 2), (2 * PAGE + 1, 1), (4 * PAGE, 1)]
)
def test_c3_3_9_sizes_round_up_to_whole_pages(engines: Engines, size: int, fit: int) -> None:
    assert capacity(engines.open(OWNER, pool=256 * KIB), size) == fit


@pytest.mark.rule("C3.3-3", "C3.3-13")
@pytest.mark.parametrize(
    ("shift", "size", "fit"),
    [(10, 4 * KIB, 4), (10, 4 * KIB + 1023, 4), (12, 40 * KIB, 10), (20, (3 << 20) - 1, 2)],
)
def test_c3_3_13_page_shift_and_a_trailing_partial_page(
    engines: Engines, shift: int, size: int, fit: int
) -> None:
    assert capacity(engines.open(OWNER, pool=size, page_shift=shift), 1) == fit


@pytest.mark.rule("C3.3-10", "C3.3-11")
def test_c3_3_10_an_exact_fit_first_else_the_high_end_of_the_smallest_larger(
    engines: Engines,
) -> None:
    owner = engines.open(OWNER, pool=16 * PAGE)
    sizes = [3, 1, 2, 1, 4, 1, 4]
    caches = [take(owner, pages * PAGE) for pages in sizes]
    addrs = [cache.tensor_addrs[0] for cache in caches]
    # From the high end down.
    assert addrs == [addrs[0] - PAGE * sum(sizes[1 : i + 1]) for i in range(len(sizes))]
    for index in (0, 2, 4):
        owner.manager.deallocate_cache(caches[index])
    assert take(owner, 2 * PAGE).tensor_addrs == [addrs[2]], "the exact fit"
    assert take(owner, 2 * PAGE).tensor_addrs == [addrs[0] + PAGE], "the high end of three"
    assert take(owner, 2 * PAGE).tensor_addrs == [addrs[4] + 2 * PAGE], "the high end of four"


@pytest.mark.rule("C3.3-12")
def test_c3_3_12_freeing_merges_neighbours(engines: Engines) -> None:
    owner = engines.open(OWNER, pool=8 * PAGE)
    caches = [take(owner, 2 * PAGE) for _ in range(4)]
    for index in (0, 2):
        owner.manager.deallocate_cache(caches[index])
    assert spans(owner) == [2, 2]
    owner.manager.deallocate_cache(caches[1])
    assert spans(owner) == [6]
    owner.manager.deallocate_cache(caches[3])
    assert spans(owner) == [8]


@pytest.mark.rule("C3.3-14")
def test_c3_3_14_freed_memory_is_reused_and_not_cleared(engines: Engines) -> None:
    owner = engines.open(OWNER, pool=4 * PAGE)
    first = owner.paged(4, PAGE // 4, tensors=4)
    addrs = sorted(first.cache.tensor_addrs)
    contents = dict(zip(first.cache.tensor_addrs, first.first))
    owner.manager.deallocate_blocks_cache(first.cache)
    again = take(owner, PAGE, tensors=4)
    assert sorted(again.tensor_addrs) == addrs
    for addr, tensor in zip(again.tensor_addrs, tensors_of(again, owner.device_id)):
        assert np.array_equal(tensor[0], contents[addr].reshape(-1))


@pytest.mark.rule("C3.2-14", "C3.2-15")
def test_c3_3_1_device_and_host_pool_are_apart(engines: Engines) -> None:
    owner = engines.open(OWNER, pool=2 * PAGE, host_pool=3 * PAGE)
    assert capacity(owner, 1) == 2
    desc = CacheDesc(3, [1, PAGE], DataType.DT_INT8, HOST)
    host = owner.manager.allocate_blocks_cache(desc)
    with refused_by_engine("allocate_blocks_cache", S.LLM_OUT_OF_MEMORY):
        owner.manager.allocate_blocks_cache(CacheDesc(1, [1, 1], DataType.DT_INT8, HOST))
    assert capacity(owner, 1) == 2
    owner.manager.deallocate_blocks_cache(host)
    owner.manager.allocate_cache(desc)


REFUSED = {
    "bad JSON": "{",
    "an array": '[{"memory_size": 1048576}]',
    "no memory_size": '{"page_shift": 16}',
    "a negative memory_size": '{"memory_size": -1}',
    "memory_size as text": '{"memory_size": "1048576"}',
    "memory_size as float": '{"memory_size": 1048576.0}',
    "page_shift 9": '{"memory_size": 1048576, "page_shift": 9}',
    "page_shift 31": '{"memory_size": 1048576, "page_shift": 31}',
    "page_shift as text": '{"memory_size": 1048576, "page_shift": "16"}',
    "a page larger than the pool": '{"memory_size": 65535}',
    "too many pages": '{"memory_size": 4398046510080, "page_shift": 10}',
    "zero": '{"memory_size": 0}',
}


@pytest.mark.rule("C3.3-1", "C3.3-2", "C3.3-3", "C3.3-4")
@pytest.mark.parametrize("option", ["mem_pool_cfg", "host_mem_pool_cfg"])
@pytest.mark.parametrize("name", REFUSED)
def test_c3_3_4_refused_configurations(name: str, option: str) -> None:
    datadist = make(option, REFUSED[name])
    with pytest.raises(LLMException, match=r"(?i)pool|memory_size|page_shift") as caught:
        datadist.init(datadist.options)
    assert caught.value.status_code == S.LLM_PARAM_INVALID
    assert LLMDataDist.llm_engine_instance is None
    with pytest.raises(RuntimeError, match="not initialized"):
        _ = datadist.cache_manager


def make(option: str, text: str) -> Any:
    config = LLMConfig()
    config.enable_cache_manager = True
    config.allow_multiple_instances = True
    setattr(config, option, text)
    datadist: Any = LLMDataDist(LLMRole.MIX, OWNER)
    datadist.options = config.generate_options()
    return datadist


@pytest.mark.rule("C3.3-5")
def test_c3_3_5_unknown_fields_are_ignored(engines: Engines) -> None:
    text = pool_config(POOL)[:-1] + ', "unknown": {"a": [1]}}'
    datadist = make("mem_pool_cfg", text)
    datadist.init(datadist.options)
    cache = datadist.cache_manager.allocate_cache(CacheDesc(1, [1, 8], DataType.DT_INT8))
    assert cache.tensor_addrs
    datadist.finalize()
