# SPDX-License-Identifier: Apache-2.0
"""swap_blocks and remap_registered_memory: contract 6.4 and 6.5, decision 26."""

from __future__ import annotations

from typing import Any

import pytest

from llm_datadist import Cache, CacheDesc, DataType, LLMStatusCode, MemInfo, Memtype, Placement
from llm_datadist.testing import Geometry, PeerCache, check, memory, moved
from tests.conformance.orders import check_order
from tests.conformance.refusals import refused, refused_by_engine
from tests.conformance.stage import OWNER, PULLER, linked
from tests.conformance.together import NearPeer, NearStage

S = LLMStatusCode
PI = S.LLM_PARAM_INVALID
BLOCKS = Geometry(num_tensors=3, num_blocks=16, block_bytes=256)
MORE_BLOCKS = Geometry(num_tensors=3, num_blocks=24, block_bytes=256)
POOL = 8 << 20


@pytest.fixture
def peer(together: NearStage) -> NearPeer:
    return together.engine(OWNER, listen=None, device_pool=POOL, host_pool=POOL)


def host_cache(peer: NearPeer, kind: str, geometry: Geometry, stamp: int) -> PeerCache:
    """A cache in host memory that was allocated, registered, or is a CPU cache."""
    if kind == "allocated":
        return peer.allocate("host", geometry, stamp, placement=Placement.HOST)
    cache = peer.register("host", geometry, stamp, placement=Placement.HOST)
    if kind == "cpu":
        held = peer.actor.caches["host"]
        peer.manager.unregister_cache(cache.cache_id)
        held.cache = Cache.create_cpu_cache(held.cache.cache_desc, held.tensor_addrs)
    return cache


# ---- swap_blocks ----


@pytest.mark.rule("C6.4-8", "C6.4-11", "C6.4-13")
@pytest.mark.parametrize("host_kind", ["allocated", "registered", "cpu"])
@pytest.mark.parametrize("device_kind", ["allocated", "registered"])
@pytest.mark.parametrize("to_device", [True, False])
def test_c6_4_8_all_kinds_of_caches_in_both_directions(
    peer: NearPeer, host_kind: str, device_kind: str, to_device: bool
) -> None:
    host = host_cache(peer, host_kind, BLOCKS, 1)
    make = peer.allocate if device_kind == "allocated" else peer.register
    device = make("device", MORE_BLOCKS, 2)
    src, dst = (host, device) if to_device else (device, host)
    pairs = {3: 7, 4: 8, 0: 15, 15: 0, 9: 9}
    peer.manager.swap_blocks(peer.cache(src.name), peer.cache(dst.name), pairs)
    check(dst, moved(dst.filled(), src.filled(), pairs.keys(), pairs.values()))
    # Nothing is exchanged.
    check(src, src.filled())


@pytest.mark.rule("C6.4-14")
def test_c6_4_14_an_empty_dict(peer: NearPeer) -> None:
    host = host_cache(peer, "cpu", BLOCKS, 1)
    device = peer.allocate("device", BLOCKS, 2)
    peer.manager.swap_blocks(peer.cache("host"), peer.cache("device"), {})
    check(host, host.filled())
    check(device, device.filled())


@pytest.mark.rule("C6.4-1", "C6.4-2", "C6.4-3", "C6.4-5", "C6.4-6", "C6.4-7")
def test_c6_4_2_order(peer: NearPeer) -> None:
    host = host_cache(peer, "allocated", BLOCKS, 1)
    device = peer.allocate("device", BLOCKS, 2)
    peer.contiguous("entries", BLOCKS, 3)
    peer.allocate("larger", Geometry(3, 16, 512), 4)
    peer.allocate("fewer", Geometry(2, 16, 256), 5)
    good = {
        "src_cache": peer.cache("host"),
        "dst_cache": peer.cache("device"),
        "src_to_dst": {0: 1},
    }
    steps = [
        ({"src_cache": None}, TypeError, "src_cache"),
        ({"dst_cache": None}, TypeError, "dst_cache"),
        ({"src_cache": peer.cache("entries")}, PI, "src_cache has no blocks"),
        ({"dst_cache": peer.cache("entries")}, PI, "dst_cache has no blocks"),
        ({"src_to_dst": [(0, 1)]}, TypeError, "src_to_dst"),
        ({"src_to_dst": {"0": 1}}, TypeError, "src_to_dst"),
        ({"dst_cache": peer.cache("larger")}, PI, "different sizes"),
        ({"dst_cache": peer.cache("fewer")}, PI, "numbers of tensors"),
        ({"src_to_dst": {16: 16}}, PI, "source block 16"),
        ({"src_to_dst": {0: 16}}, PI, "destination block 16"),
        ({"src_cache": peer.cache("device")}, PI, "Placement.DEVICE"),
    ]
    check_order(peer.manager.swap_blocks, good, steps)
    check(host, host.filled())
    check(device, device.filled())


@pytest.mark.rule("C6.4-6")
@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        ({-1: 0}, "source block -1"),
        ({0: -1}, "destination block -1"),
        ({16: 0}, "source block 16"),
        ({0: 24}, "destination block 24"),
        ({0: 2**64}, f"destination block {2**64}"),
    ],
)
def test_c6_4_6_every_index_is_in_range_on_its_own_side(peer: NearPeer, pairs, text: str) -> None:
    host_cache(peer, "cpu", BLOCKS, 1)
    device = peer.allocate("device", MORE_BLOCKS, 2)
    with refused(PI, text):
        peer.manager.swap_blocks(peer.cache("host"), peer.cache("device"), {1: 1, **pairs})
    check(device, device.filled())
    peer.manager.swap_blocks(peer.cache("host"), peer.cache("device"), {15: 23})


@pytest.mark.rule("C6.4-7")
@pytest.mark.parametrize("placement", list(Placement))
def test_c6_4_7_two_caches_of_one_placement(peer: NearPeer, placement: Placement) -> None:
    for name in ("one", "other"):
        peer.allocate(name, BLOCKS, 1, placement=placement)
    with refused(PI, str(placement)):
        peer.manager.swap_blocks(peer.cache("one"), peer.cache("other"), {0: 1})


@pytest.mark.rule("C6.4-4", "C10-6")
def test_c10_6_an_invalid_description_is_an_invalid_parameter(peer: NearPeer) -> None:
    peer.allocate("device", BLOCKS, 1)
    desc = CacheDesc(1, [4, 0], DataType.DT_INT8, Placement.HOST)
    cpu = Cache.create_cpu_cache(desc, [4096])
    with refused(PI):
        peer.manager.swap_blocks(cpu, peer.cache("device"), {0: 1})


@pytest.mark.rule("C6.4-9")
def test_c6_4_9_a_deallocated_cache_has_no_addresses_left(peer: NearPeer) -> None:
    host = host_cache(peer, "cpu", BLOCKS, 1)
    peer.allocate("device", BLOCKS, 2)
    peer.manager.deallocate_blocks_cache(peer.cache("device"))
    for src, dst in (("host", "device"), ("device", "host")):
        with refused_by_engine("swap_blocks", PI, "no addresses"):
            peer.manager.swap_blocks(peer.cache(src), peer.cache(dst), {0: 1})
    check(host, host.filled())


def test_addresses_where_nothing_is_mapped(peer: NearPeer) -> None:
    device = peer.allocate("device", BLOCKS, 2)
    nowhere = memory.make("nowhere", BLOCKS.tensor_bytes).address
    cpu = Cache.create_cpu_cache(BLOCKS.desc(Placement.HOST), [nowhere] * 3)
    with refused_by_engine("swap_blocks", S.LLM_FAILED):
        peer.manager.swap_blocks(cpu, peer.cache("device"), {0: 1})
    with refused_by_engine("swap_blocks", S.LLM_FAILED):
        peer.manager.swap_blocks(peer.cache("device"), cpu, {0: 1})
    check(device, device.filled())


# ---- remap_registered_memory ----

DEVICE = Memtype.MEM_TYPE_DEVICE
GOOD = MemInfo(DEVICE, 4096, 1)


@pytest.fixture
def both(together: NearStage) -> tuple[NearPeer, NearPeer]:
    owner, puller = together.engine(OWNER), together.engine(PULLER, listen=None)
    linked(puller, owner)
    return owner, puller


@pytest.mark.rule("C6.5-1")
@pytest.mark.parametrize("infos", [None, "text", (GOOD,), 5, {GOOD: 1}], ids=str)
def test_c6_5_1_what_is_no_mem_info_nor_a_list_is_an_invalid_parameter(both, infos: Any) -> None:
    with refused(PI, "mem_infos"):
        both[0].manager.remap_registered_memory(infos)


@pytest.mark.rule("C6.5-2")
@pytest.mark.parametrize(
    "bad",
    [
        5,
        None,
        MemInfo(Memtype.MEM_TYPE_HOST, 4096, 1),
        MemInfo(DEVICE, 0, 1),
        MemInfo(DEVICE, 4096, 0),
        MemInfo(DEVICE, 4096, -1),
    ],
    ids=str,
)
def test_c6_5_2_each_element_is_checked(both, bad: Any) -> None:
    with refused(PI):
        both[0].manager.remap_registered_memory([GOOD, bad])


@pytest.mark.rule("C6.5-3")
def test_c6_5_3_an_empty_list_comes_before_the_link(together: NearStage) -> None:
    peer = together.engine(OWNER)
    with refused_by_engine("remap_registered_memory", PI):
        peer.manager.remap_registered_memory([])


@pytest.mark.rule("C6.5-4", "C10-26")
def test_c6_5_4_it_needs_a_live_link_and_succeeds_without_effect(together: NearStage) -> None:
    owner, puller = together.engine(OWNER), together.engine(PULLER, listen=None)
    kept = owner.register("kv", BLOCKS, 1, 0)
    where = MemInfo(DEVICE, kept.tensor_addrs[0], BLOCKS.tensor_bytes)
    for peer in (owner, puller):
        with refused_by_engine("remap_registered_memory", S.LLM_NOT_YET_LINK):
            peer.manager.remap_registered_memory(GOOD)
    linked(puller, owner)
    for peer in (owner, puller):
        peer.manager.remap_registered_memory(GOOD)
        peer.manager.remap_registered_memory([where, GOOD])
    check(kept, kept.filled())
    assert puller.unlink(owner) == S.LLM_SUCCESS
    with refused_by_engine("remap_registered_memory", S.LLM_NOT_YET_LINK):
        puller.manager.remap_registered_memory(where)
