# SPDX-License-Identifier: Apache-2.0
"""What was made or freed after a link: the snapshot of the peer's table, contract 4.5, decisions 11
and 33.
"""

from __future__ import annotations

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.testing import check, moved
from tests.conformance.paths import Path
from tests.conformance.refusals import refused_by_engine
from tests.conformance.stage import OWNER, PULLER, SMALL, Pair, Stage, allow_warnings, linked

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)


@pytest.mark.sanitize
def test_registered_after_the_link_it_works_as_the_local_side(pair: Pair) -> None:
    late = pair.path.cache(pair.puller, "late", SMALL, 3)
    pair.puller.pull("late", KEY, [3, 1], [4, 9])
    check(late, moved(late.filled(), pair.source.filled(), [3, 1], [4, 9]))
    pair.puller.push("late", KEY, [9], [0])
    check(pair.source, moved(pair.source.filled(), late.read(), [9], [0]))


def linked_pair(stage: Stage, path: Path):
    owner = stage.engine(OWNER, path)
    puller = stage.engine(PULLER, path, listen=None)
    target = path.cache(puller, "kv", SMALL, 2)
    return owner, puller, target


@pytest.mark.sanitize
def test_registered_after_the_link_and_found_as_the_remote_side(stage: Stage, path: Path) -> None:
    owner, puller, target = linked_pair(stage, path)
    path.cache(owner, "early", SMALL, 5, 1)
    linked(puller, owner)
    late = path.cache(owner, "late", SMALL, 1, 0)
    # The table is read at the first transfer, so the cache is found.
    if path.of_pools:
        # Pool memory is exempt: it is registered as one region at init.
        puller.pull("kv", KEY, [3], [4])
        check(target, moved(target.filled(), late.filled(), [3], [4]))
    else:
        for call, name in ((puller.pull, "pull_blocks"), (puller.push, "push_blocks")):
            with refused_by_engine(name, S.LLM_FAILED, "registered after the link was made"):
                call("kv", KEY, [3], [4])
        check(target, target.filled())
        check(late, late.filled())
    # A new link knows it.
    assert puller.unlink(owner) == S.LLM_SUCCESS
    linked(puller, owner)
    puller.pull("kv", KEY, [3], [4])
    check(target, moved(target.filled(), late.filled(), [3], [4]))


@pytest.mark.sanitize
def test_made_after_the_first_transfer_it_does_not_exist_for_this_link(
    stage: Stage, path: Path
) -> None:
    owner, puller, _ = linked_pair(stage, path)
    path.cache(owner, "early", SMALL, 5, 1)
    linked(puller, owner)
    puller.pull("kv", BlocksCacheKey(OWNER, 1), [0], [0])
    path.cache(owner, "late", SMALL, 1, 0)
    for call, name in ((puller.pull, "pull_blocks"), (puller.push, "push_blocks")):
        with refused_by_engine(name, S.LLM_KV_CACHE_NOT_EXIST, OWNER, "model_id"):
            call("kv", KEY, [0], [0])
    assert puller.call("counters").table_reads == 1
    assert puller.unlink(owner) == S.LLM_SUCCESS
    linked(puller, owner)
    puller.pull("kv", KEY, [0], [0])
    assert puller.call("counters").table_reads == 2


def test_a_failed_lookup_reads_the_table_as_well(stage: Stage, path: Path) -> None:
    owner, puller, _ = linked_pair(stage, path)
    path.cache(owner, "early", SMALL, 5, 1)
    linked(puller, owner)
    with refused_by_engine("pull_blocks", S.LLM_KV_CACHE_NOT_EXIST):
        puller.pull("kv", KEY, [0], [0])
    path.cache(owner, "late", SMALL, 1, 0)
    with refused_by_engine("pull_blocks", S.LLM_KV_CACHE_NOT_EXIST):
        puller.pull("kv", KEY, [0], [0])


def test_a_key_taken_over_after_the_first_transfer_still_means_the_old_cache(
    stage: Stage, registered_path: Path
) -> None:
    owner, puller, target = linked_pair(stage, registered_path)
    owner.call(allow_warnings)
    old = owner.register("old", SMALL, 5, 0)
    linked(puller, owner)
    puller.pull("kv", KEY, [0], [0])
    owner.register("new", SMALL, 6, 0)
    puller.pull("kv", KEY, [1], [1])
    check(target, moved(target.filled(), old.filled(), [0, 1], [0, 1]))


@pytest.mark.sanitize
def test_freed_pool_memory_stays_readable_over_the_link(stage: Stage) -> None:
    for transport in ("mapped", "tcp"):
        environment = {"LLM_DATADIST_MOCK_TRANSPORT": transport}
        owner = stage.engine(OWNER, device_pool=1 << 20, environment=environment)
        puller = stage.engine(PULLER, listen=None, device_pool=1 << 20, environment=environment)
        source = owner.allocate("kv", SMALL, 1, 0)
        target = puller.allocate("kv", SMALL, 2)
        linked(puller, owner)
        puller.pull("kv", KEY, [0], [0])
        owner.call("deallocate", "kv")
        # Freed caches are still found, and their old addresses used.
        puller.pull("kv", KEY, [1], [1])
        check(target, moved(target.filled(), source.filled(), [0, 1], [0, 1]))
        assert puller.unlink(owner) == S.LLM_SUCCESS
        linked(puller, owner)
        with refused_by_engine("pull_blocks", S.LLM_KV_CACHE_NOT_EXIST, OWNER):
            puller.pull("kv", KEY, [1], [1])


def test_an_unregistered_cache_is_withdrawn_from_links_that_know_it(
    stage: Stage, registered_path: Path
) -> None:
    pair = stage.pair(registered_path)
    pair.puller.pull("kv", KEY, [0], [0])
    pair.owner.call("unregister", "kv")
    before = pair.target.read()
    for call, name in ((pair.puller.pull, "pull_blocks"), (pair.puller.push, "push_blocks")):
        with refused_by_engine(name, S.LLM_FAILED, OWNER):
            call("kv", KEY, [1], [1])
    check(pair.target, before)
    check(pair.source, pair.source.filled())


def test_the_same_region_in_two_caches_is_counted(stage: Stage, registered_path: Path) -> None:
    owner, puller, target = linked_pair(stage, registered_path)
    first = owner.register("first", SMALL, 1, 0)
    owner.call(register_again, "first", 1)
    linked(puller, owner)
    puller.pull("kv", BlocksCacheKey(OWNER, 1), [0], [0])
    owner.call("unregister", "first")
    puller.pull("kv", BlocksCacheKey(OWNER, 1), [1], [1])
    check(target, moved(target.filled(), first.filled(), [0, 1], [0, 1]))


def register_again(actor, name: str, model_id: int) -> None:
    held = actor.caches[name]
    actor.datadist.cache_manager.register_blocks_cache(
        held.geometry.desc(), held.tensor_addrs, BlocksCacheKey(OWNER, model_id)
    )
