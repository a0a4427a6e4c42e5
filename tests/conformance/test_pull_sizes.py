# SPDX-License-Identifier: Apache-2.0
"""How many bytes a pull moves from where to where: contract 5.3 and 5.4, in both modes, on every
path.

One-sided pulls of blocks by blocks are in test_pull_blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_datadist import LLMStatusCode
from llm_datadist.introspection import MemoryKind
from tests.conformance.engines import (
    DEVICE,
    HOST,
    OWNER,
    Bytes,
    EngineHere,
    Engines,
    blocks_of,
    by_id,
    by_request,
)
from tests.conformance.paths import Path
from tests.conformance.refusals import refused_by_engine

S = LLMStatusCode
PI = S.LLM_PARAM_INVALID
REGISTERED = MemoryKind.REGISTERED


@pytest.fixture(params=[False, True], ids=["request", "one-sided"])
def one_sided(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def both(engines: Engines, path: Path, one_sided: bool) -> tuple[EngineHere, EngineHere]:
    return engines.two(path, one_sided)


# ---- contiguous to contiguous


@pytest.mark.rule("C5.3-1", "C5.3-2", "C5.6-4", "C10-12")
@pytest.mark.parametrize(
    ("local", "remote", "size", "moved"),
    [
        (256, 256, -1, 256),
        (256, 256, 256, 256),
        (256, 256, 1, 1),
        (256, 200, 200, 200),
        (200, 256, -1, 200),
        (200, 256, 7, 7),
        ((1 << 20) + 24, (1 << 20) + 40, -1, (1 << 20) + 24),
    ],
)
def test_c5_3_1_entry_to_entry(
    engines: Engines, both: Any, local: int, remote: int, size: int, moved: int
) -> None:
    owner, puller = both
    tensors = 2 if local > 1 << 20 else 4
    source = owner.contiguous(3, remote, tensors=tensors, memory=owner.memory)
    target = puller.contiguous(2, local, tensors=tensors, memory=REGISTERED)
    engines.link(puller, owner)
    puller.manager.pull_cache(by_id(source, 2), target.cache, 1, size)
    expected = target.first.copy()
    expected[:, 1, :moved] = source.first[:, 2, :moved]
    assert np.array_equal(target.now, expected)
    assert np.array_equal(source.now, source.first)


@pytest.mark.rule("C5.3-2", "C5.5-7")
@pytest.mark.parametrize(("local", "size", "asked"), [(256, -1, 256), (256, 201, 201)])
def test_c5_3_2_more_than_the_remote_stride(
    engines: Engines, both: Any, local: int, size: int, asked: int
) -> None:
    owner, puller = both
    source, target = owner.contiguous(4, 200), puller.contiguous(1, local)
    engines.link(puller, owner)
    for entry in (0, 3):
        with refused_by_engine("pull_cache", PI, asked, 200, OWNER):
            puller.manager.pull_cache(by_id(source, entry), target.cache, 0, size)
    assert np.array_equal(target.now, target.first)


@pytest.mark.rule("C5.3-16", "C5.5-5", "C5.6-1")
def test_c5_3_16_blocks_never_go_into_a_contiguous_cache(engines: Engines, both: Any) -> None:
    owner, puller = both
    source, target = owner.paged(4, 64), puller.contiguous(4, 64)
    engines.link(puller, owner)
    with refused_by_engine("pull_cache", PI, OWNER, "blocks"):
        puller.manager.pull_cache(by_id(source), target.cache)
    assert np.array_equal(target.now, target.first)


# ---- contiguous to blocks


def spread(target: Bytes, entry: Bytes, blocks: list[int]) -> Bytes:
    """What the target must be once an entry ([tensor, byte]) filled the blocks in order."""
    after = target.copy()
    size = target.shape[2]
    for place, block in enumerate(blocks):
        piece = entry[:, place * size : (place + 1) * size]
        after[:, block, : piece.shape[1]] = piece
    return after


@pytest.mark.rule("C5.3-3", "C5.3-6", "C5.6-5", "C10-12", "C10-13")
@pytest.mark.parametrize("by", ["id", "request"])
@pytest.mark.parametrize(
    ("stride", "blocks"),
    [
        (256, [5]),
        (256, [0, 1, 2, 3]),
        (256, [3, 1, 6, 0]),
        # 200 bytes are three blocks and a tail of 8: only the block at the tail is short.
        (200, [2]),
        (200, [7, 5]),
        (200, [4, 3, 2]),
        (200, [6, 2, 3, 0]),
        (64, [7]),
    ],
)
def test_c5_3_3_an_entry_into_blocks(
    engines: Engines, both: Any, by: str, stride: int, blocks: list[int]
) -> None:
    owner, puller = both
    source = owner.contiguous(3, stride, [by_request(n) for n in range(3)])
    target = puller.paged(8, 64, memory=REGISTERED)
    engines.link(puller, owner)
    expected = target.first
    for entry in (2, 0):
        key = by_id(source, entry) if by == "id" else by_request(entry)
        puller.manager.pull_blocks(key, target.cache, [], blocks)
        expected = spread(expected, source.first[:, entry], blocks)
        assert np.array_equal(target.now, expected)
    assert np.array_equal(source.now, source.first)


@pytest.mark.rule("C5.3-4", "C10-12")
@pytest.mark.parametrize(
    ("entries", "stride", "count"), [(1, 256, 5), (1, 200, 5), (3, 256, 5), (3, 200, 5), (2, 63, 1)]
)
def test_c5_3_4_more_blocks_than_the_entry_fills(
    engines: Engines, both: Any, entries: int, stride: int, count: int
) -> None:
    owner, puller = both
    source, target = owner.contiguous(entries, stride), puller.paged(8, 64)
    engines.link(puller, owner)
    for entry in range(entries):
        with refused_by_engine("pull_blocks", PI, OWNER, 64, stride):
            puller.manager.pull_blocks(by_id(source, entry), target.cache, [], [*range(count)])
    assert np.array_equal(target.now, target.first)


@pytest.mark.rule("C5.3-7", "C5.5-7", "C5.5-14")
@pytest.mark.parametrize(
    ("stride", "blocks", "fits"),
    [
        (256, [3], True),
        (256, [2, 0, 1, 3], True),
        (200, [1, 3], True),
        (200, [3, 0, 1, 2], True),
        (256, [0, 1, 2, 3, 4], False),
        (200, [0, 1, 2, 3, 4], False),
        # A host block may be larger than the entry.
        (40, [2], True),
        (40, [2, 3], False),
    ],
)
def test_c5_3_7_an_entry_into_host_blocks(
    engines: Engines, path: Path, stride: int, blocks: list[int], fits: bool
) -> None:
    owner, puller = engines.two(path, one_sided=False)
    source = owner.contiguous(3, stride, [by_request(1), by_request(2)])
    target = puller.paged(6, 64, placement=HOST, memory=REGISTERED)
    engines.link(puller, owner)
    if fits:
        puller.manager.pull_blocks(by_request(2), target.cache, [], blocks)
        assert np.array_equal(target.now, spread(target.first, source.first[:, 1], blocks))
    else:
        with refused_by_engine("pull_blocks", PI, OWNER, 64, stride):
            puller.manager.pull_blocks(by_request(2), target.cache, [], blocks)
        assert np.array_equal(target.now, target.first)


# ---- blocks to blocks


@pytest.mark.rule("C5.3-8", "C5.3-11", "C5.3-13")
@pytest.mark.parametrize("placement", [DEVICE, HOST])
@pytest.mark.parametrize(
    ("src", "dst"),
    [
        ([5], [9]),
        ([2, 3, 4, 5], [8, 9, 10, 11]),
        ([2, 3, 4, 5], [1, 3, 5, 7]),
        ([11, 0, 15, 3, 7], [4, 15, 1, 0, 9]),
        ([15, 14, 13, 0, 1], [0, 1, 2, 3, 4]),
        ([6, 6, 6, 7], [0, 3, 4, 5]),
        ([6, 2, 6, 6], [0, 3, 0, 0]),
    ],
)
def test_c5_3_8_blocks_by_request(
    engines: Engines, path: Path, placement: Any, src: list[int], dst: list[int]
) -> None:
    owner, puller = engines.two(path, one_sided=False)
    source = owner.paged(model_id=3)
    target = puller.paged(placement=placement, memory=REGISTERED)
    engines.link(puller, owner)
    puller.manager.pull_blocks(blocks_of(3), target.cache, src, dst)
    expected = target.first.copy()
    for source_block, target_block in zip(src, dst):
        expected[:, target_block] = source.first[:, source_block]
    assert np.array_equal(target.now, expected)


@pytest.mark.rule("C5.3-10", "C5.3-12", "C5.5-6", "C5.6-8")
@pytest.mark.parametrize(
    ("src", "dst", "wrong", "count"),
    [
        # The caller's own side is looked at first.
        ([8], [16], "dst_blocks[0] is 16", 16),
        ([0, 1, 8], [5, 7, 9], "src_blocks[2] is 8", 8),
        # In and at the end of what would be merged, and behind the largest number.
        ([6, 7, 8], [0, 1, 2], "src_blocks[2] is 8", 8),
        ([5, 6, 7], [14, 15, 16], "dst_blocks[2] is 16", 16),
        ([0, 2**64 - 1], [0, 1], f"src_blocks[1] is {2**64 - 1}", 8),
        ([2**64 - 1, 0], [0, 1], f"src_blocks[0] is {2**64 - 1}", 8),
    ],
)
def test_c5_3_10_indices_out_of_range(
    engines: Engines, both: Any, src: list[int], dst: list[int], wrong: str, count: int
) -> None:
    owner, puller = both
    owner.paged(8, 64, model_id=0)
    target = puller.paged(16, 64)
    engines.link(puller, owner)
    with refused_by_engine("pull_blocks", PI, wrong, count):
        puller.manager.pull_blocks(blocks_of(), target.cache, src, dst)
    assert np.array_equal(target.now, target.first)


@pytest.mark.rule("C5.3-9")
def test_c5_3_9_lists_of_unequal_length(engines: Engines, both: Any) -> None:
    owner, puller = both
    owner.paged(model_id=0)
    target = puller.paged()
    engines.link(puller, owner)
    for src, dst in (([0, 1, 2], [0, 1]), ([0], [0, 1])):
        with refused_by_engine("pull_blocks", PI, len(src), len(dst)):
            puller.manager.pull_blocks(blocks_of(), target.cache, src, dst)


@pytest.mark.rule("C5.3-14", "C5.3-15", "C10-13")
@pytest.mark.parametrize("placement", [DEVICE, HOST])
def test_c5_3_14_different_block_sizes(engines: Engines, both: Any, placement: Any) -> None:
    owner, puller = both
    owner.paged(8, 64, model_id=0)
    target = puller.paged(8, 32, placement=placement, memory=REGISTERED, remote_accessible=True)
    engines.link(puller, owner)
    with refused_by_engine("pull_blocks", PI, 32, 64, OWNER):
        puller.manager.pull_blocks(blocks_of(), target.cache, [0], [0])
    assert np.array_equal(target.now, target.first)


@pytest.mark.rule("C5.3-18", "C5.3-19", "C10-28")
def test_c5_3_18_no_limit_of_a_request(engines: Engines, path: Path, one_sided: bool) -> None:
    count = 66_000 if one_sided else 8_000
    # The default of a second is not enough for so many runs on a busy machine.
    owner, puller = engines.two(path, one_sided, timeout_ms=30_000)
    source = owner.paged(count, 8, model_id=0, tensors=1)
    target = puller.paged(count, 8, tensors=1)
    many = owner.contiguous(1, 8, tensors=2100, memory=REGISTERED)
    many_here = puller.contiguous(1, 8, tensors=2100, memory=REGISTERED)
    engines.link(puller, owner)
    # Every pair is a run of its own.
    src = list(range(count - 1, -1, -1))
    puller.manager.pull_blocks(blocks_of(), target.cache, src, list(range(count)))
    assert np.array_equal(target.now[0], source.first[0, ::-1])
    if owner.memory is REGISTERED:
        puller.manager.pull_cache(by_id(many), many_here.cache)
        assert np.array_equal(many_here.now, many.first)


# ---- tensors and layers


@pytest.mark.rule("C5.3-17", "C5.5-4")
@pytest.mark.parametrize("tensors", [3, 5])
def test_c5_3_17_another_number_of_tensors(engines: Engines, both: Any, tensors: int) -> None:
    owner, puller = both
    source = owner.contiguous(tensors=tensors)
    owner.paged(model_id=0, tensors=tensors)
    entries, blocks = puller.contiguous(tensors=4), puller.paged(tensors=4)
    engines.link(puller, owner)
    with refused_by_engine("pull_cache", PI, tensors, 4, "tensors"):
        puller.manager.pull_cache(by_id(source), entries.cache)
    with refused_by_engine("pull_blocks", PI, tensors, 4, "tensors"):
        puller.manager.pull_blocks(blocks_of(), blocks.cache, [0], [0])


# (N, tensors of the owner, of the puller, source range, destination range)
RANGES = {
    "both": (2, 8, 8, range(1, 3), range(2, 4)),
    "only the source": (2, 8, 4, range(1, 3), None),
    "only the destination": (2, 4, 8, None, range(2, 4)),
    "one tensor a layer": (1, 5, 8, range(2, 5), range(0, 3)),
    "four tensors a layer": (4, 8, 8, range(1, 2), range(0, 1)),
    "the remote count is no multiple": (2, 7, 4, range(1, 3), range(0, 2)),
    "empty ranges are not given": (2, 3, 3, range(0), range(3, 3)),
    "an empty one beside another": (2, 4, 8, range(5, 5), range(1, 3)),
    "N is ignored without ranges": (7, 3, 3, None, None),
}


def chosen(layers: range | None, n: int, count: int) -> list[int]:
    return list(range(layers.start * n, layers.stop * n)) if layers else list(range(count))


def given(src_range: range | None, dst_range: range | None) -> dict[str, range]:
    ranges = {"src_layer_range": src_range, "dst_layer_range": dst_range}
    return {name: layers for name, layers in ranges.items() if layers is not None}


@pytest.mark.rule("C5.4-2", "C5.4-3", "C5.4-4", "C5.4-5", "C5.4-6", "C5.4-8")
@pytest.mark.parametrize("name", RANGES)
def test_c5_4_3_which_tensors_layer_ranges_select(engines: Engines, both: Any, name: str) -> None:
    n, owned, owns, src_range, dst_range = RANGES[name]
    owner, puller = both
    source = owner.contiguous(tensors=owned, keys=[by_request(1)])
    entries, blocks = puller.contiguous(tensors=owns), puller.paged(tensors=owns)
    engines.link(puller, owner)
    options = {**given(src_range, dst_range), "tensor_num_per_layer": n}
    puller.manager.pull_cache(by_id(source, 2), entries.cache, 1, **options)
    puller.manager.pull_blocks(by_id(source, 3), blocks.cache, [], [2, 1], **options)
    pairs = zip(chosen(src_range, n, owned), chosen(dst_range, n, owns))
    entries_after, blocks_after = entries.first.copy(), blocks.first.copy()
    for src, dst in pairs:
        entries_after[dst, 1] = source.first[src, 2]
        blocks_after[dst, [2, 1]] = source.first[src, 3, :128].reshape(2, 64)
    assert np.array_equal(entries.now, entries_after)
    assert np.array_equal(blocks.now, blocks_after)


# (tensors of the owner, of the puller, source range, destination range); N is the default, 2
REFUSED = {
    "C5.4-4": (6, 8, None, range(2)),
    "C5.4-5": (8, 8, range(2), None),
    "C5.4-7": (3, 3, range(1), range(1)),
    "C5.4-9": (1, 1, range(1), range(1)),
    "C5.4-10 past the end": (4, 4, range(2, 3), range(1)),
    "C5.4-10 partly": (7, 8, range(2, 4), range(2)),
    "C5.4-10 far": (4, 4, range(2**32 - 2, 2**32 - 1), range(1)),
    "C5.2-8 past the end": (4, 4, range(1), range(2, 3)),
    "C5.2-8 far": (4, 4, range(1), range(2**32 - 2, 2**32 - 1)),
    "C5.2-8 another count": (4, 4, range(1), range(2)),
}


@pytest.mark.rule("C5.4-4", "C5.4-5", "C5.4-7", "C5.4-9", "C5.4-10", "C5.4-11", "C5.2-8", "C5.5-8")
@pytest.mark.parametrize("name", REFUSED)
def test_c5_4_7_refused_layer_ranges(engines: Engines, both: Any, name: str) -> None:
    owned, owns, src_range, dst_range = REFUSED[name]
    owner, puller = both
    source = owner.contiguous(tensors=owned)
    owner.paged(tensors=owned, model_id=0)
    entries, blocks = puller.contiguous(tensors=owns), puller.paged(tensors=owns)
    engines.link(puller, owner)
    ranges = given(src_range, dst_range)
    with refused_by_engine("pull_cache", PI):
        puller.manager.pull_cache(by_id(source), entries.cache, **ranges)
    with refused_by_engine("pull_blocks", PI):
        puller.manager.pull_blocks(blocks_of(), blocks.cache, [0], [0], **ranges)
    assert np.array_equal(entries.now, entries.first)
    assert np.array_equal(blocks.now, blocks.first)
