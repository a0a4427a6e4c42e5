# SPDX-License-Identifier: Apache-2.0
"""push_blocks, blocks to blocks: contract 6.1 and the decisions on it, on every path."""

from __future__ import annotations

import array

import numpy as np
import pytest

from llm_datadist import BlocksCacheKey, CacheKeyByIdAndIndex, LLMStatusCode
from llm_datadist.testing import Geometry, check, moved
from tests.conformance.paths import Path
from tests.conformance.refusals import refused, refused_by_engine
from tests.conformance.stage import OWNER, PULLER, SMALL, Pair, Stage, linked

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)

LISTS = {
    "one block": ([5], [9]),
    "adjacent on both sides": ([2, 3, 4, 5], [8, 9, 10, 11]),
    "scattered": ([11, 0, 15, 3, 7], [4, 15, 1, 0, 9]),
    "everything backwards": (list(range(16)), list(range(15, -1, -1))),
    "one source block many times": ([6, 6, 6, 6], [0, 3, 4, 12]),
}


@pytest.mark.rule("C6.1-12")
@pytest.mark.sanitize
@pytest.mark.parametrize("name", LISTS)
def test_block_lists(pair: Pair, name: str) -> None:
    src, dst = LISTS[name]
    pair.puller.push("kv", KEY, src, dst)
    check(pair.source, moved(pair.source.filled(), pair.target.filled(), src, dst))
    check(pair.target, pair.target.filled())


@pytest.mark.parametrize(
    "convert",
    [tuple, lambda ids: array.array("Q", ids), lambda ids: np.array(ids, np.int64)],
    ids=["tuple", "array", "numpy"],
)
def test_forms_of_block_ids(pair: Pair, convert) -> None:
    src, dst = [11, 0, 15, 3], [4, 15, 1, 0]
    pair.puller.push("kv", KEY, convert(src), convert(dst))
    check(pair.source, moved(pair.source.filled(), pair.target.filled(), src, dst))


@pytest.mark.rule("C6.1-11", "C6.1-22")
@pytest.mark.parametrize(
    ("n", "src_range", "dst_range"),
    [
        (2, range(1, 3), range(2, 4)),
        (2, range(0, 1), range(3, 4)),
        (1, range(5, 8), range(0, 3)),
        (4, range(1, 2), range(1, 2)),
        (8, None, None),
    ],
)
def test_layer_ranges(stage: Stage, path: Path, n: int, src_range, dst_range) -> None:
    pair = stage.pair(path, Geometry(num_tensors=8))
    src, dst = [3, 0, 9], [1, 2, 15]
    pair.puller.push(
        "kv",
        KEY,
        src,
        dst,
        src_layer_range=src_range,
        dst_layer_range=dst_range,
        tensor_num_per_layer=n,
    )

    def tensors(layers) -> list[int]:
        return [layer * n + i for layer in layers or range(1) for i in range(n)]

    expected = moved(
        pair.source.filled(), pair.target.filled(), src, dst, tensors(src_range), tensors(dst_range)
    )
    check(pair.source, expected)


@pytest.mark.rule("C6.1-8")
def test_ranges_that_are_missing_are_all_layers(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, Geometry(num_tensors=8))
    pair.puller.push("kv", KEY, [1], [2], dst_layer_range=range(4))
    check(pair.source, moved(pair.source.filled(), pair.target.filled(), [1], [2]))
    with refused(S.LLM_PARAM_INVALID):
        pair.puller.push("kv", KEY, [1], [2], dst_layer_range=range(2))


@pytest.mark.rule("C6.1-14", "C10-14")
def test_fewer_tensors_than_a_layer_has_move_nothing_with_a_warning(
    stage: Stage, path: Path
) -> None:
    pair = stage.pair(path, Geometry(num_tensors=1))
    assert pair.puller.call(warnings_of_push, [3], [4]) == ["LLMDataDistWarning"]
    check(pair.source, pair.source.filled())


@pytest.mark.rule("C6.1-33", "C10-14")
def test_c6_1_33_tensors_that_are_no_whole_number_of_layers_move_nothing(
    stage: Stage, path: Path
) -> None:
    pair = stage.pair(path, Geometry(num_tensors=3))
    with refused_by_engine("push_blocks", S.LLM_PARAM_INVALID, 2, 3, "whole"):
        pair.puller.push("kv", KEY, [3], [4])
    check(pair.source, pair.source.filled())
    assert pair.puller.call("counters").pushes == 0
    pair.puller.push("kv", KEY, [3], [4], tensor_num_per_layer=3)
    check(pair.source, moved(pair.source.filled(), pair.target.filled(), [3], [4]))


def warnings_of_push(actor, src, dst) -> list[str]:
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        actor.push("kv", KEY, src, dst)
    return [warning.category.__name__ for warning in caught]


@pytest.mark.rule("C6.1-34")
def test_c6_1_34_a_key_by_id_is_a_type_error(pair: Pair) -> None:
    key = CacheKeyByIdAndIndex(OWNER, pair.source.cache_id)
    with pytest.raises(TypeError, match="dst_cache_key only support BlocksCacheKey"):
        pair.puller.push("kv", key, [3, 1], [4, 9])
    check(pair.source, pair.source.filled())


@pytest.mark.rule("C6.1-1")
def test_request_mode_has_no_push(stage: Stage) -> None:
    peer = stage.engine(PULLER, one_sided=False)
    peer.register("kv", SMALL, 2)
    with refused(S.LLM_PARAM_INVALID):
        peer.push("kv", KEY, [0], [0])


@pytest.mark.rule("C6.1-17", "C6.1-30")
@pytest.mark.sanitize
def test_not_linked(stage: Stage, path: Path) -> None:
    peer = stage.engine(PULLER, path)
    path.cache(peer, "kv", SMALL, 2)
    with refused_by_engine("push_blocks", S.LLM_NOT_YET_LINK, OWNER):
        peer.push("kv", KEY, [0], [0])
    # There is no check of the own cluster: it is simply not linked.
    with refused_by_engine("push_blocks", S.LLM_NOT_YET_LINK, PULLER):
        peer.push("kv", BlocksCacheKey(PULLER, 0), [0], [0])


@pytest.mark.rule("C6.1-19")
@pytest.mark.sanitize
def test_an_unknown_model_id_and_the_text_names_those_that_are_there(pair: Pair) -> None:
    with refused_by_engine("push_blocks", S.LLM_KV_CACHE_NOT_EXIST, OWNER, 9, 0, "model_id"):
        pair.puller.push("kv", BlocksCacheKey(OWNER, 9), [0], [0])
    check(pair.source, pair.source.filled())


@pytest.mark.rule("C6.1-21", "C6.1-26")
@pytest.mark.sanitize
@pytest.mark.parametrize(
    ("src", "dst", "wrong"),
    [
        ([0, 16], [0, 1], 16),
        ([0, 1], [0, 16], 16),
        ([14, 15, 16], [0, 1, 2], 16),
        ([0], [2**63], 2**63),
    ],
)
def test_a_block_out_of_range_on_either_side(pair: Pair, src, dst, wrong: int) -> None:
    with refused_by_engine("push_blocks", S.LLM_PARAM_INVALID, wrong, SMALL.num_blocks):
        pair.puller.push("kv", KEY, src, dst)
    check(pair.source, pair.source.filled())


@pytest.mark.rule("C6.1-26")
@pytest.mark.sanitize
def test_lists_of_unequal_length(pair: Pair) -> None:
    with refused_by_engine("push_blocks", S.LLM_PARAM_INVALID, 3, 2):
        pair.puller.push("kv", KEY, [0, 1, 2], [0, 1])
    check(pair.source, pair.source.filled())


@pytest.mark.rule("C6.1-5", "C6.1-29")
@pytest.mark.parametrize(("src", "dst"), [([], [0]), ([0], [])])
def test_empty_lists(pair: Pair, src, dst) -> None:
    with refused(S.LLM_PARAM_INVALID):
        pair.puller.push("kv", KEY, src, dst)


@pytest.mark.rule("C6.1-6", "C6.1-7", "C6.1-9")
@pytest.mark.parametrize(
    "ranges",
    [
        {"src_layer_range": range(2, 3), "dst_layer_range": range(1)},
        {"src_layer_range": range(1), "dst_layer_range": range(2, 3)},
        {"src_layer_range": range(2), "dst_layer_range": range(1)},
        {"src_layer_range": range(0), "dst_layer_range": range(0)},
        {"src_layer_range": range(0, 2, 2), "dst_layer_range": range(0, 2, 2)},
        {"tensor_num_per_layer": 0},
    ],
    ids=str,
)
def test_refused_layer_ranges(pair: Pair, ranges) -> None:
    with refused(S.LLM_PARAM_INVALID):
        pair.puller.push("kv", KEY, [0], [0], **ranges)
    check(pair.source, pair.source.filled())


@pytest.mark.rule("C6.1-12", "C6.1-13", "C6.1-20")
def test_a_failing_layer_leaves_the_earlier_ones_written(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, Geometry(num_tensors=8))
    short = path.cache(pair.owner, "short", Geometry(num_tensors=4), 5, 1)
    pair.puller.unlink(pair.owner)
    linked(pair.puller, pair.owner)
    with refused_by_engine("push_blocks", S.LLM_PARAM_INVALID, OWNER):
        pair.puller.push("kv", BlocksCacheKey(OWNER, 1), [0], [1])
    check(short, moved(short.filled(), pair.target.filled()[:4], [0], [1]))


@pytest.mark.rule("C10-13")
def test_a_push_that_does_not_fit_the_remote_stride_is_refused(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, Geometry(block_bytes=512))
    path.cache(pair.puller, "larger", Geometry(block_bytes=1024), 3)
    with refused_by_engine("push_blocks", S.LLM_PARAM_INVALID, 512, 1024):
        pair.puller.push("larger", KEY, [0], [0])
    check(pair.source, pair.source.filled())
