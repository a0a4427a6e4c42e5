# SPDX-License-Identifier: Apache-2.0
"""What registering checks, and who may reach the memory then: contract 4.3."""

from __future__ import annotations

import numpy as np
import pytest

from llm_datadist import (
    BlocksCacheKey,
    CacheDesc,
    DataType,
    LLMDataDistWarning,
    LLMException,
    LLMStatusCode,
    Placement,
)
from llm_datadist.introspection import MemoryKind
from tests.conformance.engines import (
    DEVICE,
    HOST,
    OWNER,
    PULLER,
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
from tests.conformance.refusals import refused, refused_by_engine

S = LLMStatusCode
REGISTERED = MemoryKind.REGISTERED
DESC = CacheDesc(2, [4, 64], DataType.DT_INT8)


@pytest.fixture
def owner(engines: Engines) -> EngineHere:
    return engines.open(OWNER)


# ---- checks in order: each with an error of a later step present, too


@pytest.mark.rule("C4.3-1")
@pytest.mark.parametrize("count", [1, 3])
def test_c4_3_1_as_many_addresses_as_tensors(owner: EngineHere, count: int) -> None:
    bad_shape = CacheDesc(2, [4, -1], DataType.DT_INT8)
    with refused_by_engine("register_blocks_cache", S.LLM_PARAM_INVALID, count, 2, "addresses"):
        owner.manager.register_blocks_cache(bad_shape, [0] * count)
    with refused(S.LLM_PARAM_INVALID, "addrs", 2, count):
        owner.manager.register_cache(bad_shape, [4096] * count)


@pytest.mark.rule("C4.3-3")
def test_c4_3_3_tensor_bytes_before_addresses(owner: EngineHere) -> None:
    with refused_by_engine("register_blocks_cache", S.LLM_PARAM_INVALID, -1):
        owner.manager.register_blocks_cache(CacheDesc(2, [4, -1], DataType.DT_INT8), [0, 0])


@pytest.mark.rule("C4.3-4")
@pytest.mark.parametrize("one_sided", [False, True])
def test_c4_3_4_a_zero_address(engines: Engines, one_sided: bool) -> None:
    engine = engines.open(OWNER, one_sided=one_sided)
    manager, addrs = engine.manager, engine.addresses(DESC)
    with refused_by_engine("register_blocks_cache", S.LLM_PARAM_INVALID, "addrs[1]"):
        manager.register_blocks_cache(DESC, [addrs[0], 0], blocks_of(1))
    with refused(S.LLM_PARAM_INVALID, "zero"):
        manager.register_cache(DESC, [addrs[0], 0], remote_accessible=False)
    # The name of a refused cache is not bound: this would warn, and a warning is an error here.
    manager.register_blocks_cache(DESC, addrs, blocks_of(1))
    if one_sided:
        # Only where it is to be remote accessible.
        manager.register_blocks_cache(DESC, [addrs[0], 0], remote_accessible=False)


@pytest.mark.rule("C4.3-5", "C4.3-16")
def test_c4_3_16_a_region_in_two_caches_stays_registered_until_the_last_is_gone(
    engines: Engines, registered_path: Path
) -> None:
    owner, puller = engines.two(registered_path)
    first = owner.paged(model_id=1)
    second = owner.held(
        owner.manager.register_blocks_cache(
            first.cache.cache_desc, list(first.cache.tensor_addrs), blocks_of(2)
        )
    )
    target = puller.paged()
    engines.link(puller, owner)
    owner.manager.unregister_cache(first.id)
    puller.manager.pull_blocks(blocks_of(2), target.cache, [3], [0])
    assert np.array_equal(target.now[:, 0], second.first[:, 3])
    owner.manager.unregister_cache(second.id)
    with refused_by_engine("pull_blocks", S.LLM_FAILED, OWNER):
        puller.manager.pull_blocks(blocks_of(2), target.cache, [3], [1])
    assert np.array_equal(target.now[:, 1], target.first[:, 1])


# ---- keys


@pytest.mark.rule("C4.3-7", "C4.3-9", "C10-8")
def test_c4_3_9_keys_are_not_checked_and_the_earliest_binding_stays(
    engines: Engines, registered_path: Path
) -> None:
    owner, puller = engines.two(registered_path, one_sided=False)
    first = owner.contiguous(2, keys=[by_request(1), by_prefix(1)])
    # Bound elsewhere, repeated, and more keys than entries.
    keys = [by_request(1), by_prefix(1), by_request(2), by_request(2), by_request(3)]
    with pytest.warns(LLMDataDistWarning, match="was not bound") as caught:
        second = owner.contiguous(3, keys=keys)
    assert len(caught) == 3
    engines.link(puller, owner)
    target = puller.contiguous(1)
    for key, source, entry in (
        (by_request(1), first, 0),
        (by_prefix(1), first, 1),
        (by_request(2), second, 2),
    ):
        puller.manager.pull_cache(key, target.cache)
        assert np.array_equal(target.now[:, 0], source.first[:, entry])
    # Key 4 names an entry that is not there.
    with refused_by_engine("pull_cache", S.LLM_PARAM_INVALID, 4, 3, "batch"):
        puller.manager.pull_cache(by_request(3), target.cache)


@pytest.mark.rule("C4.3-8", "C10-8")
def test_c4_3_8_the_newest_blocks_cache_takes_the_key_over_with_a_warning(
    engines: Engines, registered_path: Path
) -> None:
    owner, puller = engines.two(registered_path)
    old = owner.paged(model_id=3, memory=MemoryKind.ALLOCATED)
    with pytest.warns(LLMDataDistWarning, match="now names cache 2; it was bound to cache 1"):
        newer = owner.paged(model_id=3)
    with pytest.warns(LLMDataDistWarning, match="now names cache 3; it was bound to cache 2"):
        newest = owner.paged(model_id=3)
    target = puller.paged()
    engines.link(puller, owner)
    puller.manager.pull_blocks(blocks_of(3), target.cache, [5], [6])
    assert np.array_equal(target.now[:, 6], newest.first[:, 5])
    # Allocating refuses; and those that lost the name may go without taking it along.
    with refused_by_engine("allocate_blocks_cache", S.LLM_PARAM_INVALID, "bound"):
        owner.paged(model_id=3, memory=MemoryKind.ALLOCATED)
    owner.manager.deallocate_blocks_cache(old.cache)
    owner.manager.unregister_cache(newer.id)
    engines.unlink(puller, owner)
    engines.link(puller, owner)
    puller.manager.pull_blocks(blocks_of(3), target.cache, [6], [7])
    assert np.array_equal(target.now[:, 7], newest.first[:, 6])


# ---- remote_accessible


def is_reachable(puller: EngineHere, target: Held, model_id: int) -> bool:
    try:
        puller.manager.pull_blocks(blocks_of(model_id), target.cache, [0], [0])
    except LLMException as error:
        if "is not remote accessible" not in str(error):
            raise
        return False
    return True


@pytest.mark.rule("C4.3-11", "C4.3-10", "C4.3-13", "C4.3-14")
def test_c4_3_11_the_default_is_device_yes_host_no(engines: Engines, registered_path: Path) -> None:
    owner, puller = engines.two(registered_path, host_pool=1 << 20)
    third = engines.open(99, registered_path)
    # A link made before does not matter to the flag.
    engines.link(third, owner)
    model = 0
    expected = {}
    for placement in (DEVICE, HOST):
        for asked in (None, True, False):
            owner.paged(model_id=model, placement=placement, remote_accessible=asked)
            expected[model] = placement == DEVICE if asked is None else asked
            model += 1
        owner.paged(model_id=model, placement=placement, memory=MemoryKind.ALLOCATED)
        expected[model] = True
        model += 1
    target = puller.paged()
    engines.link(puller, owner)
    assert {each: is_reachable(puller, target, each) for each in expected} == expected


@pytest.mark.rule("C4.3-12")
@pytest.mark.parametrize("placement", [DEVICE, HOST])
def test_c4_3_12_nothing_is_remote_accessible_after_link(
    engines: Engines, placement: Placement
) -> None:
    owner, puller = engines.two()
    # A communicator that the other member never joins is enough, and leaving it changes nothing.
    comm_id = owner.datadist.link("alone", {OWNER: 0, PULLER: 1}, "{}")
    owner.datadist.unlink(comm_id)
    addrs = owner.addresses(DESC)
    with refused(S.LLM_PARAM_INVALID, "link"):
        owner.manager.register_blocks_cache(DESC, addrs, remote_accessible=True)
    # The type is looked at before, the addresses after.
    with pytest.raises(TypeError, match="remote_accessible"):
        owner.manager.register_cache(DESC, addrs, remote_accessible=1)
    with refused(S.LLM_PARAM_INVALID, "link"):
        owner.manager.register_cache(DESC, [], remote_accessible=True)
    owner.paged(model_id=0, placement=placement, memory=REGISTERED)
    owner.paged(model_id=1)
    target = puller.paged()
    engines.link(puller, owner)
    assert not is_reachable(puller, target, 0)
    assert is_reachable(puller, target, 1)


@pytest.mark.rule("C4.3-15", "C10-33")
@pytest.mark.parametrize("by", ["blocks", "id"])
def test_c4_3_15_memory_registered_after_the_link(
    engines: Engines, registered_path: Path, by: str
) -> None:
    owner, puller = engines.two(registered_path)
    before = owner.paged(model_id=1)
    engines.link(puller, owner)
    # As the local side it works.
    target, entry = puller.paged(), puller.contiguous(1)
    late, late_entry = owner.paged(model_id=2), owner.contiguous()
    pool = owner.paged(model_id=3, memory=MemoryKind.ALLOCATED)
    if by == "blocks":
        puller.manager.pull_blocks(blocks_of(1), target.cache, [1], [2])
        assert np.array_equal(target.now[:, 2], before.first[:, 1])
        # As the remote side it does not, though the table was read after it was registered.
        with refused_by_engine(
            "pull_blocks", S.LLM_FAILED, OWNER, "registered after the link was made"
        ):
            puller.manager.pull_blocks(blocks_of(2), target.cache, [1], [3])
        # Pool memory is exempt.
        puller.manager.pull_blocks(blocks_of(3), target.cache, [1], [4])
        assert np.array_equal(target.now[:, 4], pool.first[:, 1])
        assert np.array_equal(target.now[:, 3], target.first[:, 3])
    else:
        with refused_by_engine(
            "pull_cache", S.LLM_FAILED, OWNER, "registered after the link was made"
        ):
            puller.manager.pull_cache(by_id(late_entry), entry.cache)
        assert np.array_equal(entry.now, entry.first)
    # A link made anew has it.
    engines.unlink(puller, owner)
    engines.link(puller, owner)
    puller.manager.pull_blocks(blocks_of(2), target.cache, [1], [3])
    assert np.array_equal(target.now[:, 3], late.first[:, 1])


@pytest.mark.rule("C4.3-8")
def test_c4_3_8_the_cluster_id_of_the_key_is_ignored_here_too(owner: EngineHere) -> None:
    addrs = owner.addresses(DESC)
    owner.manager.register_blocks_cache(DESC, addrs, BlocksCacheKey(4711, 1))
    with pytest.warns(LLMDataDistWarning, match="model_id 1 now names cache 2"):
        owner.manager.register_blocks_cache(DESC, addrs, BlocksCacheKey(OWNER, 1))
    # A placeholder of a contiguous cache never takes it.
    owner.manager.register_cache(DESC, addrs, [CacheKey(OWNER, UNSET, 1)])
