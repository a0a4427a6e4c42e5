# SPDX-License-Identifier: Apache-2.0
"""llm_datadist.parallel: lists of blocks and layers between caches that are divided differently."""

from __future__ import annotations

import threading
from itertools import product

import numpy as np
import pytest

from llm_datadist import BlocksCacheKey, LLMException
from llm_datadist.parallel import (
    HeadSplit,
    LayerGate,
    Pull,
    layer_shares,
    parts_of_blocks,
    pull_many,
)

HEADS, BLOCKS, TOKENS = 8, 5, 3


def _kv(heads: range, tokens_first: bool) -> np.ndarray:
    """The cache of a rank: an element for each token and head, which says where it belongs."""
    places = np.arange(BLOCKS * TOKENS * HEADS).reshape(BLOCKS, TOKENS, HEADS)[..., heads]
    return np.ascontiguousarray(places if tokens_first else places.transpose(0, 2, 1))


def _heads_of(rank: int, ranks: int) -> range:
    """The heads of a rank, by the rule of the frameworks."""
    if ranks >= HEADS:
        return range(rank * HEADS // ranks, rank * HEADS // ranks + 1)
    return range(rank * HEADS // ranks, (rank + 1) * HEADS // ranks)


@pytest.mark.rule("C1.13-2")
@pytest.mark.parametrize("single_heads", [False, True])
@pytest.mark.parametrize("tokens_first", [False, True])
def test_every_head_of_every_rank_arrives(tokens_first: bool, single_heads: bool) -> None:
    rows = TOKENS if tokens_first else 1
    for src_ranks, dst_ranks in product((1, 2, 8, 16), repeat=2):
        split = HeadSplit(HEADS, src_ranks, dst_ranks, single_heads)
        sources = [_kv(_heads_of(rank, src_ranks), tokens_first) for rank in range(src_ranks)]
        for rank in range(dst_ranks):
            wanted = _kv(_heads_of(rank, dst_ranks), tokens_first)
            got = np.full_like(wanted, -1)
            by_heads = got.reshape(BLOCKS * rows * split.dst_parts, -1)
            for share in split.shares(rank):
                source = sources[share.src_rank].reshape(BLOCKS * rows * split.src_parts, -1)
                src, dst = share.blocks([3, 1], [0, 4], rows)
                by_heads[dst] = source[src]
            assert np.array_equal(got[[0, 4]], wanted[[3, 1]])
            assert (got[1:4] == -1).all()


@pytest.mark.rule("C1.13-2")
def test_parts_are_as_large_as_both_sides_allow() -> None:
    split = HeadSplit(num_heads=8, src_ranks=8, dst_ranks=2)
    assert (split.heads_of_part, split.src_parts, split.dst_parts) == (1, 1, 4)
    split = HeadSplit(num_heads=8, src_ranks=2, dst_ranks=4)
    assert (split.heads_of_part, split.src_parts, split.dst_parts) == (2, 2, 1)
    shares = HeadSplit(num_heads=2, src_ranks=4, dst_ranks=2).shares(1)
    assert [each.src_rank for each in shares] == [3], "copies of a head share the work"


@pytest.mark.rule("C1.13-1")
def test_blocks_of_another_size() -> None:
    assert parts_of_blocks([3, 1], 4) == [12, 13, 14, 15, 4, 5, 6, 7]
    assert parts_of_blocks([3], 2, chosen=[1], rows=2) == [13, 15]
    assert all(type(block) is int for block in parts_of_blocks(np.array([3]), 2))


@pytest.mark.rule("C1.13-3")
def test_layers_of_stages() -> None:
    shares = layer_shares([2, 3, 3], dst_first=1, dst_count=5)
    assert [(each.src_stage, each.src_layer_range, each.dst_layer_range) for each in shares] == [
        (0, range(1, 2), range(0, 1)),
        (1, range(0, 3), range(1, 4)),
        (2, range(0, 1), range(4, 5)),
    ]
    assert shares[1].keywords == {
        "src_layer_range": range(0, 3),
        "dst_layer_range": range(1, 4),
    }


@pytest.mark.rule("C1.13-1", "C1.13-2", "C1.13-3")
@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda: HeadSplit(8, 3, 1), "src_ranks must divide num_heads or be a multiple.* 3 for 8"),
        (lambda: HeadSplit(8, 1, 0), "dst_ranks must be at least 1, got 0"),
        (lambda: HeadSplit(8, 1, 2).shares(2), "dst_rank must be from 0 to 1, got 2"),
        (lambda: HeadSplit(8, 1, 1).shares(0)[0].blocks([1], [2, 3]), "as many, got 1 and 2"),
        (lambda: parts_of_blocks([0], 2, [2]), "chosen must be parts from 0 to 1"),
        (lambda: parts_of_blocks([0], 2, rows=0), "rows must be at least 1"),
        (lambda: layer_shares([2, 2], 3, 2), "has layers 3 to 4, the source has 0 to 3"),
    ],
)
def test_what_cannot_be_divided_is_refused(wrong, text) -> None:
    with pytest.raises(LLMException, match=text):
        wrong()


class Manager:
    """Takes the part of a CacheManager; pulls from peer 1 wait until one from peer 2 has begun."""

    def __init__(self) -> None:
        self.done: list[tuple[int, object]] = []
        self._other_has_begun = threading.Event()

    def pull_blocks(self, key, cache, src, dst, **keywords) -> None:
        if key.cluster_id == 2:
            self._other_has_begun.set()
        elif not self._other_has_begun.wait(30):
            raise TimeoutError("pulls from different peers do not run at the same time")
        if src == "fail":
            raise LLMException(f"the pull of {cache}")
        self.done.append((key.cluster_id, cache, keywords))


def _pull(cluster_id: int, cache, src="ok", **keywords) -> Pull:
    return Pull(BlocksCacheKey(cluster_id, 0), cache, src, [0], keywords)


@pytest.mark.rule("C1.13-4")
def test_pulls_of_several_peers_run_at_the_same_time() -> None:
    manager = Manager()
    layers = {"tensor_num_per_layer": 1}
    pull_many(manager, [_pull(1, "a"), _pull(2, "b", **layers), _pull(1, "c")])
    assert sorted(manager.done) == [(1, "a", {}), (1, "c", {}), (2, "b", layers)]
    assert [each for each in manager.done if each[0] == 1] == [(1, "a", {}), (1, "c", {})]
    pull_many(manager, [])
    with pytest.raises(TypeError, match=r"pulls\[0\]"):
        pull_many(manager, ["no pull"])


@pytest.mark.rule("C1.13-4")
def test_the_first_pull_that_failed_is_raised_when_none_runs_any_more() -> None:
    manager = Manager()
    pulls = [_pull(1, "a"), _pull(2, "b", "fail"), _pull(1, "c", "fail"), _pull(2, "d")]
    with pytest.raises(LLMException, match=r"^pulls\[1\] of 4: the pull of b"):
        pull_many(manager, pulls)
    assert manager.done == [(1, "a", {})]


@pytest.mark.rule("C1.13-5")
def test_a_layer_passes_the_gate_when_it_is_ready() -> None:
    gate = LayerGate()
    gate.ready(0)
    assert gate.synchronize_layer(0, None) is True
    assert gate.synchronize_layer(1, 1) is False
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(gate.synchronize_layer(1, None)))
    waiting.start()
    gate.ready(1)
    waiting.join(30)
    gate.cancel()
    assert answers == [True]
    assert gate.synchronize_layer(2, None) is False
