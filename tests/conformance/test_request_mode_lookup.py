# SPDX-License-Identifier: Apache-2.0
"""Request mode: how the owner finds what is asked for, and which placements are served: contract
5.5, its steps 1 to 9.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_datadist import LLMStatusCode, Placement
from llm_datadist.introspection import MemoryKind
from tests.conformance.engines import (
    DEVICE,
    HOST,
    OWNER,
    POOL,
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
NOT_ENABLED = S.LLM_FEATURE_NOT_ENABLED
ALLOCATED, REGISTERED = MemoryKind.ALLOCATED, MemoryKind.REGISTERED


@pytest.fixture
def both(engines: Engines, path: Path) -> tuple[EngineHere, EngineHere]:
    """Not linked yet: registered memory comes first."""
    return engines.two(path, one_sided=False)


# ---- lookup


@pytest.mark.rule("C5.5-1")
def test_c5_5_1_blocks_by_their_model(engines: Engines, both: Any) -> None:
    owner, puller = both
    sources = {model: owner.paged(model_id=model) for model in (0, 3, 2**64 - 1)}
    target = puller.paged()
    engines.link(puller, owner)
    for model, source in sources.items():
        puller.manager.pull_blocks(blocks_of(model), target.cache, [1], [2])
        assert np.array_equal(target.now[:, 2], source.first[:, 1])
    # Nothing there comes before what else is wrong: another tensor count, a bad index.
    fewer = puller.paged(tensors=2)
    with refused_by_engine("pull_blocks", NOT_EXIST, OWNER, 4, 0, 3):
        puller.manager.pull_blocks(blocks_of(4), fewer.cache, [99], [0])


@pytest.mark.rule("C5.5-2")
def test_c5_5_2_by_id_and_entry(engines: Engines, both: Any) -> None:
    owner, puller = both
    source = owner.contiguous(4, keys=[by_request(1)])
    other = owner.paged(4, model_id=0)
    target, fewer = puller.contiguous(1), puller.contiguous(1, tensors=2)
    engines.link(puller, owner)
    for entry in (3, 1):
        puller.manager.pull_cache(by_id(source, entry), target.cache)
        assert np.array_equal(target.now[:, 0], source.first[:, entry])
    for key in (by_id(source, 4), by_id(source, 2**32 - 1), by_id(4711), by_id(other, 1)):
        with refused_by_engine("pull_cache", NOT_EXIST, OWNER, key.cache_id):
            puller.manager.pull_cache(key, fewer.cache)


@pytest.mark.rule("C5.5-3")
def test_c5_5_3_by_request_or_prefix(engines: Engines, both: Any) -> None:
    owner, puller = both
    source = owner.contiguous(4, keys=[by_request(5), by_prefix(5), by_request(5, 1)])
    target, fewer = puller.contiguous(1), puller.contiguous(1, tensors=2)
    engines.link(puller, owner)
    for key, entry in ((by_prefix(5), 1), (by_request(5, 1), 2), (by_request(5), 0)):
        puller.manager.pull_cache(key, target.cache)
        assert np.array_equal(target.now[:, 0], source.first[:, entry])
    for key in (by_request(6), by_prefix(6), by_prefix(5, 1), by_request(5, 2)):
        with refused_by_engine("pull_cache", NOT_EXIST, OWNER):
            puller.manager.pull_cache(key, fewer.cache)


@pytest.mark.rule("C5.5-11")
def test_c5_5_11_an_entry_with_a_prefix_key_is_not_found_by_id(engines: Engines, both: Any) -> None:
    owner, puller = both
    source = owner.contiguous(2, keys=[by_prefix(5), by_request(6)])
    target = puller.contiguous(1)
    engines.link(puller, owner)
    with refused_by_engine("pull_cache", NOT_EXIST, source.id):
        puller.manager.pull_cache(by_id(source, 0), target.cache)
    puller.manager.pull_cache(by_prefix(5), target.cache)
    assert np.array_equal(target.now[:, 0], source.first[:, 0])


@pytest.mark.rule("C5.5-12", "C10-15", "C10-50")
@pytest.mark.parametrize("cache_id", [0, -1, -(2**63)])
def test_c5_5_12_an_id_that_is_none_finds_nothing(
    engines: Engines, both: Any, cache_id: int
) -> None:
    owner, puller = both
    owner.paged(model_id=0)
    owner.contiguous(keys=[by_request(0)])
    entry, blocks = puller.contiguous(1), puller.paged()
    engines.link(puller, owner)
    with refused_by_engine("pull_cache", NOT_EXIST, cache_id):
        puller.manager.pull_cache(by_id(cache_id), entry.cache)
    with refused_by_engine("pull_blocks", NOT_EXIST, cache_id):
        puller.manager.pull_blocks(by_id(cache_id), blocks.cache, [], [0])
    puller.manager.pull_cache(by_request(0), entry.cache)


@pytest.mark.rule("C5.5-5")
def test_c5_5_5_blocks_are_pulled_by_a_blocks_key_alone(engines: Engines, both: Any) -> None:
    owner, puller = both
    source = owner.paged(8, 64, model_id=0)
    target, entry = puller.paged(8, 64), puller.contiguous(1, 64)
    engines.link(puller, owner)
    with refused_by_engine("pull_blocks", PI, OWNER, "blocks"):
        puller.manager.pull_blocks(by_id(source), target.cache, [], [0])
    with refused_by_engine("pull_cache", PI, OWNER, "blocks"):
        puller.manager.pull_cache(by_id(source), entry.cache)
    assert np.array_equal(target.now, target.first)
    assert np.array_equal(entry.now, entry.first)


def test_c10_request_mode_reaches_every_cache_whatever_its_flag(
    engines: Engines, registered_path: Path
) -> None:
    owner, puller = engines.two(registered_path, one_sided=False)
    source = owner.paged(model_id=1, remote_accessible=False)
    target = puller.paged(remote_accessible=False)
    engines.link(puller, owner)
    puller.manager.pull_blocks(blocks_of(1), target.cache, [4], [5])
    assert np.array_equal(target.now[:, 5], source.first[:, 4])


# ---- directions

SERVED = {
    # (from, to, operation): what is answered when both ends have a device pool
    (DEVICE, DEVICE, "C2C"): None,
    (DEVICE, DEVICE, "C2B"): None,
    (DEVICE, DEVICE, "B2B"): None,
    (DEVICE, HOST, "C2C"): None,
    (DEVICE, HOST, "C2B"): None,
    (DEVICE, HOST, "B2B"): None,
    (HOST, DEVICE, "C2C"): None,
    (HOST, DEVICE, "C2B"): PI,
    (HOST, DEVICE, "B2B"): None,
    (HOST, HOST, "C2C"): NOT_ENABLED,
    (HOST, HOST, "C2B"): NOT_ENABLED,
    (HOST, HOST, "B2B"): NOT_ENABLED,
}
POOLS = [(True, True), (True, False), (False, True), (False, False)]


def answer(
    source: Placement, target: Placement, operation: str, owner_pool: bool, puller_pool: bool
) -> LLMStatusCode | None:
    """The direction table, with the pools that it needs."""
    if target is HOST and not puller_pool:
        return PI
    if source is HOST and not owner_pool:
        return PI
    return SERVED[source, target, operation]


@pytest.mark.rule("C5.5-9", "C5.5-13", "C5.5-14", "C5.5-15", "C5.5-16", "C5.5-17", "C5.5-18")
@pytest.mark.rule("C10-27")
@pytest.mark.parametrize("pools", POOLS, ids=["both pools", "owner's", "puller's", "no pool"])
@pytest.mark.parametrize("target_at", [DEVICE, HOST], ids=["to device", "to host"])
@pytest.mark.parametrize("source_at", [DEVICE, HOST], ids=["from device", "from host"])
def test_c5_5_9_directions(
    engines: Engines,
    registered_path: Path,
    source_at: Placement,
    target_at: Placement,
    pools: tuple[bool, bool],
) -> None:
    # The smallest pools there are: nothing is staged through them here.
    sizes = [1 << 16 if pool else 0 for pool in pools]
    owner = engines.open(OWNER, registered_path, one_sided=False, pool=sizes[0])
    puller = engines.open(5, registered_path, one_sided=False, pool=sizes[1])
    entries = owner.contiguous(2, 256, placement=source_at)
    blocks = owner.paged(8, 64, model_id=0, placement=source_at)
    to_entries = puller.contiguous(1, 256, placement=target_at)
    to_blocks = puller.paged(8, 64, placement=target_at)
    engines.link(puller, owner)
    pull = puller.manager
    calls = {
        "C2C": lambda: pull.pull_cache(by_id(entries, 1), to_entries.cache),
        "C2B": lambda: pull.pull_blocks(by_id(entries, 1), to_blocks.cache, [], [3, 0]),
        "B2B": lambda: pull.pull_blocks(blocks_of(), to_blocks.cache, [6, 1], [5, 4]),
    }
    expected_entries, expected_blocks = to_entries.first.copy(), to_blocks.first.copy()
    for operation, call in calls.items():
        status = answer(source_at, target_at, operation, *pools)
        if status is None:
            call()
        else:
            name = "pull_cache" if operation == "C2C" else "pull_blocks"
            with refused_by_engine(name, status, OWNER):
                call()
            continue
        if operation == "C2C":
            expected_entries[:, 0] = entries.first[:, 1]
        elif operation == "C2B":
            expected_blocks[:, [3, 0]] = entries.first[:, 1, :128].reshape(-1, 2, 64)
        else:
            expected_blocks[:, [5, 4]] = blocks.first[:, [6, 1]]
    assert np.array_equal(to_entries.now, expected_entries)
    assert np.array_equal(to_blocks.now, expected_blocks)


@pytest.mark.rule("C5.5-9", "C5.5-4", "C5.5-6", "C5.5-7", "C5.5-8", "C5.5-2")
def test_c5_5_9_directions_come_after_everything_else(
    engines: Engines, registered_path: Path
) -> None:
    # Host to host, which is not served, and something of an earlier step.
    owner, puller = engines.two(registered_path, one_sided=False)
    entries = owner.contiguous(2, 256, placement=HOST)
    owner.paged(8, 64, model_id=0, placement=HOST)
    to_entries = puller.contiguous(1, 512, placement=HOST)
    to_blocks = puller.paged(8, 64, placement=HOST)
    fewer = puller.paged(8, 64, tensors=2, placement=HOST)
    engines.link(puller, owner)
    pull = puller.manager
    with refused_by_engine("pull_cache", NOT_EXIST):
        pull.pull_cache(by_id(entries, 2), to_entries.cache)
    with refused_by_engine("pull_cache", PI, 512, 256):
        pull.pull_cache(by_id(entries), to_entries.cache)
    with refused_by_engine("pull_blocks", PI, 4, 2, "tensors"):
        pull.pull_blocks(blocks_of(), fewer.cache, [0], [0])
    with refused_by_engine("pull_blocks", PI, 8, "src_blocks"):
        pull.pull_blocks(blocks_of(), to_blocks.cache, [8], [0])
    layers = {"src_layer_range": range(2, 3), "dst_layer_range": range(1)}
    with refused_by_engine("pull_blocks", PI, "src_layer_range"):
        pull.pull_blocks(blocks_of(), to_blocks.cache, [0], [0], **layers)
    with refused_by_engine("pull_blocks", NOT_ENABLED, OWNER):
        pull.pull_blocks(blocks_of(), to_blocks.cache, [0], [0])


@pytest.mark.rule("C5.5-14", "C5.5-16")
def test_c5_5_14_host_caches_of_a_pool(engines: Engines, path: Path) -> None:
    owner, puller = engines.two(path, one_sided=False, pool=POOL, host_pool=POOL)
    from_host = owner.contiguous(2, 256, placement=HOST, memory=ALLOCATED)
    from_device = owner.contiguous(2, 256, memory=ALLOCATED)
    to_host = puller.contiguous(2, 256, placement=HOST, memory=ALLOCATED)
    to_device = puller.contiguous(2, 256, memory=ALLOCATED)
    engines.link(puller, owner)
    for source, target in ((from_host, to_device), (from_device, to_host)):
        puller.manager.pull_cache(by_id(source, 1), target.cache, 1)
        assert np.array_equal(target.now[:, 1], source.first[:, 1])
        assert np.array_equal(target.now[:, 0], target.first[:, 0])


@pytest.mark.rule("C3.3-8", "C10-33", "C5.5-3")
def test_c3_3_8_caches_made_after_the_link(engines: Engines, registered_path: Path) -> None:
    # In this mode the owner looks each key up anew; only the memory can be out of reach.
    owner, puller = engines.two(registered_path, one_sided=False)
    target = puller.contiguous(1)
    engines.link(puller, owner)
    with refused_by_engine("pull_cache", NOT_EXIST):
        puller.manager.pull_cache(by_request(1), target.cache)
    source = owner.contiguous(keys=[by_request(1)], memory=ALLOCATED)
    owner.contiguous(keys=[by_request(2)], memory=REGISTERED)
    late = puller.contiguous(1)
    puller.manager.pull_cache(by_request(1), late.cache)
    assert np.array_equal(late.now[:, 0], source.first[:, 0])
    with refused_by_engine("pull_cache", S.LLM_FAILED, OWNER, "registered after the link was made"):
        puller.manager.pull_cache(by_request(2), target.cache)
    assert np.array_equal(target.now, target.first)
