# SPDX-License-Identifier: Apache-2.0
"""Copies within one engine: copy_cache and copy_blocks of contract 6.3, on every kind of memory."""

from __future__ import annotations

import mmap

import pytest

from llm_datadist import (
    Cache,
    CacheDesc,
    CacheKey,
    DataType,
    LLMStatusCode,
    Placement,
)
from llm_datadist.testing import Geometry, PeerCache, check, moved
from tests.conformance.engines import tensors_of
from tests.conformance.orders import check_order
from tests.conformance.refusals import refused, refused_by_engine
from tests.conformance.stage import OWNER
from tests.conformance.together import NearPeer, NearStage

S = LLMStatusCode
PI = S.LLM_PARAM_INVALID
ENTRIES = Geometry(num_tensors=3, num_blocks=4, block_bytes=512)
BLOCKS = Geometry(num_tensors=3, num_blocks=16, block_bytes=256)
POOL = 8 << 20

KINDS = [(placement, allocated) for placement in Placement for allocated in (True, False)]
NAMES = [f"{'allocated' if kind else 'registered'} {place.name}" for place, kind in KINDS]


@pytest.fixture
def peer(together: NearStage) -> NearPeer:
    return together.engine(OWNER, listen=None, device_pool=POOL, host_pool=POOL)


@pytest.fixture
def poor(together: NearStage) -> NearPeer:
    """An engine without any pool, in request mode."""
    return together.engine(OWNER, listen=None, one_sided=False)


# ---- copy_cache ----


@pytest.mark.rule("C6.3-8", "C6.3-7", "C6.3-9")
@pytest.mark.parametrize("dst_kind", KINDS, ids=NAMES)
@pytest.mark.parametrize("src_kind", KINDS, ids=NAMES)
def test_c6_3_8_all_kinds_and_placements(peer: NearPeer, src_kind, dst_kind) -> None:
    src = peer.contiguous("src", ENTRIES, 1, placement=src_kind[0], allocated=src_kind[1])
    dst = peer.contiguous("dst", ENTRIES, 2, placement=dst_kind[0], allocated=dst_kind[1])
    peer.manager.copy_cache(peer.cache("dst"), peer.cache("src"), 3, 1)
    check(dst, moved(dst.filled(), src.filled(), [1], [3]))
    check(src, src.filled())
    assert peer.call("counters").copies == 1


@pytest.mark.rule("C6.3-8")
def test_c6_3_8_no_pool_is_needed(poor: NearPeer) -> None:
    src = poor.contiguous("src", ENTRIES, 1, allocated=False)
    dst = poor.contiguous("dst", ENTRIES, 2, allocated=False, remote_accessible=False)
    poor.manager.copy_cache(poor.cache("dst"), poor.cache("src"))
    check(dst, moved(dst.filled(), src.filled(), [0], [0]))


def expected_copy(dst: PeerCache, src: PeerCache, start: int, stop: int, batches=(0, 0)):
    """Bytes start to stop of a batch entry have been copied; both are multiples of 8."""
    words = slice(start // 8, stop // 8)
    after = dst.filled()
    after[:, batches[0], words] = src.filled()[:, batches[1], words]
    return after


@pytest.mark.rule("C6.3-4", "C6.3-5", "C6.3-6", "C6.3-7")
@pytest.mark.parametrize(
    ("offset", "size", "stop"),
    [(0, -1, 512), (8, -1, 512), (504, -1, 512), (0, 512, 512), (0, 64, 64), (64, 448, 512)],
)
def test_c6_3_5_offsets_and_sizes(peer: NearPeer, offset: int, size: int, stop: int) -> None:
    src = peer.contiguous("src", ENTRIES, 1)
    dst = peer.contiguous("dst", Geometry(3, 2, 1024), 2)
    peer.manager.copy_cache(peer.cache("dst"), peer.cache("src"), 1, 2, offset, size, req_id=7)
    check(dst, expected_copy(dst, src, offset, stop, (1, 2)))


@pytest.mark.rule("C6.3-6")
def test_c6_3_6_single_bytes(peer: NearPeer) -> None:
    src = peer.contiguous("src", ENTRIES, 1)
    dst = peer.contiguous("dst", ENTRIES, 2)
    peer.manager.copy_cache(peer.cache("dst"), peer.cache("src"), 0, 0, 511, 1)
    before = dst.filled()[2, 0, 63]
    word, source = (int(cache.read()[2, 0, 63]) for cache in (dst, src))
    assert word == int(before) & ~(0xFF << 56) | source & 0xFF << 56


@pytest.mark.rule("C6.3-10")
def test_c6_3_10_shapes_and_types_are_not_compared(peer: NearPeer) -> None:
    src = peer.contiguous("src", ENTRIES, 1)
    desc = CacheDesc(3, [2, 4, 8, 4], DataType.DT_FLOAT)
    cache = peer.manager.allocate_cache(desc)
    peer.manager.copy_cache(cache, peer.cache("src"), 1, 1)
    for tensor, expected in zip(tensors_of(cache, peer.actor.device_id), src.filled()):
        assert tensor[1].tobytes() == expected[1].tobytes()


@pytest.mark.rule("C6.3-1", "C6.3-2", "C6.3-3", "C6.3-4", "C6.3-6")
def test_c6_3_1_order_of_copy_cache(peer: NearPeer) -> None:
    dst = peer.contiguous("dst", ENTRIES, 1)
    peer.contiguous("src", ENTRIES, 2)
    peer.contiguous("fewer", Geometry(2, 4, 512), 3)
    peer.contiguous("small", Geometry(3, 4, 256), 4)
    peer.allocate("blocks", BLOCKS, 5)
    gone = {
        name: Cache(number, ENTRIES.desc(), [], False)
        for name, number in (("dst", 77), ("src", 78))
    }
    # As the contract has it, sources come before destinations where both are looked at.
    good = {"dst": peer.cache("dst"), "src": peer.cache("src")}
    steps = [
        ({"dst": None}, TypeError, "dst"),
        ({"src": None}, TypeError, "src"),
        ({"dst_batch_index": -1}, ValueError, "dst_batch_index"),
        ({"src_batch_index": 2**32}, ValueError, "src_batch_index"),
        ({"offset": -1}, ValueError, "offset"),
        ({"size": 2**63}, ValueError, "size"),
        ({"src": peer.cache("blocks")}, PI, "src has blocks"),
        ({"dst": peer.cache("blocks")}, PI, "dst has blocks"),
        ({"size": 0}, PI, "size"),
        ({"req_id": 2**64}, ValueError, "req_id"),
        ({"src": gone["src"]}, S.LLM_KV_CACHE_NOT_EXIST, "78"),
        ({"dst": gone["dst"]}, S.LLM_KV_CACHE_NOT_EXIST, "77"),
        ({"dst": peer.cache("fewer")}, PI, "tensors"),
        ({"src_batch_index": 4}, PI, "src_batch_index"),
        ({"dst_batch_index": 4}, PI, "dst_batch_index"),
        ({"offset": 512}, PI, "offset"),
        ({"size": 513}, PI, "513"),
    ]
    check_order(peer.manager.copy_cache, good, steps)
    check(dst, dst.filled())


@pytest.mark.rule("C6.3-4", "C6.3-6")
@pytest.mark.parametrize(
    ("src", "dst", "offset", "size"),
    [
        ("large", "small", 256, 1),
        ("small", "large", 256, 1),
        ("large", "small", 0, -1),
        ("large", "small", 128, -1),
        ("small", "large", 128, 129),
        ("large", "small", 8, 256),
    ],
)
def test_c6_3_6_both_strides_count(
    peer: NearPeer, src: str, dst: str, offset: int, size: int
) -> None:
    caches = {
        "large": peer.contiguous("large", ENTRIES, 1),
        "small": peer.contiguous("small", Geometry(3, 4, 256), 2),
    }
    with refused_by_engine("copy_cache", PI, 512, 256):
        peer.manager.copy_cache(peer.cache(dst), peer.cache(src), 0, 0, offset, size)
    check(caches[dst], caches[dst].filled())


@pytest.mark.rule("C6.3-7")
def test_c6_3_7_within_one_cache_and_onto_itself(peer: NearPeer) -> None:
    cache = peer.contiguous("kv", ENTRIES, 1)
    peer.manager.copy_cache(peer.cache("kv"), peer.cache("kv"), 2, 2)
    check(cache, cache.filled())
    peer.manager.copy_cache(peer.cache("kv"), peer.cache("kv"), 3, 0)
    check(cache, moved(cache.filled(), cache.filled(), [0], [3]))


@pytest.mark.rule("C6.3-1")
def test_c6_3_1_a_deallocated_cache_exists_while_it_has_a_key(peer: NearPeer) -> None:
    key = CacheKey(OWNER, 5)
    src = peer.contiguous("src", ENTRIES, 1, keys=[key])
    dst = peer.contiguous("dst", ENTRIES, 2)
    peer.manager.deallocate_cache(peer.cache("src"))
    peer.manager.copy_cache(peer.cache("dst"), peer.cache("src"))
    check(dst, moved(dst.filled(), src.filled(), [0], [0]))
    peer.manager.remove_cache_key(key)
    with refused_by_engine("copy_cache", S.LLM_KV_CACHE_NOT_EXIST, src.cache_id):
        peer.manager.copy_cache(peer.cache("dst"), peer.cache("src"))


def test_memory_that_is_not_mapped_is_failed(peer: NearPeer) -> None:
    peer.contiguous("kv", ENTRIES, 1)
    nowhere = mmap.PAGESIZE
    cache = peer.manager.register_cache(ENTRIES.desc(), [nowhere] * 3)
    for dst, src in ((peer.cache("kv"), cache), (cache, peer.cache("kv"))):
        with refused_by_engine("copy_cache", S.LLM_FAILED):
            peer.manager.copy_cache(dst, src)


# ---- copy_blocks ----


@pytest.mark.rule("C6.3-12")
@pytest.mark.parametrize(("placement", "allocated"), KINDS, ids=NAMES)
def test_c6_3_12_whole_blocks_to_one_or_more(
    peer: NearPeer, placement: Placement, allocated: bool
) -> None:
    make = peer.allocate if allocated else peer.register
    cache = make("kv", BLOCKS, 1, placement=placement)
    peer.manager.copy_blocks(peer.cache("kv"), {0: [5], 1: [6, 7, 15], 14: [2], 9: []})
    expected = moved(cache.filled(), cache.filled(), [0, 1, 1, 1, 14], [5, 6, 7, 15, 2])
    check(cache, expected)


@pytest.mark.rule("C6.3-11")
@pytest.mark.parametrize(
    ("pairs", "wrong"),
    [({16: [0]}, 16), ({0: [16]}, 16), ({0: [1], 2: [3, 2**64 - 1]}, 2**64 - 1)],
)
def test_c6_3_11_indices_out_of_range_on_either_side(peer: NearPeer, pairs, wrong: int) -> None:
    cache = peer.allocate("kv", BLOCKS, 1)
    with refused_by_engine("copy_blocks", PI, wrong, 16):
        peer.manager.copy_blocks(peer.cache("kv"), pairs)
    # Earlier pairs may have been copied, others not.
    after = cache.read()
    assert after[:, 4:].tolist() == cache.filled()[:, 4:].tolist()
    assert after[:, 0].tolist() == cache.filled()[:, 0].tolist()


@pytest.mark.rule("C6.3-13")
def test_c6_3_13_an_empty_dict(peer: NearPeer) -> None:
    cache = peer.allocate("kv", BLOCKS, 1)
    peer.manager.copy_blocks(peer.cache("kv"), {})
    check(cache, cache.filled())


@pytest.mark.rule("C6.3-14")
def test_c6_3_14_cpu_caches_and_removed_ones_do_not_exist(peer: NearPeer) -> None:
    cpu = Cache.create_cpu_cache(BLOCKS.desc(Placement.HOST), [4096] * 3)
    with refused_by_engine("copy_blocks", S.LLM_KV_CACHE_NOT_EXIST, "-1"):
        peer.manager.copy_blocks(cpu, {0: [1]})
    peer.allocate("kv", BLOCKS, 1)
    peer.manager.deallocate_blocks_cache(peer.cache("kv"))
    with refused_by_engine("copy_blocks", S.LLM_KV_CACHE_NOT_EXIST, 1):
        peer.manager.copy_blocks(peer.cache("kv"), {0: [1]})


@pytest.mark.rule("C6.3-11")
def test_c6_3_11_a_contiguous_cache_has_no_blocks(peer: NearPeer) -> None:
    peer.contiguous("kv", ENTRIES, 1)
    with refused(PI, "no blocks"):
        peer.manager.copy_blocks(peer.cache("kv"), {0: [1]})
