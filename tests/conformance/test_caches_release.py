# SPDX-License-Identifier: Apache-2.0
"""Who keeps a cache, and when its memory is free again: contract 4.4.

Whether memory is free is seen by allocating it: the pool of these tests has room for one cache.
"""

from __future__ import annotations

import numpy as np
import pytest

from llm_datadist import Cache, CacheKeyByIdAndIndex, LLMException, LLMStatusCode
from llm_datadist.introspection import MemoryKind
from tests.conformance.engines import (
    OWNER,
    PLACEHOLDER,
    UNSET,
    Bytes,
    CacheKey,
    EngineHere,
    Engines,
    Held,
    blocks_of,
    by_id,
    by_prefix,
    by_request,
)
from tests.conformance.paths import Path
from tests.conformance.refusals import refused, refused_by_engine

S = LLMStatusCode
ALLOCATED, REGISTERED = MemoryKind.ALLOCATED, MemoryKind.REGISTERED
PAGE = 64 << 10
TENSORS = 4
ONE_CACHE = TENSORS * PAGE


def has_room(engine: EngineHere) -> bool:
    """Whether a whole cache fits the pool now."""
    try:
        probe = engine.contiguous(2, 256, memory=ALLOCATED)
    except LLMException as error:
        if error.status_code != S.LLM_OUT_OF_MEMORY:
            raise
        return False
    engine.manager.deallocate_cache(probe.cache)
    return True


@pytest.fixture
def owner(engines: Engines) -> EngineHere:
    return engines.open(OWNER, pool=ONE_CACHE)


def both(engines: Engines, path: Path, one_sided: bool = False) -> tuple[EngineHere, EngineHere]:
    owner = engines.open(OWNER, path, one_sided, pool=ONE_CACHE)
    puller = engines.open(5, path, one_sided)
    return owner, puller


def pulled(puller: EngineHere, key: CacheKey | CacheKeyByIdAndIndex, stride: int = 256) -> Bytes:
    """The bytes that a key leads to: [tensor, byte]."""
    target = puller.contiguous(1, stride)
    puller.manager.pull_cache(key, target.cache)
    return target.now[:, 0]


# ---- allocated contiguous


@pytest.mark.rule("C4.4-1", "C4.4-4")
def test_c4_4_1_without_keys_memory_is_free_at_once(owner: EngineHere) -> None:
    held = owner.contiguous()
    assert not has_room(owner)
    addrs = sorted(held.cache.tensor_addrs)
    owner.manager.deallocate_cache(held.cache)
    again = owner.contiguous()
    assert sorted(again.cache.tensor_addrs) == addrs, "the memory is really used again"


@pytest.mark.rule("C4.4-1", "C4.4-4", "C4.4-5")
def test_c4_4_1_with_keys_it_is_free_when_the_last_is_gone(owner: EngineHere) -> None:
    held = owner.contiguous(keys=[by_request(1), by_prefix(2), PLACEHOLDER, by_request(3)])
    owner.manager.deallocate_cache(held.cache)
    for key in (by_request(1), by_request(3)):
        owner.manager.remove_cache_key(key)
        owner.manager.remove_cache_key(key)
        assert not has_room(owner)
    owner.manager.remove_cache_key(by_prefix(2))
    assert has_room(owner)
    # Keys first is the same.
    held = owner.contiguous(keys=[by_request(1)])
    owner.manager.remove_cache_key(by_request(1))
    assert not has_room(owner)
    owner.manager.deallocate_cache(held.cache)
    assert has_room(owner)


@pytest.mark.rule("C4.4-4")
def test_c4_4_4_delayed_id_and_keys_keep_working(engines: Engines, path: Path) -> None:
    owner, puller = both(engines, path)
    held = owner.contiguous(keys=[by_request(1), by_request(2)], memory=ALLOCATED)
    owner.manager.deallocate_cache(held.cache)
    engines.link(puller, owner)
    # A remote pull by id of an entry without a key, a local copy, a pull that uses a key up.
    assert np.array_equal(pulled(puller, by_id(held, 3)), held.first[:, 3])
    owner.manager.copy_cache(held.cache, held.cache, dst_batch_index=3, src_batch_index=0)
    assert np.array_equal(pulled(puller, by_id(held, 3)), held.first[:, 0])
    assert np.array_equal(pulled(puller, by_request(1)), held.first[:, 0])
    assert not has_room(owner)
    # The last key: the memory is free, and the id is gone with it.
    assert np.array_equal(pulled(puller, by_request(2)), held.first[:, 1])
    assert has_room(owner)
    for key in (by_id(held, 3), by_request(2)):
        with refused_by_engine("pull_cache", S.LLM_KV_CACHE_NOT_EXIST, OWNER):
            pulled(puller, key)
    with refused_by_engine("copy_cache", S.LLM_KV_CACHE_NOT_EXIST, held.id):
        owner.manager.copy_cache(held.cache, held.cache, 3, 0)


@pytest.mark.rule("C4.4-6")
def test_c4_4_6_what_a_pull_by_key_drops(engines: Engines, path: Path) -> None:
    owner, puller = both(engines, path)
    held = owner.contiguous(keys=[by_request(1)], memory=ALLOCATED)
    if path.memory is REGISTERED:
        owner.contiguous(keys=[by_request(2)])
        registered_blocks = owner.paged(model_id=8)
    engines.link(puller, owner)
    pulled(puller, by_request(1))
    with refused_by_engine("pull_cache", S.LLM_KV_CACHE_NOT_EXIST):
        pulled(puller, by_request(1))
    assert not has_room(owner), "the id still refers to it"
    owner.manager.deallocate_cache(held.cache)
    blocks = owner.paged(model_id=7, memory=ALLOCATED)
    target = puller.paged()
    for _ in range(2):
        puller.manager.pull_blocks(blocks_of(7), target.cache, [1], [2])
        assert np.array_equal(target.now[:, 2], blocks.first[:, 1])
        if path.memory is REGISTERED:
            pulled(puller, by_request(2))
            puller.manager.pull_blocks(blocks_of(8), target.cache, [3], [3])
            assert np.array_equal(target.now[:, 3], registered_blocks.first[:, 3])


@pytest.mark.rule("C4.4-14", "C5.5-21")
def test_c4_4_14_prefix_keys_are_never_consumed(engines: Engines, path: Path) -> None:
    owner, puller = both(engines, path)
    held = owner.contiguous(keys=[by_prefix(1)], memory=ALLOCATED)
    owner.manager.deallocate_cache(held.cache)
    engines.link(puller, owner)
    for _ in range(3):
        assert np.array_equal(pulled(puller, by_prefix(1)), held.first[:, 0])
    assert not has_room(owner)
    owner.manager.remove_cache_key(by_prefix(1))
    assert has_room(owner)


# ---- allocated blocks


@pytest.mark.rule("C4.4-4")
def test_c4_4_4_blocks_are_freed_at_once_with_their_key(owner: EngineHere) -> None:
    held = owner.paged(model_id=3)
    owner.manager.deallocate_blocks_cache(held.cache)
    assert has_room(owner)
    owner.paged(model_id=3)


@pytest.mark.rule("C4.4-5", "C4.4-13")
def test_c4_4_5_unbinding_a_blocks_key_keeps_the_memory(engines: Engines, path: Path) -> None:
    owner, puller = both(engines, path)
    held = owner.paged(model_id=3, memory=ALLOCATED)
    engines.link(puller, owner)
    # Placeholders of other models name nothing.
    owner.manager.remove_cache_key(CacheKey(OWNER, UNSET, 2))
    owner.manager.remove_cache_key(by_request(3))
    target = puller.paged()
    puller.manager.pull_blocks(blocks_of(3), target.cache, [1], [2])
    owner.manager.remove_cache_key(CacheKey(OWNER, UNSET, 3))
    with refused_by_engine("pull_blocks", S.LLM_KV_CACHE_NOT_EXIST):
        puller.manager.pull_blocks(blocks_of(3), target.cache, [1], [2])
    assert not has_room(owner)
    assert np.array_equal(held.now, held.first)
    owner.manager.copy_blocks(held.cache, {0: [1]})
    owner.manager.deallocate_blocks_cache(held.cache)
    assert has_room(owner)


@pytest.mark.rule("C4.4-13")
def test_c4_4_13_removing_a_placeholder_is_a_no_op(owner: EngineHere) -> None:
    held = owner.contiguous(keys=[PLACEHOLDER, by_request(1)])
    owner.manager.deallocate_cache(held.cache)
    owner.manager.remove_cache_key(PLACEHOLDER)
    assert not has_room(owner)
    owner.manager.remove_cache_key(by_request(1))
    assert has_room(owner)


# ---- registered


@pytest.mark.rule("C4.4-4", "C4.4-5", "C4.4-10")
def test_c4_4_10_releasing_registered_caches_changes_nothing(
    engines: Engines, registered_path: Path
) -> None:
    owner, puller = both(engines, registered_path)
    entries = owner.contiguous(keys=[by_request(1)])
    blocks = owner.paged(model_id=2)
    engines.link(puller, owner)
    owner.manager.deallocate_cache(entries.cache)
    owner.manager.deallocate_blocks_cache(blocks.cache)
    assert entries.cache.tensor_addrs == blocks.cache.tensor_addrs == []
    owner.manager.remove_cache_key(by_request(1))
    owner.manager.remove_cache_key(CacheKey(OWNER, UNSET, 2))
    assert np.array_equal(pulled(puller, by_request(1)), entries.first[:, 0])
    target = puller.paged()
    puller.manager.pull_blocks(blocks_of(2), target.cache, [1], [2])
    assert np.array_equal(target.now[:, 2], blocks.first[:, 1])


# ---- unregister


@pytest.mark.rule("C4.4-7", "C4.4-11")
def test_c4_4_7_unregister_removes_everything_of_any_cache(owner: EngineHere) -> None:
    addrs = []
    for make in (
        lambda: owner.contiguous(keys=[by_request(1), by_prefix(1)]),
        lambda: owner.paged(model_id=3),
        lambda: owner.contiguous(keys=[by_request(1), by_prefix(1)], memory=REGISTERED),
        lambda: owner.paged(model_id=3, memory=REGISTERED),
    ):
        held = make()
        addrs = list(held.cache.tensor_addrs)
        owner.manager.unregister_cache(held.id)
        assert held.cache.tensor_addrs == addrs, "Python objects are not touched"
        assert has_room(owner)
        # Its keys are free: taking one over would warn, and a warning is an error here.
        owner.manager.unregister_cache(owner.paged(model_id=3, memory=REGISTERED).id)
        owner.manager.unregister_cache(owner.contiguous(keys=[by_request(1), by_prefix(1)]).id)
        with refused(S.LLM_KV_CACHE_NOT_EXIST):
            owner.manager.copy_cache(as_contiguous(held), as_contiguous(held))


def as_contiguous(held: Held) -> Cache:
    return Cache(held.id, held.cache.cache_desc, held.cache.tensor_addrs, False)


@pytest.mark.rule("C4.4-7", "C4.4-12")
def test_c4_4_12_unregister_looks_at_no_links_and_needs_no_pool(
    engines: Engines, registered_path: Path
) -> None:
    owner = engines.open(OWNER, registered_path, one_sided=True, pool=0)
    puller = engines.open(5, registered_path, one_sided=True)
    held = owner.paged(model_id=1)
    target = puller.paged()
    engines.link(puller, owner)
    puller.manager.pull_blocks(blocks_of(1), target.cache, [1], [2])
    owner.manager.unregister_cache(held.id)
    # The table that was read still has it; its registration is gone.
    with refused_by_engine("pull_blocks", S.LLM_FAILED, OWNER):
        puller.manager.pull_blocks(blocks_of(1), target.cache, [1], [3])
    assert np.array_equal(target.now[:, 3], target.first[:, 3])
    for unknown in (held.id, 4711, 0, -1, -(2**63), 2**63 - 1):
        owner.manager.unregister_cache(unknown)


# ---- what is gone already, and engines without a pool


@pytest.mark.rule("C4.4-4", "C4.4-5", "C4.4-9")
def test_c4_4_9_twice_is_success(owner: EngineHere) -> None:
    manager = owner.manager
    entries = owner.contiguous(keys=[by_request(1)])
    manager.deallocate_cache(entries.cache)
    assert entries.cache.tensor_addrs == []
    manager.deallocate_cache(entries.cache)
    for _ in range(2):
        manager.remove_cache_key(by_request(1))
        manager.remove_cache_key(by_prefix(99))
    manager.deallocate_cache(entries.cache)
    blocks = owner.paged()
    for _ in range(2):
        manager.deallocate_blocks_cache(blocks.cache)
        assert blocks.cache.tensor_addrs == []
    # A second release does not free the pages of whoever has them now.
    owner.contiguous()
    manager.deallocate_cache(entries.cache)
    manager.deallocate_blocks_cache(blocks.cache)
    assert not has_room(owner)


@pytest.mark.rule("C4.4-8")
def test_c4_4_8_without_a_pool_releasing_is_not_enabled(engines: Engines) -> None:
    owner = engines.open(OWNER, pool=0)
    entries = owner.contiguous(keys=[by_request(1)], memory=REGISTERED)
    blocks = owner.paged(model_id=1, memory=REGISTERED)
    addrs = list(entries.cache.tensor_addrs)
    with refused_by_engine("deallocate_cache", S.LLM_FEATURE_NOT_ENABLED, "pool"):
        owner.manager.deallocate_cache(entries.cache)
    with refused_by_engine("deallocate_blocks_cache", S.LLM_FEATURE_NOT_ENABLED, "pool"):
        owner.manager.deallocate_blocks_cache(blocks.cache)
    assert entries.cache.tensor_addrs == addrs
    for key in (by_request(1), by_request(99)):
        with refused_by_engine("remove_cache_key", S.LLM_FEATURE_NOT_ENABLED, "pool"):
            owner.manager.remove_cache_key(key)
    # Unknown ids, too.
    owner.manager.unregister_cache(entries.id)
    with refused_by_engine("deallocate_cache", S.LLM_FEATURE_NOT_ENABLED, "pool"):
        owner.manager.deallocate_cache(entries.cache)
    # A host pool is a pool.
    other = engines.open(OWNER, pool=0, host_pool=ONE_CACHE)
    other.manager.remove_cache_key(by_request(1))
