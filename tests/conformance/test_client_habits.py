# SPDX-License-Identifier: Apache-2.0
"""What clients in the field depend on (contract 9 and 9.1), as far as no other chapter says it."""

from __future__ import annotations

import threading

import pytest

from llm_datadist import (
    BlocksCacheKey,
    CacheDesc,
    DataType,
    LLMDataDist,
    LLMStatusCode,
    RegisterMemStatus,
)
from llm_datadist.testing import eventually
from tests.conformance.engines import EngineHere, Engines, Held, tensors_of
from tests.conformance.paths import Path

LAST_ID = 2**64 - 1


@pytest.mark.rule("C9-41")
@pytest.mark.parametrize("paged", [False, True])
def test_c9_41_addresses_are_ints_of_memory_of_this_process(engines: Engines, paged: bool) -> None:
    engine = engines.open(1, host_pool=1 << 20)
    desc = CacheDesc(3, [4, 100], DataType.DT_INT8)
    manager = engine.manager
    cache = manager.allocate_blocks_cache(desc) if paged else manager.allocate_cache(desc)
    assert [type(addr) for addr in cache.tensor_addrs] == [int] * 3
    tensors = tensors_of(cache, engine.device_id)
    for number, tensor in enumerate(tensors):
        tensor[:] = number + 1
    for number, tensor in enumerate(tensors):
        assert (tensor[:] == number + 1).all()


@pytest.mark.rule("C9-42")
@pytest.mark.parametrize("address", [1, 4097, 2**47 - 8192])
def test_c9_42_registering_does_not_touch_the_memory(engines: Engines, address: int) -> None:
    engine = engines.open(1)
    desc = CacheDesc(2, [4, 16], DataType.DT_INT8)
    cache = engine.manager.register_cache(desc, [address] * 2)
    assert cache.tensor_addrs == [address] * 2
    engine.manager.unregister_cache(cache.cache_id)


def pull(puller: EngineHere, cluster_id: int, target: Held) -> None:
    puller.manager.pull_blocks(BlocksCacheKey(cluster_id, 0), target.cache, [3, 0], [1, 2])


@pytest.mark.rule("C9.1-3")
def test_c9_1_3_the_largest_cluster_ids(engines: Engines, path: Path) -> None:
    owner, puller = engines.open(LAST_ID, path), engines.open(2**63, path)
    source, target = owner.paged(model_id=0), puller.paged()
    engines.link(puller, owner)
    assert [link.peer_cluster_id for link in puller.datadist.links()] == [LAST_ID]
    assert [link.peer_cluster_id for link in owner.datadist.links()] == [2**63]
    pull(puller, LAST_ID, target)
    assert (target.now[:, [1, 2]] == source.first[:, [3, 0]]).all()


@pytest.mark.rule("C9.1-7")
@pytest.mark.parametrize("model_id", [None, 0])
def test_c9_1_7_a_decoder_registers_with_a_key_or_without(
    engines: Engines, registered_path: Path, model_id: int | None
) -> None:
    owner, decoder = engines.two(registered_path)
    source, target = owner.paged(model_id=0), decoder.paged(model_id=model_id)
    engines.link(decoder, owner)
    pull(decoder, owner.datadist.cluster_id, target)
    assert (target.now[:, [1, 2]] == source.first[:, [3, 0]]).all()


class Size(tuple):
    """As torch.Size is one."""

    __slots__ = ()


class Shape(list):
    """A list with more to it."""


@pytest.mark.rule("C9.1-9")
@pytest.mark.parametrize("kind", [tuple, list, Size, Shape])
def test_c9_1_9_any_list_or_tuple_is_a_shape(engines: Engines, kind: type) -> None:
    engine = engines.open(1)
    shape = kind((4, 2, 8))
    desc = CacheDesc(2, shape, DataType.DT_FLOAT16)
    assert desc.shape is shape
    assert engine.manager.allocate_blocks_cache(desc).cache_id == 1
    assert engine.manager.register_cache(desc, engine.addresses(desc)).cache_id == 2


@pytest.mark.rule("C9.1-15", "C9.1-16")
def test_c9_1_15_link_in_a_worker_thread_while_the_other_side_links(engines: Engines) -> None:
    members = [engines.open(number).datadist for number in (1, 2)]
    barrier = threading.Barrier(2, timeout=30)
    comm_ids: dict[LLMDataDist, int] = {}

    def link(datadist: LLMDataDist) -> None:
        barrier.wait()
        comm_ids[datadist] = datadist.link("both", {1: 0, 2: 1}, "{}")

    worker = threading.Thread(target=link, args=(members[0],))
    worker.start()
    link(members[1])
    worker.join(30)
    assert not set(comm_ids.values()) & {int(code) for code in LLMStatusCode}
    assert all(0 < comm_id < 1000 for comm_id in comm_ids.values())
    for datadist, comm_id in comm_ids.items():
        eventually(
            lambda d=datadist, c=comm_id: d.query_register_mem_status(c) is RegisterMemStatus.OK,
            "the communicator is ready",
        )
