# SPDX-License-Identifier: Apache-2.0
"""What a pull checks on the caller's side, and in which order: contract 5.1 and 5.2.

A ladder lists errors in the order in which they are looked for: what is raised, what the text says,
and the arguments that have the error. It is climbed from its end: each call has the error of one
rung and those of all later rungs, and must raise the one of its own rung.
"""

from __future__ import annotations

from typing import Any, Callable, Union

import numpy as np
import pytest

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheKey,
    CacheKeyByIdAndIndex,
    LLMDataDistWarning,
    LLMStatusCode,
    Placement,
    RegisterMemStatus,
    status,
)
from llm_datadist.introspection import MemoryKind
from llm_datadist.testing import eventually
from tests.conformance.engines import (
    OWNER,
    PULLER,
    UNSET,
    EngineHere,
    Engines,
    blocks_of,
    by_id,
    by_request,
)
from tests.conformance.refusals import check_refusal, refused, refused_by_engine

S = LLMStatusCode
PI, NOT_EXIST, NOT_LINKED = S.LLM_PARAM_INVALID, S.LLM_KV_CACHE_NOT_EXIST, S.LLM_NOT_YET_LINK
Rung = tuple[Union[type[Exception], LLMStatusCode], str, dict[str, Any]]

BOTH_IDS, NO_ID = CacheKey(OWNER, 1, 0, 1), CacheKey(OWNER, UNSET)

PER_LAYER: list[Rung] = [
    (TypeError, "tensor_num_per_layer", {"tensor_num_per_layer": None}),
    (ValueError, "tensor_num_per_layer", {"tensor_num_per_layer": -1}),
    (ValueError, "tensor_num_per_layer", {"tensor_num_per_layer": 2**32}),
    (PI, "tensor_num_per_layer", {"tensor_num_per_layer": 0}),
]
LAYERS: list[Rung] = [
    (TypeError, "src_layer_range", {"src_layer_range": [0, 1]}),
    (PI, "src_layer_range", {"src_layer_range": range(0, 4, 2)}),
    (PI, "src_layer_range", {"src_layer_range": range(-1, 1)}),
    (ValueError, "src_layer_range", {"src_layer_range": range(2**32, 2**32 + 1)}),
    (TypeError, "dst_layer_range", {"dst_layer_range": 1}),
    (PI, "dst_layer_range", {"dst_layer_range": range(3, 0, -1)}),
    (PI, "dst_layer_range", {"dst_layer_range": range(-1, 1)}),
    (ValueError, "dst_layer_range", {"dst_layer_range": range(2**32 + 1)}),
]


def climb(call: Callable[..., None], good: dict[str, Any], ladder: list[Rung]) -> None:
    arguments = dict(good)
    for error, text, changes in reversed(ladder):
        arguments.update(changes)
        with pytest.raises(Exception, match=text) as caught:
            call(**arguments)
        if isinstance(error, LLMStatusCode):
            check_refusal(caught.value, error)
        else:
            assert type(caught.value) is error


@pytest.fixture
def one_sided(engines: Engines) -> EngineHere:
    return engines.open(PULLER)


@pytest.fixture
def requesting(engines: Engines) -> EngineHere:
    return engines.open(PULLER, one_sided=False)


# ---- 5.1


@pytest.mark.rule(*(f"C5.1-{n}" for n in range(1, 8)), "C5.4-1", "C10-30")
def test_c5_1_1_order_of_pull_cache(requesting: EngineHere) -> None:
    entries, blocks = requesting.contiguous().cache, requesting.paged().cache
    ladder: list[Rung] = [
        (TypeError, "cache_key", {"cache_key": None}),
        (TypeError, "cache_key", {"cache_key": blocks_of()}),
        (TypeError, "cache only", {"cache": None}),
        (TypeError, "cache only", {"cache": 1}),
        (TypeError, "batch_index", {"batch_index": None}),
        (ValueError, "batch_index", {"batch_index": -1}),
        (ValueError, "batch_index", {"batch_index": 2**32}),
        (TypeError, "size", {"size": 1.0}),
        (ValueError, "size", {"size": 2**63}),
        (PI, "has blocks", {"cache": blocks}),
        (PI, "size", {"size": -2}),
        (PI, "size", {"size": 0}),
        *PER_LAYER,
        (PI, "exactly one", {"cache_key": NO_ID}),
        (PI, "exactly one", {"cache_key": BOTH_IDS}),
        *LAYERS,
        (NOT_LINKED, "no link", {}),
    ]
    good = {"cache_key": by_id(1), "cache": entries}
    climb(requesting.manager.pull_cache, good, ladder)
    assert requesting.datadist.counters().failures == 1, "only the last call got to the engine"


@pytest.mark.rule("C5.1-1")
def test_c5_1_1_keys_of_either_mode(one_sided: EngineHere, requesting: EngineHere) -> None:
    for engine, keys, others in (
        (requesting, [by_id(1), by_request(1)], [blocks_of()]),
        (one_sided, [by_id(1)], [blocks_of(), by_request(1), BOTH_IDS]),
    ):
        cache = engine.contiguous().cache
        for key in keys:
            with refused_by_engine("pull_cache", NOT_LINKED, OWNER):
                engine.manager.pull_cache(key, cache)
        for key in others:
            with pytest.raises(TypeError, match="cache_key only support"):
                engine.manager.pull_cache(key, cache)


BLOCKS_START: list[Rung] = [
    (TypeError, "src_cache_key", {"src_cache_key": None}),
    (TypeError, "src_cache_key", {"src_cache_key": OWNER}),
    (TypeError, "dst_cache", {"dst_cache": None}),
    (TypeError, "dst_cache", {"dst_cache": 1}),
    (TypeError, "src_blocks", {"src_blocks": "1"}),
    (TypeError, "src_blocks", {"src_blocks": ["1"]}),
    (TypeError, "src_blocks", {"src_blocks": [-1]}),
    (TypeError, "dst_blocks", {"dst_blocks": {1}}),
    (TypeError, "dst_blocks", {"dst_blocks": [2**64]}),
]


@pytest.mark.rule("C5.1-8", "C5.1-9", "C5.1-10", "C5.1-11", "C5.1-12", "C5.1-15", "C5.4-1")
@pytest.mark.parametrize("mode", ["one_sided", "requesting"])
def test_c5_1_8_order_of_pull_blocks_by_blocks(mode: str, request) -> None:
    engine = request.getfixturevalue(mode)
    entries, blocks = engine.contiguous().cache, engine.paged().cache
    ladder: list[Rung] = [
        *BLOCKS_START,
        (PI, "no blocks", {"dst_cache": entries}),
        (PI, "dst_blocks is empty", {"dst_blocks": ()}),
        *PER_LAYER,
        (PI, "src_blocks is empty", {"src_blocks": ()}),
        *LAYERS,
        (NOT_LINKED, "no link", {}),
    ]
    good = {
        "src_cache_key": blocks_of(),
        "dst_cache": blocks,
        "src_blocks": [0],
        "dst_blocks": [0],
    }
    climb(engine.manager.pull_blocks, good, ladder)


@pytest.mark.rule("C5.1-8", "C5.1-9", "C5.1-10", "C5.1-11", "C5.1-13", "C5.1-14", "C5.1-15")
@pytest.mark.parametrize("mode", ["one_sided", "requesting"])
@pytest.mark.parametrize("key", [by_id(1), by_request(1)], ids=["by id", "by request"])
def test_c5_1_13_order_of_pull_blocks_by_another_key(mode: str, key: Any, request) -> None:
    engine = request.getfixturevalue(mode)
    entries, blocks = engine.contiguous().cache, engine.paged().cache
    ladder: list[Rung] = [
        *BLOCKS_START,
        (PI, "no blocks", {"dst_cache": entries}),
        (PI, "dst_blocks is empty", {"dst_blocks": ()}),
        *PER_LAYER,
        (PI, "src_blocks must be empty", {"src_blocks": [0]}),
        *([(PI, "exactly one", {"src_cache_key": each}) for each in (NO_ID, BOTH_IDS)]),
        *LAYERS,
        (NOT_LINKED, "no link", {}),
    ]
    good = {"src_cache_key": key, "dst_cache": blocks, "dst_blocks": [0]}
    climb(engine.manager.pull_blocks, good, ladder)
    with pytest.raises(TypeError, match="src_blocks"):
        engine.manager.pull_blocks(key, blocks, None, [0])


@pytest.mark.rule("C5.1-16", "C5.1-17")
def test_c5_1_16_list_values_are_the_engines_and_size_and_batch_index_are_ignored(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, puller = engines.two()
    source, target = owner.paged(8, 64, model_id=0), puller.paged(8, 64)
    engines.link(puller, owner)
    for src, dst in (([0, 1], [0]), ([8], [0]), ([0], [8])):
        with refused_by_engine("pull_blocks", PI, "src_blocks" if dst == [0] else "dst_blocks"):
            puller.manager.pull_blocks(blocks_of(), target.cache, src, dst)
    # Other names are no arguments of a pull of blocks: whole blocks arrive.
    monkeypatch.setattr(status, "_warned", set())
    with pytest.warns(LLMDataDistWarning, match="ignore the keyword"):
        puller.manager.pull_blocks(
            blocks_of(), target.cache, [3], [5], size=8, batch_index=9, unknown=None
        )
    assert np.array_equal(target.now[:, 5], source.first[:, 3])


# ---- 5.2, on an engine that is not linked: rows 1 to 9


def forged(cache: Cache, is_blocks: bool) -> Cache:
    """What a client cannot make in the regular way: the layout said here is not the engine's."""
    return Cache(cache.cache_id, cache.cache_desc, cache.tensor_addrs, is_blocks)


def own(key: Any) -> Any:
    return {
        CacheKeyByIdAndIndex: CacheKeyByIdAndIndex(PULLER, 1),
        CacheKey: CacheKey(PULLER, 1),
        BlocksCacheKey: BlocksCacheKey(PULLER),
    }[type(key)]


def engine_layers(tensors: int) -> list[Rung]:
    """Rows 7 and 8 for a cache of so many tensors, an even number."""
    layers = tensors // 2
    return [
        (PI, "does not divide", {"tensor_num_per_layer": tensors - 1}),
        (PI, "dst_layer_range", {"dst_layer_range": range(1, layers + 1)}),
        (PI, "src_layer_range has 2", {"dst_layer_range": range(1), "src_layer_range": range(2)}),
    ]


@pytest.mark.rule(*(f"C5.2-{n}" for n in (2, 3, 4, 5, 7, 8, 9, 12, 13)))
@pytest.mark.parametrize("mode", ["one_sided", "requesting"])
@pytest.mark.parametrize("kind", [MemoryKind.ALLOCATED, MemoryKind.REGISTERED])
def test_c5_2_2_order_of_pull_cache(mode: str, kind: MemoryKind, request) -> None:
    engine = request.getfixturevalue(mode)
    cache = engine.contiguous(4, 64, memory=kind).cache
    paged = engine.paged(4, 64, memory=kind).cache
    gone = engine.contiguous(4, 64, memory=kind).cache
    engine.manager.unregister_cache(gone.cache_id)
    ladder: list[Rung] = [
        (PI, f"own cluster {PULLER}", {"cache_key": own(by_id(1))}),
        (NOT_EXIST, f"no cache with id {gone.cache_id}", {"cache": gone}),
        (PI, "batch_index is 4", {"batch_index": 4}),
        (PI, "size is 65", {"size": 65}),
        *engine_layers(4),
        (NOT_LINKED, f"no link to cluster {OWNER}", {}),
    ]
    climb(engine.manager.pull_cache, {"cache_key": by_id(1), "cache": cache}, ladder)
    # Rows 4 and 5 of a blocks cache: its batch size is 1, and it is refused all the same.
    for batch_index, text in ((1, "batch_index is 1"), (0, "has blocks")):
        with refused(PI, text):
            engine.manager.pull_cache(by_id(1), forged(paged, False), batch_index)


@pytest.mark.rule(*(f"C5.2-{n}" for n in (2, 3, 6, 7, 8, 9, 11, 12, 13)))
@pytest.mark.parametrize("mode", ["one_sided", "requesting"])
@pytest.mark.parametrize("placement", ["HOST", "DEVICE"])
def test_c5_2_3_order_of_pull_blocks(mode: str, placement: str, request) -> None:
    engine = request.getfixturevalue(mode)
    kind, where = MemoryKind.REGISTERED, Placement[placement]
    cache = engine.paged(4, 64, memory=kind, placement=where).cache
    entries = engine.contiguous(4, 64, memory=kind, placement=where).cache
    gone = engine.paged(4, 64, memory=kind, placement=where).cache
    engine.manager.unregister_cache(gone.cache_id)
    ladder: list[Rung] = [
        (PI, f"own cluster {PULLER}", {"src_cache_key": own(blocks_of())}),
        (NOT_EXIST, f"no cache with id {gone.cache_id}", {"dst_cache": gone}),
        (PI, "has no blocks", {"dst_cache": forged(entries, True)}),
        (PI, "src_blocks has 2 indices, dst_blocks 3", {"dst_blocks": [0, 4, 1]}),
        (PI, "is 4", {"dst_blocks": [0, 4]}),
        *engine_layers(4),
        (NOT_LINKED, f"no link to cluster {OWNER}", {}),
    ]
    good = {
        "src_cache_key": blocks_of(),
        "dst_cache": cache,
        "src_blocks": [0, 1],
        "dst_blocks": [0, 1],
    }
    climb(engine.manager.pull_blocks, good, ladder)


@pytest.mark.rule("C5.2-1")
def test_c5_2_1_no_tensors_a_layer_before_the_own_cluster(one_sided: EngineHere) -> None:
    # Python refuses it, so the engine is asked past it.
    ask = one_sided.manager._engine.pull_cache
    nothing = (0, 0, 0, 0)
    with refused_by_engine("pull_cache", PI, "tensors_per_layer"):
        ask(own(by_id(1)), 4711, 0, -1, 0, nothing)
    with refused_by_engine("pull_cache", PI, "own cluster"):
        ask(own(by_id(1)), 4711, 0, -1, 1, nothing)


@pytest.mark.rule("C5.2-9", "C5.2-12")
@pytest.mark.parametrize("mode", [False, True], ids=["request mode", "one-sided"])
def test_c5_2_9_links_come_before_what_is_at_the_peer(engines: Engines, mode: bool) -> None:
    owner, puller = engines.two(one_sided=mode)
    target = puller.paged()
    with refused_by_engine("pull_blocks", NOT_LINKED, OWNER, "no links"):
        puller.manager.pull_blocks(blocks_of(99), target.cache, [4711], [0])
    engines.link(puller, owner)
    with refused_by_engine("pull_blocks", NOT_EXIST, OWNER, 99):
        puller.manager.pull_blocks(blocks_of(99), target.cache, [4711], [0])
    with refused_by_engine("pull_blocks", NOT_LINKED, 98, OWNER):
        puller.manager.pull_blocks(BlocksCacheKey(98, 99), target.cache, [0], [0])
    with refused_by_engine("pull_blocks", PI, "dst_blocks"):
        puller.manager.pull_blocks(blocks_of(99), target.cache, [0], [16])


@pytest.mark.rule("C5.2-14", "C5.2-10")
def test_c5_2_14_members_of_link_pull_once_the_memory_is_ready(engines: Engines) -> None:
    owner, puller = engines.two()
    source, target = owner.paged(model_id=0), puller.paged()
    members = {OWNER: 0, PULLER: 1}
    comm_id = puller.datadist.link("c5_2_14", members, "{}")
    assert puller.datadist.query_register_mem_status(comm_id) == RegisterMemStatus.PREPARING
    with refused_by_engine("pull_blocks", NOT_LINKED, OWNER):
        puller.manager.pull_blocks(blocks_of(), target.cache, [1], [2])
    other = owner.datadist.link("c5_2_14", members, "{}")

    def ready() -> bool:
        status = puller.datadist.query_register_mem_status(comm_id)
        assert status != RegisterMemStatus.FAILED
        return status == RegisterMemStatus.OK

    eventually(ready, "the memory is prepared", 10)
    puller.manager.pull_blocks(blocks_of(), target.cache, [1], [2])
    assert np.array_equal(target.now[:, 2], source.first[:, 1])
    puller.datadist.unlink(comm_id)
    owner.datadist.unlink(other)
    with refused_by_engine("pull_blocks", NOT_LINKED, OWNER):
        puller.manager.pull_blocks(blocks_of(), target.cache, [1], [2])
