# SPDX-License-Identifier: Apache-2.0
"""Request mode: which pulls use up which keys: contract 5.5, "Consumption", with decision 9.

The caches of the owner are allocated: keys of registered ones are never used up. So the paths are
those to memory of a pool.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from llm_datadist import CacheDesc, DataType, LLMException, LLMStatusCode
from llm_datadist.introspection import MemoryKind
from tests.conformance.engines import (
    OWNER,
    PLACEHOLDER,
    UNSET,
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
from tests.conformance.refusals import refused_by_engine

S = LLMStatusCode
NOT_EXIST = S.LLM_KV_CACHE_NOT_EXIST
ALLOCATED, REGISTERED = MemoryKind.ALLOCATED, MemoryKind.REGISTERED
PAGE = 64 << 10


@pytest.fixture
def both(engines: Engines, path: Path) -> tuple[EngineHere, EngineHere]:
    owner, puller = engines.two(path, one_sided=False)
    engines.link(puller, owner)
    return owner, puller


def keyed(owner: EngineHere, *keys: CacheKey, tensors: int = 4) -> Held:
    return owner.contiguous(4, 256, keys, tensors=tensors, memory=ALLOCATED)


def is_bound(owner: EngineHere, key: CacheKey) -> bool:
    """Whether a key is bound at the owner: then no other cache can have it."""
    try:
        probe = owner.contiguous(1, 8, [key], memory=ALLOCATED)
    except LLMException as error:
        if "bound" not in str(error):
            raise
        return True
    owner.manager.unregister_cache(probe.id)
    return False


@pytest.mark.rule("C5.5-20", "C5.5-22", "C5.5-23")
def test_c5_5_20_a_pulled_key_is_gone_when_the_pull_returns(both: Any) -> None:
    owner, puller = both
    source = keyed(owner, by_request(1), by_request(2))
    target = puller.contiguous(1)
    puller.manager.pull_cache(by_request(2), target.cache)
    assert np.array_equal(target.now[:, 0], source.first[:, 1])
    assert not is_bound(owner, by_request(2))
    assert is_bound(owner, by_request(1))
    for _ in range(2):
        with refused_by_engine("pull_cache", NOT_EXIST, OWNER, 2):
            puller.manager.pull_cache(by_request(2), target.cache)
    # The entry itself can still be had by id, as often as one likes.
    for _ in range(2):
        puller.manager.pull_cache(by_id(source, 1), target.cache)
        assert np.array_equal(target.now[:, 0], source.first[:, 1])


@pytest.mark.rule("C5.5-20")
def test_c5_5_20_also_when_the_entry_is_addressed_by_id(both: Any) -> None:
    owner, puller = both
    source = keyed(owner, by_request(1), by_request(2))
    target = puller.contiguous(1)
    puller.manager.pull_cache(by_id(source, 1), target.cache)
    assert (is_bound(owner, by_request(1)), is_bound(owner, by_request(2))) == (True, False)
    with refused_by_engine("pull_cache", NOT_EXIST):
        puller.manager.pull_cache(by_request(2), target.cache)


@pytest.mark.rule("C5.5-20")
@pytest.mark.parametrize("by", ["id", "request"])
def test_c5_5_20_also_by_a_pull_into_blocks(both: Any, by: str) -> None:
    owner, puller = both
    source = keyed(owner, PLACEHOLDER, by_request(7))
    target = puller.paged(8, 64)
    key = by_id(source, 1) if by == "id" else by_request(7)
    # A part of the entry is a whole pull.
    puller.manager.pull_blocks(key, target.cache, [], [3])
    assert np.array_equal(target.now[:, 3], source.first[:, 1, :64])
    assert not is_bound(owner, by_request(7))


@pytest.mark.rule("C5.5-20", "C4.4-6")
def test_c5_5_20_the_last_key_frees_the_cache(engines: Engines, path: Path) -> None:
    owner = engines.open(OWNER, path, one_sided=False, pool=4 * PAGE)
    puller = engines.open(5, path, one_sided=False)
    engines.link(puller, owner)
    target = puller.contiguous(1)
    for _ in range(3):
        source = keyed(owner, by_request(1), by_request(2))
        owner.manager.deallocate_cache(source.cache)
        for request in (1, 2):
            with pytest.raises(MemoryError):
                owner.contiguous(memory=ALLOCATED)
            puller.manager.pull_cache(by_request(request), target.cache)
            assert np.array_equal(target.now[:, 0], source.first[:, request - 1])


@pytest.mark.rule("C5.5-21")
def test_c5_5_21_prefix_keys_blocks_and_placeholders_stay(both: Any) -> None:
    owner, puller = both
    source = keyed(owner, by_prefix(1), PLACEHOLDER)
    blocks = owner.paged(8, 64, model_id=3, memory=ALLOCATED)
    target, to_blocks = puller.contiguous(1), puller.paged(8, 64)
    for _ in range(2):
        puller.manager.pull_cache(by_prefix(1), target.cache)
        assert np.array_equal(target.now[:, 0], source.first[:, 0])
        puller.manager.pull_cache(by_id(source, 1), target.cache)
        assert np.array_equal(target.now[:, 0], source.first[:, 1])
        puller.manager.pull_blocks(blocks_of(3), to_blocks.cache, [1], [2])
        assert np.array_equal(to_blocks.now[:, 2], blocks.first[:, 1])
    assert is_bound(owner, by_prefix(1))
    assert is_bound(owner, CacheKey(OWNER, UNSET, 3))


@pytest.mark.rule("C5.5-21")
def test_c5_5_21_keys_of_registered_caches_stay(engines: Engines, registered_path: Path) -> None:
    owner, puller = engines.two(registered_path, one_sided=False)
    source = owner.contiguous(keys=[by_request(1)])
    target = puller.contiguous(1)
    engines.link(puller, owner)
    for key in (by_request(1), by_id(source), by_request(1)):
        puller.manager.pull_cache(key, target.cache)
        assert np.array_equal(target.now[:, 0], source.first[:, 0])


@pytest.mark.rule("C5.5-24")
def test_c5_5_24_failed_pulls_use_nothing_up(both: Any) -> None:
    owner, puller = both
    source = keyed(owner, by_request(1))
    good, larger = puller.contiguous(1), puller.contiguous(1, 512)
    fewer, blocks = puller.contiguous(1, tensors=2), puller.paged(8, 64)
    pull = puller.manager
    for name, call in (
        ("pull_cache", lambda: pull.pull_cache(by_request(1), larger.cache)),
        ("pull_cache", lambda: pull.pull_cache(by_request(1), fewer.cache)),
        ("pull_cache", lambda: pull.pull_cache(by_id(source), larger.cache)),
        ("pull_blocks", lambda: pull.pull_blocks(by_request(1), blocks.cache, [], [*range(5)])),
    ):
        with refused_by_engine(name, S.LLM_PARAM_INVALID, OWNER):
            call()
        assert is_bound(owner, by_request(1))
    puller.manager.pull_cache(by_request(1), good.cache)
    assert np.array_equal(good.now[:, 0], source.first[:, 0])


@pytest.mark.rule("C5.5-24")
def test_c5_5_24_nor_does_one_that_fails_while_it_reads(both: Any) -> None:
    owner, puller = both
    source = keyed(owner, by_request(1), tensors=1)
    good = puller.contiguous(1, tensors=1)
    # Nothing is ever mapped at so low an address.
    unmapped = puller.manager.register_cache(CacheDesc(1, [1, 256], DataType.DT_INT8), [0x1000])
    with refused_by_engine("pull_cache", S.LLM_FAILED, OWNER):
        puller.manager.pull_cache(by_request(1), unmapped)
    # Released at once, not with the link: the next pull does not wait for it.
    puller.manager.pull_cache(by_request(1), good.cache)
    assert np.array_equal(good.now[:, 0], source.first[:, 0])
    assert not is_bound(owner, by_request(1))


# ---- with layer ranges: what is not yet pulled is kept for each key


def ranged(
    puller: EngineHere, key: Any, target: Held, *layers: int, tensors_per_layer: int = 2
) -> None:
    """Pull each of these layers to the same place by itself."""
    for layer in layers:
        puller.manager.pull_cache(
            key,
            target.cache,
            src_layer_range=range(layer, layer + 1),
            dst_layer_range=range(layer, layer + 1),
            tensor_num_per_layer=tensors_per_layer,
        )


@pytest.mark.rule("C5.5-26")
def test_c5_5_26_the_key_goes_with_its_last_layer(both: Any) -> None:
    owner, puller = both
    source = keyed(owner, by_request(1), tensors=6)
    target = puller.contiguous(1, tensors=6)
    ranged(puller, by_request(1), target, 1, 0, 1, 1)
    assert is_bound(owner, by_request(1))
    # By id it is the same key.
    ranged(puller, by_id(source), target, 2)
    assert np.array_equal(target.now[:, 0], source.first[:, 0])
    assert not is_bound(owner, by_request(1))
    with refused_by_engine("pull_cache", NOT_EXIST):
        ranged(puller, by_request(1), target, 0)


@pytest.mark.rule("C5.5-26", "C5.4-8")
def test_c5_5_26_layers_of_different_sizes_add_up_by_tensors(both: Any) -> None:
    owner, puller = both
    keyed(owner, by_request(1), tensors=5)
    target = puller.contiguous(1, tensors=4)
    one = puller.contiguous(1, tensors=1)
    ranged(puller, by_request(1), target, 0, 1)
    # Tensor 4 belongs to no whole layer of two.
    assert is_bound(owner, by_request(1))
    puller.manager.pull_cache(
        by_request(1), one.cache, src_layer_range=range(4, 5), tensor_num_per_layer=1
    )
    assert not is_bound(owner, by_request(1))


@pytest.mark.rule("C5.5-26")
def test_c5_5_26_a_failed_ranged_pull_counts_for_nothing(both: Any) -> None:
    owner, puller = both
    keyed(owner, by_request(1), tensors=4)
    target, larger = puller.contiguous(1), puller.contiguous(1, 512)
    ranged(puller, by_request(1), target, 0)
    with refused_by_engine("pull_cache", S.LLM_PARAM_INVALID, 512):
        ranged(puller, by_request(1), larger, 1)
    assert is_bound(owner, by_request(1))
    ranged(puller, by_request(1), target, 1)
    assert not is_bound(owner, by_request(1))


@pytest.mark.rule("C5.5-27")
def test_c5_5_27_a_pull_without_range_takes_all_at_once(both: Any) -> None:
    owner, puller = both
    keyed(owner, by_request(1), by_request(2))
    target = puller.contiguous(1)
    ranged(puller, by_request(1), target, 0)
    puller.manager.pull_cache(by_request(1), target.cache)
    assert not is_bound(owner, by_request(1))
    # An empty range, and a destination range that takes all there is, are no source range.
    puller.manager.pull_cache(by_request(2), target.cache, src_layer_range=range(0))
    assert not is_bound(owner, by_request(2))
    keyed(owner, by_request(3), tensors=2)
    puller.manager.pull_cache(by_request(3), target.cache, dst_layer_range=range(1, 2))
    assert not is_bound(owner, by_request(3))


@pytest.mark.rule("C5.5-25", "C5.5-28", "C10-9")
def test_c5_5_28_each_key_of_a_cache_has_its_own_rest(both: Any) -> None:
    owner, puller = both
    source = keyed(owner, by_request(1), by_request(2))
    target = puller.contiguous(1)
    ranged(puller, by_request(1), target, 0, 1)
    assert not is_bound(owner, by_request(1))
    # The vendor's engine takes the second key with its first layer.
    ranged(puller, by_request(2), target, 0)
    assert is_bound(owner, by_request(2))
    ranged(puller, by_request(2), target, 1)
    assert np.array_equal(target.now[:, 0], source.first[:, 1])
    assert not is_bound(owner, by_request(2))
    # Nor do the layers of two keys add up.
    keyed(owner, by_request(3), by_request(4))
    ranged(puller, by_request(3), target, 0)
    ranged(puller, by_request(4), target, 1)
    assert is_bound(owner, by_request(3))
    assert is_bound(owner, by_request(4))


@pytest.mark.rule("C5.5-26", "C10-9")
def test_c5_5_26_a_later_key_of_the_same_name_starts_anew(both: Any) -> None:
    owner, puller = both
    target = puller.contiguous(1)
    keyed(owner, by_request(1))
    ranged(puller, by_request(1), target, 0)
    owner.manager.remove_cache_key(by_request(1))
    keyed(owner, by_request(1))
    ranged(puller, by_request(1), target, 1)
    assert is_bound(owner, by_request(1))
    ranged(puller, by_request(1), target, 0)
    assert not is_bound(owner, by_request(1))


# ---- many at one time


@pytest.mark.rule("C5.5-22", "C5.5-23")
def test_c5_5_22_of_many_pulls_of_one_key_one_gets_it(engines: Engines, path: Path) -> None:
    owner = engines.open(OWNER, path, one_sided=False)
    pullers = [engines.open(10 + n, path, one_sided=False) for n in range(4)]
    targets = [[puller.contiguous(1) for _ in range(2)] for puller in pullers]
    for puller in pullers:
        engines.link(puller, owner)

    def pull(puller: EngineHere, target: Held, key: CacheKey) -> LLMStatusCode:
        try:
            puller.manager.pull_cache(key, target.cache)
        except LLMException as error:
            return error.status_code
        return S.LLM_SUCCESS

    with ThreadPoolExecutor(8) as threads:
        for number in range(30):
            key = by_request(number)
            source = keyed(owner, key)
            calls = [
                threads.submit(pull, puller, target, key)
                for puller, own in zip(pullers, targets)
                for target in own
            ]
            answers = [call.result(30) for call in calls]
            assert sorted(answers) == [S.LLM_SUCCESS, *[NOT_EXIST] * 7]
            winner = [target for own in targets for target in own][answers.index(S.LLM_SUCCESS)]
            assert np.array_equal(winner.now[:, 0], source.first[:, 0])
            owner.manager.deallocate_cache(source.cache)
