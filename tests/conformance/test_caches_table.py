# SPDX-License-Identifier: Apache-2.0
"""The copy of the peer's cache table that one-sided mode works with: contract 4.5."""

from __future__ import annotations

import numpy as np
import pytest

from llm_datadist import LLMStatusCode
from llm_datadist.introspection import MemoryKind
from tests.conformance.engines import (
    OWNER,
    PULLER,
    EngineHere,
    Engines,
    Held,
    blocks_of,
    by_id,
    by_prefix,
    by_request,
    cluster_of,
)
from tests.conformance.paths import Path
from tests.conformance.refusals import refused_by_engine

S = LLMStatusCode
ALLOCATED = MemoryKind.ALLOCATED


def pull(puller: EngineHere, target: Held, model_id: int) -> None:
    puller.manager.pull_blocks(blocks_of(model_id), target.cache, [1], [2])


def reads(puller: EngineHere) -> int:
    return puller.datadist.counters().table_reads


@pytest.mark.rule("C4.5-1", "C4.5-4", "C4.3-10", "C10-11")
def test_c4_5_1_the_table_has_what_was_there_at_the_first_transfer(
    engines: Engines, path: Path
) -> None:
    owner, puller = engines.two(path)
    gone = owner.paged(model_id=1, memory=ALLOCATED)
    kept = owner.paged(model_id=2)
    target = puller.paged()
    engines.link(puller, owner)
    assert reads(puller) == 0, "linking does not read it"
    # Every change up to the first transfer counts: a release, an allocation after the link.
    owner.manager.deallocate_blocks_cache(gone.cache)
    late = owner.paged(model_id=3, memory=ALLOCATED)
    with refused_by_engine("pull_blocks", S.LLM_KV_CACHE_NOT_EXIST, 1):
        pull(puller, target, 1)
    for model_id, source in ((2, kept), (3, late)):
        pull(puller, target, model_id)
        assert np.array_equal(target.now[:, 2], source.first[:, 1])
    assert reads(puller) == 1, "a pull that fails has read it, too"


@pytest.mark.rule("C4.5-4")
def test_c4_5_4_a_push_reads_it_too_and_each_end_its_own(engines: Engines, path: Path) -> None:
    owner, puller = engines.two(path)
    kept = owner.paged(model_id=1)
    source = puller.paged(model_id=1)
    engines.link(puller, owner)
    puller.manager.push_blocks(blocks_of(1), source.cache, [1], [2])
    assert np.array_equal(kept.now[:, 2], source.first[:, 1])
    pull(puller, source, 1)
    assert (reads(puller), reads(owner)) == (1, 0)
    assert [link.pulls for link in owner.datadist.links()] == [0]


@pytest.mark.rule("C4.5-4", "C4.5-5", "C4.5-10", "C3.3-8")
def test_c4_5_5_later_caches_and_keys_are_invisible_until_the_link_is_made_anew(
    engines: Engines, path: Path
) -> None:
    owner, puller = engines.two(path)
    owner.paged(model_id=1)
    target, entry = puller.paged(), puller.contiguous(1)
    engines.link(puller, owner)
    pull(puller, target, 1)
    late = owner.paged(model_id=2, memory=ALLOCATED)
    late_entries = owner.contiguous(memory=ALLOCATED)
    for _ in range(2):
        with refused_by_engine("pull_blocks", S.LLM_KV_CACHE_NOT_EXIST, OWNER, 2, "model_id"):
            pull(puller, target, 2)
        with refused_by_engine("pull_cache", S.LLM_KV_CACHE_NOT_EXIST, late_entries.id):
            puller.manager.pull_cache(by_id(late_entries), entry.cache)
    assert reads(puller) == 1
    engines.unlink(puller, owner)
    engines.link(puller, owner)
    pull(puller, target, 2)
    assert np.array_equal(target.now[:, 2], late.first[:, 1])
    assert reads(puller) == 2


@pytest.mark.rule("C4.5-6")
def test_c4_5_6_freed_pool_memory_is_still_found_at_its_old_addresses(
    engines: Engines, path: Path
) -> None:
    owner, puller = engines.two(path)
    freed = owner.paged(model_id=1, memory=ALLOCATED)
    entries = owner.contiguous(keys=[by_request(1)], memory=ALLOCATED)
    target, entry = puller.paged(), puller.contiguous(1)
    engines.link(puller, owner)
    pull(puller, target, 1)
    owner.manager.deallocate_blocks_cache(freed.cache)
    owner.manager.deallocate_cache(entries.cache)
    owner.manager.remove_cache_key(by_request(1))
    freed.tensors[0][3] = 77  # the addresses, not the content of then
    puller.manager.pull_blocks(blocks_of(1), target.cache, [3], [4])
    assert (target.now[0, 4] == 77).all()
    puller.manager.pull_cache(by_id(entries, 2), entry.cache)
    assert np.array_equal(entry.now[:, 0], entries.first[:, 2])


@pytest.mark.rule("C4.5-7")
def test_c4_5_7_an_unwritten_table_is_read_again(engines: Engines, path: Path) -> None:
    owner, puller = engines.two(path)
    target = puller.paged()
    engines.link(puller, owner)
    for done in (1, 2):
        with refused_by_engine("pull_blocks", S.LLM_KV_CACHE_NOT_EXIST, "no blocks caches"):
            pull(puller, target, 1)
        assert reads(puller) == done
    source = owner.paged(model_id=1, memory=ALLOCATED)
    pull(puller, target, 1)
    assert np.array_equal(target.now[:, 2], source.first[:, 1])
    pull(puller, target, 1)
    assert reads(puller) == 3


@pytest.mark.rule("C4.5-2", "C4.5-3", "C10-12", "C10-36")
def test_c4_5_2_batch_positions_count_and_prefix_keys_are_not_there(
    engines: Engines, path: Path
) -> None:
    owner, puller = engines.two(path)
    source = owner.contiguous(4, 128, [by_request(1), by_request(2), by_prefix(3)])
    target = puller.paged(4, 64)
    engines.link(puller, owner)
    puller.manager.pull_blocks(by_request(2), target.cache, [], [3, 0])
    assert np.array_equal(target.now[:, 3], source.first[:, 1, :64])
    assert np.array_equal(target.now[:, 0], source.first[:, 1, 64:])
    with refused_by_engine("pull_blocks", S.LLM_KV_CACHE_NOT_EXIST, 3, "prefix_id"):
        puller.manager.pull_blocks(by_prefix(3), target.cache, [], [1])


@pytest.mark.rule("C4.5-8", "C4.5-9", "C4.5-10", "C10-15", "C10-50")
@pytest.mark.parametrize("cache_id", [0, -1, -(2**63), 9])
def test_c4_5_8_an_id_is_positive_or_finds_nothing(
    engines: Engines, path: Path, cache_id: int
) -> None:
    owner, puller = engines.two(path)
    # What the vendor would find: the blocks cache of model 0, and the key (0, 0).
    owner.paged(model_id=0)
    source = owner.contiguous(keys=[by_request(0)])
    target, entry = puller.paged(), puller.contiguous(1)
    engines.link(puller, owner)
    with refused_by_engine("pull_cache", S.LLM_KV_CACHE_NOT_EXIST, cache_id):
        puller.manager.pull_cache(by_id(cache_id), entry.cache)
    with refused_by_engine("pull_blocks", S.LLM_KV_CACHE_NOT_EXIST, cache_id):
        puller.manager.pull_blocks(by_id(cache_id), target.cache, [], [0])
    puller.manager.pull_cache(by_id(source, 3), entry.cache)
    assert np.array_equal(entry.now[:, 0], source.first[:, 3])


@pytest.mark.rule("C4.5-11", "C10-44")
@pytest.mark.parametrize("one_sided", [True, False])
def test_c4_5_11_ends_of_different_modes_do_not_link(engines: Engines, one_sided: bool) -> None:
    owner = engines.open(OWNER, one_sided=one_sided)
    puller = engines.open(PULLER, one_sided=not one_sided)
    info = cluster_of(owner)
    answer = puller.datadist.link_clusters([info], 5000)
    assert answer == (S.LLM_PARAM_INVALID, [S.LLM_PARAM_INVALID])
    assert "one-sided" in info.link_detail
    assert "request" in info.link_detail
    assert puller.datadist.links() == owner.datadist.links() == []
