# SPDX-License-Identifier: Apache-2.0
"""One-sided mode: the order of what a pull checks, and how it differs from request mode: contract
5.6.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode, Placement
from llm_datadist.introspection import MemoryKind
from tests.conformance.engines import (
    DEVICE,
    HOST,
    OWNER,
    PULLER,
    EngineHere,
    Engines,
    blocks_of,
    by_id,
    by_prefix,
    by_request,
)
from tests.conformance.paths import Path
from tests.conformance.refusals import refused_by_engine

S = LLMStatusCode
PI, NOT_EXIST = S.LLM_PARAM_INVALID, S.LLM_KV_CACHE_NOT_EXIST
ALLOCATED, REGISTERED = MemoryKind.ALLOCATED, MemoryKind.REGISTERED
NOT_ACCESSIBLE = "the peer is not remote accessible: it is registered with remote_accessible=True"


@pytest.fixture
def both(engines: Engines, path: Path) -> tuple[EngineHere, EngineHere]:
    """Not linked yet: registered memory comes first."""
    return engines.two(path)


@pytest.mark.rule("C5.6-1")
def test_c5_6_1_order(engines: Engines, registered_path: Path) -> None:
    owner, puller = engines.two(registered_path)
    owner.paged(8, 64, model_id=0)
    owner.paged(8, 64, model_id=1, remote_accessible=False)
    hidden = {
        tensors: puller.paged(8, 64, tensors=tensors, remote_accessible=False) for tensors in (4, 2)
    }
    fewer = puller.paged(8, 64, tensors=2)
    # Lists and indices of the own side come before the peer's table is even read.
    pull, unknown, secret = puller.manager.pull_blocks, blocks_of(99), blocks_of(1)
    engines.link(puller, owner)
    for src, dst, text in (([0, 1], [0], "src_blocks has 2"), ([0], [8], "dst_blocks[0] is 8")):
        with refused_by_engine("pull_blocks", PI, text):
            pull(unknown, hidden[2].cache, src, dst)
    assert puller.datadist.counters().table_reads == 0
    # Then the lookup; the own cache's flag; the peer's; the tensor count; the source's indices.
    with refused_by_engine("pull_blocks", NOT_EXIST, OWNER, 99):
        pull(unknown, hidden[2].cache, [8], [0])
    with refused_by_engine("pull_blocks", PI, "this engine is not remote accessible"):
        pull(secret, hidden[2].cache, [8], [0])
    with refused_by_engine(
        "pull_blocks",
        PI,
        NOT_ACCESSIBLE,
    ):
        pull(secret, fewer.cache, [8], [0])
    with refused_by_engine("pull_blocks", PI, 4, 2, "tensors"):
        pull(blocks_of(), fewer.cache, [8], [0])
    assert np.array_equal(fewer.now, fewer.first)


@pytest.mark.rule("C5.6-2", "C10-10")
def test_c5_6_2_no_key_is_consumed_and_the_owner_notices_nothing(
    engines: Engines, both: Any
) -> None:
    owner, puller = both
    source = owner.contiguous(4, 256, [by_request(1), by_request(2)], memory=ALLOCATED)
    target, blocks = puller.contiguous(1), puller.paged(8, 64)
    engines.link(puller, owner)
    for _ in range(2):
        puller.manager.pull_cache(by_id(source, 1), target.cache)
        assert np.array_equal(target.now[:, 0], source.first[:, 1])
        puller.manager.pull_blocks(by_request(1), blocks.cache, [], [6])
        assert np.array_equal(blocks.now[:, 6], source.first[:, 0, :64])
    for request in (1, 2):
        with refused_by_engine("allocate_cache", PI, "bound"):
            owner.contiguous(1, 8, [by_request(request)], memory=ALLOCATED)
        # The owner itself lets the key go.
        owner.manager.remove_cache_key(by_request(request))
        owner.contiguous(1, 8, [by_request(request)], memory=ALLOCATED)
    (link,) = owner.datadist.links()
    assert (link.pulls, owner.datadist.counters().bytes_out) == (0, 0)


@pytest.mark.rule("C5.6-3")
@pytest.mark.parametrize("pools", [1 << 16, 0], ids=["pools", "no pools"])
@pytest.mark.parametrize("target_at", [DEVICE, HOST], ids=["to device", "to host"])
@pytest.mark.parametrize("source_at", [DEVICE, HOST], ids=["from device", "from host"])
def test_c5_6_3_placement_is_not_looked_at(
    engines: Engines,
    registered_path: Path,
    source_at: Placement,
    target_at: Placement,
    pools: int,
) -> None:
    owner, puller = engines.two(registered_path, pool=pools)
    there = {"placement": source_at, "remote_accessible": True}
    here = {"placement": target_at, "remote_accessible": True}
    entries, blocks = owner.contiguous(2, 256, **there), owner.paged(8, 64, 0, **there)
    to_entries, to_blocks = puller.contiguous(1, 256, **here), puller.paged(8, 64, **here)
    engines.link(puller, owner)
    puller.manager.pull_cache(by_id(entries, 1), to_entries.cache)
    assert np.array_equal(to_entries.now[:, 0], entries.first[:, 1])
    puller.manager.pull_blocks(by_id(entries, 1), to_blocks.cache, [], [3, 0])
    puller.manager.pull_blocks(blocks_of(), to_blocks.cache, [6], [5])
    assert np.array_equal(to_blocks.now[:, 3], entries.first[:, 1, :64])
    assert np.array_equal(to_blocks.now[:, 0], entries.first[:, 1, 64:128])
    assert np.array_equal(to_blocks.now[:, 5], blocks.first[:, 6])


@pytest.mark.rule("C5.6-4", "C10-12")
def test_c5_6_4_entries_go_by_the_remote_stride_and_are_counted(
    engines: Engines, both: Any
) -> None:
    owner, puller = both
    source, target = owner.contiguous(3, 200), puller.contiguous(2, 64)
    blocks = puller.paged(4, 64)
    engines.link(puller, owner)
    for entry in range(3):
        puller.manager.pull_cache(by_id(source, entry), target.cache, 1)
        assert np.array_equal(target.now[:, 1], source.first[:, entry, :64])
    for entry in (3, 4, 2**32 - 1):
        with refused_by_engine("pull_cache", PI, OWNER, entry, 3):
            puller.manager.pull_cache(by_id(source, entry), target.cache)
        with refused_by_engine("pull_blocks", PI, OWNER, entry, 3):
            puller.manager.pull_blocks(by_id(source, entry), blocks.cache, [], [0])
    assert np.array_equal(target.now[:, 0], target.first[:, 0])


@pytest.mark.rule("C5.6-5", "C10-12")
def test_c5_6_5_the_batch_position_counts_for_blocks_too(engines: Engines, both: Any) -> None:
    owner, puller = both
    source = owner.contiguous(3, 200, [by_request(n) for n in (4, 5, 6)])
    target = puller.paged(8, 64)
    engines.link(puller, owner)
    for place, key, entry in (
        (0, by_request(5), 1),
        (3, by_id(source, 2), 2),
        (5, by_request(4), 0),
    ):
        puller.manager.pull_blocks(key, target.cache, [], [place, 7])
        assert np.array_equal(target.now[:, place], source.first[:, entry, :64])
        assert np.array_equal(target.now[:, 7], source.first[:, entry, 64:128])


@pytest.mark.rule("C5.6-6", "C5.6-7", "C10-36")
def test_c5_6_6_blocks_are_no_entry_and_prefixes_name_nothing(engines: Engines, both: Any) -> None:
    owner, puller = both
    blocks = owner.paged(8, 64, model_id=3)
    owner.contiguous(4, 64, [by_prefix(9, 3)])
    target, entry = puller.paged(8, 64), puller.contiguous(1, 64)
    engines.link(puller, owner)
    with refused_by_engine("pull_blocks", PI, OWNER, "src_blocks"):
        puller.manager.pull_blocks(by_id(blocks), target.cache, [], [0, 1])
    with refused_by_engine("pull_cache", PI, OWNER, "blocks"):
        puller.manager.pull_cache(by_id(blocks), entry.cache)
    # The vendor would look for the blocks of model 3.
    with refused_by_engine("pull_blocks", NOT_EXIST, OWNER, "prefix_id 9", 3):
        puller.manager.pull_blocks(by_prefix(9, 3), target.cache, [], [0])
    assert np.array_equal(target.now, target.first)
    assert np.array_equal(entry.now, entry.first)


@pytest.mark.rule("C5.6-9", "C4.3-11")
def test_c5_6_9_host_caches_with_the_default_flag(engines: Engines, registered_path: Path) -> None:
    owner, puller = engines.two(registered_path, host_pool=1 << 20)
    entries = owner.contiguous(2, 64, placement=HOST)
    owner.paged(8, 64, model_id=0, placement=HOST)
    pooled = owner.paged(8, 64, model_id=1, placement=HOST, memory=ALLOCATED)
    entry, target = puller.contiguous(1, 64), puller.paged(8, 64)
    here = puller.contiguous(1, 64, placement=HOST)
    there = owner.contiguous(2, 64)
    engines.link(puller, owner)
    with refused_by_engine(
        "pull_cache",
        PI,
        OWNER,
        NOT_ACCESSIBLE,
    ):
        puller.manager.pull_cache(by_id(entries), entry.cache)
    with refused_by_engine(
        "pull_blocks",
        PI,
        OWNER,
        NOT_ACCESSIBLE,
    ):
        puller.manager.pull_blocks(blocks_of(), target.cache, [0], [0])
    with refused_by_engine("pull_cache", PI, "this engine is not remote accessible"):
        puller.manager.pull_cache(by_id(there), here.cache)
    # Allocated ones always are.
    puller.manager.pull_blocks(blocks_of(1), target.cache, [2], [3])
    assert np.array_equal(target.now[:, 3], pooled.first[:, 2])


@pytest.mark.rule("C5.6-1", "C5.2-9")
def test_the_listening_end_pulls_in_both_modes(engines: Engines, path: Path) -> None:
    for one_sided in (False, True):
        owner, puller = engines.two(path, one_sided)
        source, target = puller.paged(model_id=4), owner.paged()
        engines.link(puller, owner)
        owner.manager.pull_blocks(BlocksCacheKey(PULLER, 4), target.cache, [3, 4], [5, 1])
        assert np.array_equal(target.now[:, [5, 1]], source.first[:, [3, 4]])
        puller.datadist.finalize()
        owner.datadist.finalize()
