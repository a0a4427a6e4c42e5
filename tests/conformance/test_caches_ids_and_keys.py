# SPDX-License-Identifier: Apache-2.0
"""Ids of caches, and what allocating checks in which order: contract 4.1 and 4.2."""

from __future__ import annotations

import ctypes

import pytest

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    CacheKey,
    DataType,
    LLMDataDistWarning,
    LLMStatusCode,
)
from llm_datadist._native import _ffi, facade
from llm_datadist.introspection import MemoryKind
from tests.conformance.engines import (
    HOST,
    OWNER,
    PLACEHOLDER,
    POOL,
    PULLER,
    UNSET,
    EngineHere,
    Engines,
    blocks_of,
    by_id,
    by_prefix,
    by_request,
)
from tests.conformance.refusals import refused, refused_by_engine

S = LLMStatusCode
INT8 = DataType.DT_INT8
ENTRIES = 4
DESC = CacheDesc(2, [ENTRIES, 64], INT8)
# More than the pool has.
HUGE = CacheDesc(2, [ENTRIES, POOL // ENTRIES], INT8)


@pytest.fixture
def owner(engines: Engines) -> EngineHere:
    return engines.open(OWNER)


# ---- 4.1


@pytest.mark.rule("C4.1-1", "C4.1-4")
def test_c4_1_1_one_counter_from_1_at_every_init(engines: Engines) -> None:
    for _ in range(2):
        engine = engines.open(OWNER)
        ids = [engine.contiguous().id]
        ids += [engine.paged(memory=MemoryKind.REGISTERED).id, engine.paged(model_id=1).id]
        ids += [engine.contiguous(memory=MemoryKind.REGISTERED).id]
        assert ids == [1, 2, 3, 4]
        engine.datadist.finalize()


@pytest.mark.rule("C4.1-2", "C4.2-4", "C4.3-2")
def test_c4_1_2_a_failed_call_takes_an_id_once_it_got_past_the_shape(owner: EngineHere) -> None:
    manager = owner.manager
    assert owner.contiguous(keys=[by_request(1)]).id == 1
    # These do not get past the shape.
    for dims in ([1] * 32, [64] * 40):
        with refused(S.LLM_PARAM_INVALID, "dims"):
            manager.allocate_cache(CacheDesc(1, dims, INT8))
    with refused(S.LLM_PARAM_INVALID, "host_mem_pool_cfg"):
        manager.allocate_cache(CacheDesc(1, [1], INT8, HOST))
    with refused(S.LLM_PARAM_INVALID):
        manager.register_blocks_cache(DESC, [4096])
    assert owner.contiguous().id == 2
    # These do, and take 3, 4, 5, 6 and 7.
    with refused(S.LLM_PARAM_INVALID):
        manager.allocate_cache(CacheDesc(1, [4, -1], INT8))
    with refused(S.LLM_OUT_OF_MEMORY):
        manager.allocate_cache(HUGE)
    with refused(S.LLM_PARAM_INVALID):
        manager.allocate_cache(DESC, [by_request(1)])
    with refused(S.LLM_PARAM_INVALID):
        manager.register_cache(CacheDesc(2, [4, 0], INT8), [4096, 8192])
    with refused(S.LLM_PARAM_INVALID):
        manager.register_blocks_cache(DESC, [4096, 0])
    assert owner.contiguous().id == 8


@pytest.mark.rule("C4.1-3")
def test_c4_1_3_ids_are_never_reused(owner: EngineHere) -> None:
    ids = set()
    for _ in range(20):
        held = owner.contiguous()
        ids.add(held.id)
        owner.manager.deallocate_cache(held.cache)
        held = owner.paged(memory=MemoryKind.REGISTERED)
        ids.add(held.id)
        owner.manager.unregister_cache(held.id)
    assert ids == set(range(1, 41))


@pytest.mark.rule("C4.1-5")
def test_c4_1_5_a_cpu_cache_has_id_minus_1_which_names_no_cache(owner: EngineHere) -> None:
    desc = CacheDesc(1, [4, 64], INT8, HOST)
    memory = ctypes.create_string_buffer(desc.size)
    cache = Cache.create_cpu_cache(desc, [ctypes.addressof(memory)])
    assert cache.cache_id == -1
    with refused_by_engine("copy_blocks", S.LLM_KV_CACHE_NOT_EXIST, -1):
        owner.manager.copy_blocks(cache, {0: [1]})


# ---- 4.2, rows 1 to 8: each with an error of the next row present, too


def native_allocate(engine: EngineHere, num_dims: int, placement: int = 1) -> int:
    """lldd_cache_allocate itself, past the checks of Python."""
    ffi = _ffi.ffi
    desc = ffi.new("lldd_cache_desc *")
    dims = ffi.new("int64_t[]", [1] * max(num_dims, 1))
    desc.struct_size = ffi.sizeof("lldd_cache_desc")
    desc.num_tensors = 1
    desc.data_type, desc.placement = INT8.value, placement
    desc.dims, desc.num_dims = dims, num_dims
    handle = engine.manager._engine._handle
    out = ffi.new("int64_t *"), ffi.new("uint64_t[1]")
    return int(facade.current().cache_allocate(handle, desc, ffi.NULL, 0, *out))


@pytest.mark.rule("C4.2-1")
def test_c4_2_1_without_any_pool(engines: Engines) -> None:
    owner = engines.open(OWNER, pool=0)
    with refused(S.LLM_PARAM_INVALID, "mem_pool_cfg"):
        owner.manager.allocate_cache(CacheDesc(2, [1] * 32, INT8))
    assert native_allocate(owner, num_dims=32) == S.LLM_FEATURE_NOT_ENABLED


@pytest.mark.rule("C4.2-2")
def test_c4_2_2_a_pool_of_the_placement(engines: Engines) -> None:
    owner = engines.open(OWNER, pool=0, host_pool=POOL)
    with refused(S.LLM_PARAM_INVALID, "mem_pool_cfg"):
        owner.manager.allocate_blocks_cache(CacheDesc(2, [4, 1 << 40], INT8))
    assert native_allocate(owner, num_dims=1) == S.LLM_PARAM_INVALID
    assert native_allocate(owner, num_dims=1, placement=0) == S.LLM_SUCCESS


@pytest.mark.rule("C4.2-3", "C4.3-1")
def test_c4_2_3_dims_are_1_to_31(owner: EngineHere) -> None:
    manager = owner.manager
    manager.allocate_cache(CacheDesc(1, [1] * 31, INT8))
    most = CacheDesc(1, [1] * 31, INT8)
    manager.register_cache(most, owner.addresses(most))
    many = CacheDesc(1, [1 << 40] * 32, INT8)
    with refused_by_engine("allocate_cache", S.LLM_PARAM_INVALID, 32, 31):
        manager.allocate_cache(many, [by_request(1)] * 2)
    with refused_by_engine("register_blocks_cache", S.LLM_PARAM_INVALID, 32, 31):
        manager.register_blocks_cache(many, [4096, 4096])
    assert native_allocate(owner, num_dims=0) == S.LLM_PARAM_INVALID


@pytest.mark.rule("C4.2-5", "C4.3-3")
@pytest.mark.parametrize("shape", [[4, 0], [4, -1], [1 << 40, 1 << 40], [1 << 62, 2, 2]])
def test_c4_2_5_tensor_bytes_before_the_pool(owner: EngineHere, shape: list[int]) -> None:
    for data_type in (INT8, DataType.DT_STRING):
        desc = CacheDesc(1, shape, data_type)
        with refused_by_engine("allocate_cache", S.LLM_PARAM_INVALID):
            owner.manager.allocate_cache(desc)
        with refused_by_engine("register_cache", S.LLM_PARAM_INVALID):
            owner.manager.register_cache(desc, [4096])


@pytest.mark.rule("C4.2-6")
def test_c4_2_6_out_of_memory_comes_before_the_keys(owner: EngineHere) -> None:
    owner.contiguous(keys=[by_request(1)])
    owner.paged(model_id=1)
    for keys in (
        [by_request(1)],
        [by_request(2), by_request(2)],
        [by_request(n) for n in range(10, 11 + ENTRIES)],
        [CacheKey(OWNER, UNSET, 1)],
    ):
        with refused_by_engine("allocate_cache", S.LLM_OUT_OF_MEMORY):
            owner.manager.allocate_cache(HUGE, keys)
    with refused_by_engine("allocate_blocks_cache", S.LLM_OUT_OF_MEMORY):
        owner.manager.allocate_blocks_cache(HUGE, blocks_of(1))


@pytest.mark.rule("C4.2-6")
def test_c4_2_6_a_failed_allocation_returns_all_pages(engines: Engines) -> None:
    owner = engines.open(OWNER, pool=256 << 10)
    for shape in ([1, 64 << 10], [1, 1]):
        with refused_by_engine("allocate_cache", S.LLM_OUT_OF_MEMORY, 5):
            owner.manager.allocate_cache(CacheDesc(5, shape, INT8))
    with refused_by_engine("allocate_cache", S.LLM_PARAM_INVALID):
        owner.contiguous(1, 64 << 10, [by_request(1)] * 2)
    assert owner.contiguous(1, 64 << 10, tensors=4).now.shape == (4, 1, 64 << 10)


@pytest.mark.rule("C4.2-7")
def test_c4_2_7_no_more_keys_than_entries_before_the_keys_themselves(owner: EngineHere) -> None:
    owner.contiguous(ENTRIES, keys=[by_request(n) for n in range(ENTRIES)])
    with refused_by_engine("allocate_cache", S.LLM_PARAM_INVALID, 5, ENTRIES, "keys"):
        owner.contiguous(ENTRIES, keys=[by_request(1)] * 5)
    with refused_by_engine("allocate_cache", S.LLM_PARAM_INVALID, 2, 1, "keys"):
        owner.contiguous(1, keys=[by_request(8), PLACEHOLDER])


@pytest.mark.rule("C4.2-8", "C4.2-19", "C10-8")
def test_c4_2_8_bound_or_repeated_keys(owner: EngineHere) -> None:
    owner.contiguous(keys=[by_request(1), by_prefix(1)])
    owner.paged(model_id=1)
    for keys, texts in (
        ([by_request(2), by_request(1)], ("keys[1]", "req_id 1", "bound")),
        ([by_prefix(2), by_prefix(1)], ("keys[1]", "prefix_id 1", "bound")),
        ([by_request(2), by_request(3), by_request(2)], ("keys[2]", "req_id 2", "repeats")),
        ([by_prefix(2), by_request(2), by_prefix(2)], ("keys[2]", "prefix_id 2", "repeats")),
        # In order: what the first key has wrong is said, not what the second has.
        ([by_request(1), by_prefix(1)], ("keys[0]", "req_id 1")),
        ([by_request(2), by_request(2), by_request(1)], ("keys[1]", "repeats")),
    ):
        with refused_by_engine("allocate_cache", S.LLM_PARAM_INVALID, *texts):
            owner.contiguous(keys=keys)
    with refused_by_engine("allocate_blocks_cache", S.LLM_PARAM_INVALID, "model_id 1", "bound"):
        owner.paged(model_id=1)
    # Nothing of the refused calls was bound.
    owner.contiguous(keys=[by_request(2), by_prefix(2), by_request(3)])


# ---- identity and position of keys


@pytest.fixture
def both(engines: Engines) -> tuple[EngineHere, EngineHere]:
    owner, puller = engines.two(one_sided=False)
    engines.link(puller, owner)
    return owner, puller


def entry_pulled(puller: EngineHere, key: CacheKey, source: object) -> int:
    """Which entry of the source a key leads to."""
    target = puller.contiguous(1)
    puller.manager.pull_cache(key, target.cache)
    (entry,) = (
        index
        for index in range(source.first.shape[1])
        if (target.now[:, 0] == source.first[:, index]).all()
    )
    return entry


@pytest.mark.rule("C4.2-10", "C4.2-11", "C4.2-14")
def test_c4_2_10_names_are_request_or_prefix_with_the_model(both) -> None:
    owner, puller = both
    # Three names of number 7, each an entry; a key with both ids is a prefix key.
    keys = [by_request(7), CacheKey(OWNER, 7, 1), CacheKey(OWNER, 3, 0, 8), by_prefix(7, 2)]
    source = owner.contiguous(keys=keys)
    owner.contiguous(keys=[by_request(3)])
    assert entry_pulled(puller, by_prefix(8), source) == 2
    assert entry_pulled(puller, by_prefix(7, 2), source) == 3
    assert entry_pulled(puller, by_request(7, 1), source) == 1
    assert entry_pulled(puller, by_request(7), source) == 0
    for key in (by_prefix(7), by_request(8), by_request(7, 2), by_prefix(8, 1)):
        with refused_by_engine("pull_cache", S.LLM_KV_CACHE_NOT_EXIST, key.model_id):
            puller.manager.pull_cache(key, puller.contiguous().cache)


@pytest.mark.rule("C4.2-12")
def test_c4_2_12_the_cluster_id_of_a_bound_key_is_ignored(both) -> None:
    owner, puller = both
    source = owner.contiguous(keys=[CacheKey(PULLER, 1), CacheKey(2**64 - 1, 2)])
    with refused_by_engine("allocate_cache", S.LLM_PARAM_INVALID, "bound"):
        owner.contiguous(keys=[CacheKey(OWNER, 2)])
    assert entry_pulled(puller, by_request(2), source) == 1
    owner.manager.allocate_blocks_cache(DESC, BlocksCacheKey(4711, 3))
    with refused_by_engine("allocate_blocks_cache", S.LLM_PARAM_INVALID, "bound"):
        owner.paged(model_id=3)


@pytest.mark.rule("C4.2-13")
def test_c4_2_13_a_blocks_key_is_the_request_key_without_a_request(both) -> None:
    owner, puller = both
    source, target = owner.paged(model_id=3), puller.paged()
    puller.manager.pull_blocks(blocks_of(3), target.cache, [1], [2])
    assert (target.now[:, 2] == source.first[:, 1]).all()
    # The same name, as CacheKey(_, 2^64-1, 3), unbinds it.
    owner.manager.remove_cache_key(CacheKey(OWNER, UNSET, 3))
    with refused_by_engine("pull_blocks", S.LLM_KV_CACHE_NOT_EXIST, 3):
        puller.manager.pull_blocks(blocks_of(3), target.cache, [1], [2])


@pytest.mark.rule("C4.2-15", "C4.2-16")
def test_c4_2_15_a_placeholder_takes_a_position_and_binds_nothing(both) -> None:
    owner, puller = both
    source = owner.contiguous(keys=[by_request(1), PLACEHOLDER, by_request(3)])
    assert entry_pulled(puller, by_request(3), source) == 2
    # It is no name: a blocks cache may have it. The entry, and the one left out, go by id.
    owner.paged(model_id=0)
    for entry in (1, 3):
        assert entry_pulled(puller, by_id(source, entry), source) == entry


@pytest.mark.rule("C4.2-17", "C10-7")
def test_c4_2_17_many_placeholders_are_accepted_with_a_warning(both) -> None:
    owner, puller = both
    with pytest.warns(LLMDataDistWarning, match="placeholder"):
        source = owner.contiguous(keys=[PLACEHOLDER, PLACEHOLDER, by_request(5)])
    assert entry_pulled(puller, by_request(5), source) == 2
    # One a model is what the vendor accepts, too: no warning, which would be an error here.
    owner.contiguous(keys=[PLACEHOLDER, CacheKey(OWNER, UNSET, 1)])


@pytest.mark.rule("C4.2-18")
def test_c4_2_18_a_placeholder_fails_while_its_model_has_a_blocks_cache(owner) -> None:
    blocks = owner.paged(model_id=2)
    keys = [by_request(1), CacheKey(OWNER, UNSET, 2)]
    with refused_by_engine("allocate_cache", S.LLM_PARAM_INVALID, "keys[1]", "placeholder", 2):
        owner.contiguous(keys=keys)
    owner.contiguous(keys=[PLACEHOLDER])
    owner.manager.deallocate_blocks_cache(blocks.cache)
    owner.contiguous(keys=keys)
