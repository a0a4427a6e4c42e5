# SPDX-License-Identifier: Apache-2.0
"""Strict-hardware mode, LLM_DATADIST_STRICT_HARDWARE=1: decisions 28, 32 and 38."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_datadist import CacheDesc, CacheKey, DataType, LLMStatusCode
from llm_datadist.introspection import MemoryKind
from tests.conformance.engines import HOST, EngineHere, Engines, Held, blocks_of, by_id
from tests.conformance.refusals import refused
from tests.conformance.tensors import ForeignTensor

S = LLMStatusCode
REGISTERED = MemoryKind.REGISTERED
TABLE_BYTES = 1 << 20


@pytest.fixture
def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_DATADIST_STRICT_HARDWARE", "1")


def pull_in_runs(puller: EngineHere, target: Held, runs: int) -> None:
    """Backwards, so that each block is a run of its own."""
    blocks = list(range(runs))
    puller.manager.pull_blocks(blocks_of(), target.cache, blocks[::-1], blocks)


@pytest.mark.rule("C10-28")
@pytest.mark.usefixtures("_strict")
@pytest.mark.parametrize(("one_sided", "runs"), [(True, 65531), (False, 3579)])
def test_c10_28_runs_of_a_request(engines: Engines, one_sided: bool, runs: int) -> None:
    # It is about what is refused, not about how long 131 062 pieces take.
    owner, puller = engines.two(one_sided=one_sided, timeout_ms=20_000)
    source = owner.paged(runs + 1, 8, model_id=0, tensors=2)
    target = puller.paged(runs + 1, 8, tensors=2)
    engines.link(puller, owner)
    with refused(S.LLM_PARAM_INVALID, runs + 1):
        pull_in_runs(puller, target, runs + 1)
    assert np.array_equal(target.now, target.first)
    # T + 2G is the limit itself, or one below it.
    pull_in_runs(puller, target, runs)
    assert np.array_equal(target.now[:, :runs], source.first[:, runs - 1 :: -1][:, :runs])
    # Neighbours are one run, however many they are.
    everything = list(range(runs + 1))
    puller.manager.pull_blocks(blocks_of(), target.cache, everything, everything)
    assert np.array_equal(target.now, source.first)


@pytest.mark.rule("C10-28")
@pytest.mark.usefixtures("_strict")
def test_c10_28_an_entry_into_blocks_counts_each_block(engines: Engines) -> None:
    owner, puller = engines.two(one_sided=False)
    source = owner.contiguous(1, 8 * 3580, tensors=2)
    target = puller.paged(3580, 8, tensors=2)
    engines.link(puller, owner)
    with refused(S.LLM_PARAM_INVALID, 3580):
        puller.manager.pull_blocks(by_id(source), target.cache, [], list(range(3580)))
    puller.manager.pull_blocks(by_id(source), target.cache, [], list(range(3579)))
    assert np.array_equal(target.now[:, 3578], source.first[:, 0, -16:-8])


@pytest.mark.rule("C10-28")
@pytest.mark.usefixtures("_strict")
def test_c10_28_tensors_of_device_memory_in_a_request(engines: Engines) -> None:
    owner, puller = engines.two(one_sided=False)
    for tensors in (2043, 2044):
        source = owner.contiguous(1, 8, tensors=tensors, memory=REGISTERED)
        target = puller.contiguous(1, 8, tensors=tensors, memory=REGISTERED)
        engines.link(puller, owner)
        if tensors == 2043:
            puller.manager.pull_cache(by_id(source), target.cache)
            assert np.array_equal(target.now, source.first)
            engines.unlink(puller, owner)
        else:
            with refused(S.LLM_PARAM_INVALID, 2044):
                puller.manager.pull_cache(by_id(source), target.cache)


@pytest.mark.rule("C10-28")
@pytest.mark.usefixtures("_strict")
def test_c10_28_blocks_for_host_memory_in_a_request(engines: Engines) -> None:
    owner, puller = engines.two(one_sided=False)
    source = owner.paged(7159, 8, model_id=0, tensors=1)
    target = puller.paged(7159, 8, tensors=1, placement=HOST, memory=REGISTERED)
    engines.link(puller, owner)
    blocks = list(range(7159))
    with refused(S.LLM_PARAM_INVALID, 7159):
        puller.manager.pull_blocks(blocks_of(), target.cache, blocks, blocks)
    puller.manager.pull_blocks(blocks_of(), target.cache, blocks[:-1], blocks[:-1])
    assert np.array_equal(target.now[:, :-1], source.first[:, :-1])


@pytest.mark.rule("C10-28", "C10-32", "C10-38")
@pytest.mark.parametrize("value", [None, "0", ""])
def test_c10_28_it_is_off_unless_asked_for(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("LLM_DATADIST_STRICT_HARDWARE", raising=False)
    if value is not None:
        monkeypatch.setenv("LLM_DATADIST_STRICT_HARDWARE", value)
    owner, puller = engines.two(one_sided=False)
    owner.paged(3580, 8, model_id=0, tensors=2)
    target = puller.paged(3580, 8, tensors=2)
    engines.link(puller, owner)
    pull_in_runs(puller, target, 3580)
    index = np.arange(3, dtype=np.int64)
    puller.manager.pull_blocks(blocks_of(), target.cache, index, list(index))


@pytest.mark.rule("C10-68", "C10-70")
@pytest.mark.usefixtures("_strict")
@pytest.mark.parametrize(
    "blocks",
    [
        np.arange(2, dtype=np.int64),
        np.arange(2, dtype=np.uint64),
        memoryview(np.arange(2, dtype=np.uint64)),
        list(np.arange(2)),
        (0, np.int64(1)),
        [0, 1.0],
        (3, True),
        np.arange(2, dtype=np.int32),
        range(2),
        ForeignTensor(np.arange(2)),
    ],
    ids=[
        "int64",
        "uint64",
        "memoryview",
        "list of numpy",
        "numpy inside",
        "float inside",
        "bool",
        "int32",
        "range",
        "dlpack",
    ],
)
def test_c10_32_only_lists_and_tuples_of_int(engines: Engines, blocks: Any) -> None:
    owner, puller = engines.two()
    source, target = owner.paged(model_id=0), puller.paged()
    engines.link(puller, owner)
    for src, dst, name in ((blocks, [0, 1], "src_blocks"), ([0, 1], blocks, "dst_blocks")):
        for call in (puller.manager.pull_blocks, puller.manager.push_blocks):
            with pytest.raises(TypeError, match=name):
                call(blocks_of(), target.cache, src, dst)
    puller.manager.pull_blocks(blocks_of(), target.cache, (3, 1), [0, 1])
    assert np.array_equal(target.now[:, :2], source.first[:, [3, 1]])


@pytest.mark.rule("C10-66")
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("value", [-1, 2**64])
def test_c10_32_a_value_that_is_no_uint64_is_named_with_its_index(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, value: int, strict: bool
) -> None:
    if strict:
        monkeypatch.setenv("LLM_DATADIST_STRICT_HARDWARE", "1")
    engine = engines.open(1)
    target = engine.paged()
    lists = (([0, 1, value], [0, 1, 2], "src_blocks"), ([0, 1, 2], [0, 1, value], "dst_blocks"))
    for src, dst, name in lists:
        for call in (engine.manager.pull_blocks, engine.manager.push_blocks):
            with pytest.raises(TypeError, match=rf"{name}\[2\].*{value}"):
                call(blocks_of(), target.cache, src, dst)


def nearly_fill_table(engine: EngineHere, left: int) -> None:
    """Leave that many bytes of the table: 24, and 64 + 8 a tensor for each cache."""
    tensors = (TABLE_BYTES - left - 24 - 64) // 8
    desc = CacheDesc(tensors, [1, 8], DataType.DT_INT8)
    addrs = engine.addresses(CacheDesc(1, [1, 8], DataType.DT_INT8)) * tensors
    engine.manager.register_cache(desc, addrs, remote_accessible=False)


@pytest.mark.rule("C10-38")
@pytest.mark.usefixtures("_strict")
def test_c10_38_the_table_of_one_sided_mode_has_1_mib(engines: Engines) -> None:
    engine = engines.open(1)
    desc = CacheDesc(1, [1, 8], DataType.DT_INT8)
    # Room for a cache of one tensor with a key, to the byte.
    nearly_fill_table(engine, 64 + 8 + 24)
    engine.manager.allocate_cache(desc, [CacheKey(1, 1)])
    with refused(S.LLM_PARAM_INVALID, "table"):
        engine.manager.allocate_cache(desc)


@pytest.mark.rule("C10-38")
@pytest.mark.parametrize(("strict", "one_sided"), [("0", True), ("1", False)])
def test_c10_38_in_no_other_mode(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, strict: str, one_sided: bool
) -> None:
    monkeypatch.setenv("LLM_DATADIST_STRICT_HARDWARE", strict)
    engine = engines.open(1, one_sided=one_sided)
    nearly_fill_table(engine, 0)
    engine.manager.allocate_cache(CacheDesc(1, [1, 8], DataType.DT_INT8), [CacheKey(1, 1)])
