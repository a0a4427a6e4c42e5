# SPDX-License-Identifier: Apache-2.0
"""push_cache, contiguous to contiguous: contract 6.1 and the decisions on it, on every path."""

from __future__ import annotations

import pytest

from llm_datadist import (
    CacheKey,
    CacheKeyByIdAndIndex,
    LLMDataDistWarning,
    LLMStatusCode,
    Placement,
)
from llm_datadist.testing import Geometry, check, moved
from tests.conformance.paths import Path
from tests.conformance.refusals import refused_by_engine
from tests.conformance.stage import OWNER
from tests.conformance.together import NearPeer, NearStage

S = LLMStatusCode
# A contiguous cache: four batch entries of 512 bytes, four layers of two tensors.
ENTRIES = Geometry(num_tensors=8, num_blocks=4, block_bytes=512)


def both(together: NearStage, path: Path, there: Geometry = ENTRIES, here: Geometry = ENTRIES):
    """A pusher with a cache "kv", linked to an owner with one: pusher, its cache, the owner's."""
    owner, pusher = together.two(path)
    destination = together.contiguous(owner, path, "kv", there, 1)
    source = together.contiguous(pusher, path, "kv", here, 2)
    if not path.of_pools:
        # Registered memory is part of the links that are made afterwards.
        assert pusher.unlink(owner) == S.LLM_SUCCESS
        assert pusher.link(owner) == S.LLM_SUCCESS
    return pusher, source, destination


def push(pusher: NearPeer, cache_id: int, batch_index: int = 0, **options) -> None:
    key = CacheKeyByIdAndIndex(OWNER, cache_id, batch_index)
    pusher.manager.push_cache(key, pusher.cache("kv"), **options)


@pytest.mark.rule("C6.1-24", "C6.1-12")
@pytest.mark.parametrize(("src", "dst"), [(0, 0), (3, 1), (0, 3)])
def test_c6_1_24_one_batch_entry_of_every_tensor(
    together: NearStage, path: Path, src: int, dst: int
) -> None:
    pusher, source, destination = both(together, path)
    push(pusher, destination.cache_id, dst, src_batch_index=src)
    check(destination, moved(destination.filled(), source.filled(), [src], [dst]))
    check(source, source.filled())
    assert pusher.call("counters").pushes == 4


@pytest.mark.rule("C6.1-24")
def test_c6_1_24_the_remote_offset_counts_in_remote_strides(
    together: NearStage, path: Path
) -> None:
    # 512 bytes go to the start of an entry of 2048.
    there = Geometry(num_tensors=8, num_blocks=3, block_bytes=2048)
    pusher, source, destination = both(together, path, there=there)
    push(pusher, destination.cache_id, 2, src_batch_index=1)
    expected = destination.filled()
    expected[:, 2, : ENTRIES.words_per_block] = source.filled()[:, 1]
    check(destination, expected)


@pytest.mark.rule("C6.1-25", "C10-13")
def test_c6_1_25_a_larger_local_stride_is_refused(together: NearStage, path: Path) -> None:
    here = Geometry(num_tensors=8, num_blocks=4, block_bytes=1024)
    pusher, _, destination = both(together, path, here=here)
    with refused_by_engine("push_cache", S.LLM_PARAM_INVALID, "stride", 1024, 512):
        push(pusher, destination.cache_id)
    check(destination, destination.filled())


@pytest.mark.rule("C6.1-23", "C6.1-21")
def test_c6_1_23_batch_indices_out_of_range_on_either_side(together: NearStage, path: Path) -> None:
    there = Geometry(num_tensors=8, num_blocks=6, block_bytes=512)
    pusher, source, destination = both(together, path, there=there)
    with refused_by_engine("push_cache", S.LLM_PARAM_INVALID, "src_batch_index", 4, "local"):
        push(pusher, destination.cache_id, 0, src_batch_index=4)
    with refused_by_engine("push_cache", S.LLM_PARAM_INVALID, "batch index", 6, "remote"):
        push(pusher, destination.cache_id, 6)
    check(destination, destination.filled())
    push(pusher, destination.cache_id, 5, src_batch_index=3)
    check(destination, moved(destination.filled(), source.filled(), [3], [5]))


@pytest.mark.rule("C6.1-11", "C6.1-22")
@pytest.mark.parametrize(
    ("n", "src_range", "dst_range"),
    [
        (2, range(1, 3), range(2, 4)),
        (2, range(3, 4), range(1)),
        (1, range(5, 8), range(3)),
        (4, range(1, 2), range(1)),
        (8, range(1), None),
    ],
)
def test_c6_1_11_layer_ranges_may_start_at_different_layers(
    together: NearStage, path: Path, n: int, src_range: range, dst_range: range | None
) -> None:
    pusher, source, destination = both(together, path)
    push(
        pusher,
        destination.cache_id,
        2,
        src_batch_index=1,
        src_layer_range=src_range,
        dst_layer_range=dst_range,
        tensor_num_per_layer=n,
    )
    src_tensors = [layer * n + i for layer in src_range for i in range(n)]
    dst_tensors = [layer * n + i for layer in dst_range or range(1) for i in range(n)]
    expected = moved(destination.filled(), source.filled(), [1], [2], src_tensors, dst_tensors)
    check(destination, expected)


@pytest.mark.rule("C6.1-13")
def test_c6_1_13_a_failing_layer_raises_and_the_earlier_ones_stay_written(
    together: NearStage, path: Path
) -> None:
    there = Geometry(num_tensors=4, num_blocks=4, block_bytes=512)
    pusher, source, destination = both(together, path, there=there)
    with refused_by_engine("push_cache", S.LLM_PARAM_INVALID, "layer 2", "remote"):
        push(pusher, destination.cache_id, 3)
    assert pusher.call("counters").pushes == 2
    check(destination, moved(destination.filled(), source.filled()[:4], [0], [3]))


@pytest.mark.rule("C6.1-14", "C10-14")
def test_c6_1_14_fewer_tensors_than_a_layer_has_move_nothing_with_a_warning(
    together: NearStage, path: Path
) -> None:
    pusher, _, destination = both(together, path)
    with pytest.warns(LLMDataDistWarning, match="nothing is pushed"):
        push(pusher, destination.cache_id, tensor_num_per_layer=9)
    assert pusher.call("counters").pushes == 0
    check(destination, destination.filled())


@pytest.mark.rule("C6.1-33", "C10-14")
@pytest.mark.parametrize("ranges", [{}, {"src_layer_range": range(2), "dst_layer_range": range(2)}])
def test_c6_1_33_tensors_that_are_no_whole_number_of_layers_move_nothing(
    together: NearStage, path: Path, ranges: dict[str, range]
) -> None:
    pusher, _, destination = both(together, path)
    with refused_by_engine("push_cache", S.LLM_PARAM_INVALID, 3, 8, "whole"):
        push(pusher, destination.cache_id, 1, tensor_num_per_layer=3, **ranges)
    assert pusher.call("counters").pushes == 0
    check(destination, destination.filled())


@pytest.mark.rule("C6.1-19", "C10-15")
def test_c6_1_19_cache_id_0_is_the_key_of_request_0_and_model_0(
    together: NearStage, path: Path
) -> None:
    owner = together.engine(OWNER, path)
    pusher = together.engine(9, path, listen=None)
    together.contiguous(owner, path, "other", ENTRIES, 5)
    keys = [CacheKey(OWNER, 0, 0)]
    destination = together.contiguous(owner, path, "kv", ENTRIES, 1, keys=keys)
    source = together.contiguous(pusher, path, "kv", ENTRIES, 2)
    assert pusher.link(owner) == S.LLM_SUCCESS
    with pytest.warns(LLMDataDistWarning, match="cache_id 0"):
        push(pusher, 0, 2, src_batch_index=3)
    check(destination, moved(destination.filled(), source.filled(), [3], [2]))


@pytest.mark.rule("C6.1-19", "C10-15")
def test_c6_1_19_a_negative_cache_id_is_a_type_error_and_an_unknown_one_does_not_exist(
    together: NearStage, path: Path
) -> None:
    pusher, _, destination = both(together, path)
    with pytest.raises(TypeError, match="cache_id"):
        push(pusher, -1)
    with (
        pytest.warns(LLMDataDistWarning, match="cache_id 0"),
        refused_by_engine("push_cache", S.LLM_KV_CACHE_NOT_EXIST),
    ):
        push(pusher, 0)
    with refused_by_engine("push_cache", S.LLM_KV_CACHE_NOT_EXIST, 77, "caches 1"):
        push(pusher, 77)
    check(destination, destination.filled())


@pytest.mark.rule("C6.1-31")
def test_c6_1_31_the_remote_side_is_not_informed_and_no_key_is_consumed(
    together: NearStage, path: Path
) -> None:
    owner = together.engine(OWNER, path)
    pusher = together.engine(9, path, listen=None)
    keys = [CacheKey(OWNER, 0, 0)]
    destination = together.contiguous(owner, path, "kv", ENTRIES, 1, keys=keys)
    together.contiguous(pusher, path, "kv", ENTRIES, 2)
    assert pusher.link(owner) == S.LLM_SUCCESS
    for _ in range(3):
        with pytest.warns(LLMDataDistWarning, match="cache_id 0"):
            push(pusher, 0)
    push(pusher, destination.cache_id)
    (link,) = owner.call("links")
    assert (link.pulls, link.pushes, link.bytes_in) == (0, 0, 0)
    # The key is bound yet: a link that is made now finds it.
    assert pusher.unlink(owner) == S.LLM_SUCCESS
    assert pusher.link(owner) == S.LLM_SUCCESS
    with pytest.warns(LLMDataDistWarning, match="cache_id 0"):
        push(pusher, 0)


@pytest.mark.rule("C6.1-20", "C6.1-18")
@pytest.mark.parametrize("placement", list(Placement))
def test_c6_1_20_caches_that_are_not_remote_accessible_on_either_side(
    together: NearStage, placement: Placement
) -> None:
    owner = together.engine(OWNER)
    pusher = together.engine(9, listen=None)
    plain = {"placement": placement, "allocated": False}
    destinations = [
        owner.contiguous(f"kv {flag}", ENTRIES, 1, remote_accessible=flag, **plain)
        for flag in (False, True)
    ]
    for flag in (False, True):
        pusher.contiguous(f"kv {flag}", ENTRIES, 2, remote_accessible=flag, **plain)
    assert pusher.link(owner) == S.LLM_SUCCESS
    for local, remote, whose in [(0, 1, "this engine"), (1, 0, "the peer"), (0, 0, "this engine")]:
        key = CacheKeyByIdAndIndex(OWNER, destinations[remote].cache_id)
        with refused_by_engine("push_cache", S.LLM_PARAM_INVALID, whose, "remote accessible"):
            pusher.manager.push_cache(key, pusher.cache(f"kv {bool(local)}"))
    key = CacheKeyByIdAndIndex(OWNER, destinations[1].cache_id)
    pusher.manager.push_cache(key, pusher.cache("kv True"))
    check(destinations[0], destinations[0].filled())
    check(destinations[1], moved(destinations[1].filled(), ENTRIES.filled(2), [0], [0]))
