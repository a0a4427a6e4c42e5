# SPDX-License-Identifier: Apache-2.0
"""Transfers between caches that are divided differently: by heads (tensor parallelism), by layers
(pipeline parallelism), by tokens (block sizes); and several caches of a request in one call.

    split = HeadSplit(num_heads=8, src_ranks=8, dst_ranks=2)
    for share in split.shares(dst_rank=0):
        src, dst = share.blocks([3, 1], [0, 2])
        manager.pull_blocks(BlocksCacheKey(prompts[share.src_rank], HEADS), by_heads, src, dst)

An extension of this package (contract 1.13). docs/parallel.md has the whole of each case.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ._checks import check_type, check_uint32, refuse
from ._layers import PullKeywords
from ._pulls import PullKey
from .cache import Cache
from .transfer import LayerSynchronizer

if TYPE_CHECKING:
    from .cache_manager import CacheManager

__all__ = [
    "HeadShare",
    "HeadSplit",
    "LayerGate",
    "LayerShare",
    "Pull",
    "layer_shares",
    "parts_of_blocks",
    "pull_many",
]

# Lists, since a device, and strict mode, take nothing else.
Blocks = list[int]


def parts_of_blocks(
    blocks: Iterable[int], parts: int, chosen: Sequence[int] | None = None, rows: int = 1
) -> Blocks:
    """Return where blocks are in a cache over the same memory with smaller blocks.

    The cache is registered with num_blocks = blocks x rows x parts (arrays.register_blocks): each
    block has rows (tokens, say), and each row has parts.

    Args:
        blocks: the large ones.
        parts: of each row.
        chosen: which parts, in order; None: all.
        rows: of each block.

    Returns:
        The small blocks: all chosen parts of row 0 of the first block, of its row 1, and so on.
    """
    _check_positive("parts", parts)
    _check_positive("rows", rows)
    picked = np.arange(parts) if chosen is None else np.asarray(chosen, np.int64)
    if picked.size and not (picked.min() >= 0 and picked.max() < parts):
        refuse(f"chosen must be parts from 0 to {parts - 1}, got {list(picked)}")
    first = np.asarray(list(blocks), np.int64)[:, np.newaxis] * rows + np.arange(rows)
    small: Blocks = (first[..., np.newaxis] * parts + picked).reshape(-1).tolist()
    return small


# ---- heads ----


@dataclass(frozen=True)
class HeadShare:
    """What one rank of the source has for one rank of the destination.

    src_parts and dst_parts are parts of a row, as many, and go to each other in order.
    """

    split: HeadSplit
    src_rank: int
    src_parts: tuple[int, ...]
    dst_parts: tuple[int, ...]

    def blocks(
        self, src_blocks: Iterable[int], dst_blocks: Iterable[int], rows: int = 1
    ) -> tuple[Blocks, Blocks]:
        """Return the block lists of the pull or push between the two caches by heads.

        Args:
            src_blocks: of the source's own cache; block k of them goes to block k of dst_blocks.
            dst_blocks: as many, of the destination's own cache.
            rows: 1 where the heads of a block come before its tokens, [heads, tokens, size]; the
                tokens of a block where they come after, [tokens, heads, size].
        """
        src, dst = list(src_blocks), list(dst_blocks)
        if len(src) != len(dst):
            refuse(f"src_blocks and dst_blocks must be as many, got {len(src)} and {len(dst)}")
        return (
            parts_of_blocks(src, self.split.src_parts, self.src_parts, rows),
            parts_of_blocks(dst, self.split.dst_parts, self.dst_parts, rows),
        )


@dataclass(frozen=True)
class HeadSplit:
    """The KV heads of a model on two numbers of tensor-parallel ranks.

    A part is what both sides divide into: heads_of_part heads. The caches by heads are registered
    over the memory of the own ones with num_blocks x rows x src_parts, or dst_parts, blocks.
    Ranks beyond the number of heads have copies of them, as the frameworks do it.

    Args:
        num_heads: KV heads of the model.
        src_ranks: ranks of the source; divides num_heads, or is a multiple of it.
        dst_ranks: the same of the destination.
        single_heads: each part is one head, so that one cache by heads serves peers of any number
            of ranks; otherwise parts are as large as both sides allow.

    Raises:
        LLMException: LLM_PARAM_INVALID: a number of ranks neither divides num_heads nor is a
            multiple of it.
    """

    num_heads: int
    src_ranks: int
    dst_ranks: int
    single_heads: bool = False
    src_parts: int = field(init=False)
    dst_parts: int = field(init=False)
    heads_of_part: int = field(init=False)

    def __post_init__(self) -> None:
        _check_positive("num_heads", self.num_heads)
        owned = []
        for name in ("src_ranks", "dst_ranks"):
            ranks = getattr(self, name)
            _check_positive(name, ranks)
            if self.num_heads % ranks and ranks % self.num_heads:
                refuse(
                    f"{name} must divide num_heads or be a multiple of it, got {ranks} for "
                    f"{self.num_heads} heads"
                )
            owned.append(max(1, self.num_heads // ranks))
        # Both are divisors of num_heads; what divides both is what the parts are made of.
        heads = 1 if self.single_heads else int(np.gcd(*owned))
        for name, value in zip(
            ("heads_of_part", "src_parts", "dst_parts"), (heads, *(each // heads for each in owned))
        ):
            object.__setattr__(self, name, value)

    def shares(self, dst_rank: int) -> list[HeadShare]:
        """Return what a rank of the destination gets from which ranks of the source.

        Where several ranks of the source have a head, the ranks of the destination are spread over
        them.
        """
        _check_rank("dst_rank", dst_rank, self.dst_ranks)
        wanted = self._parts_of("dst", dst_rank)
        found: dict[int, list[tuple[int, int]]] = {}
        for dst_part, part in enumerate(wanted):
            owners = [rank for rank in range(self.src_ranks) if part in self._parts_of("src", rank)]
            owner = owners[dst_rank % len(owners)]
            found.setdefault(owner, []).append((self._parts_of("src", owner).index(part), dst_part))
        return [
            HeadShare(self, rank, *(tuple(side) for side in zip(*pairs)))
            for rank, pairs in sorted(found.items())
        ]

    def _parts_of(self, side: str, rank: int) -> range:
        """Return the parts of the model's heads that a rank has."""
        ranks, parts = getattr(self, f"{side}_ranks"), getattr(self, f"{side}_parts")
        # Beyond one head a rank: several ranks in a row have the same head.
        copies = max(1, ranks // self.num_heads)
        first = rank // copies * parts
        return range(first, first + parts)


# ---- layers ----


@dataclass(frozen=True)
class LayerShare:
    """The layers that one stage of the source has for one stage of the destination, as a pull or a
    push takes them.
    """

    src_stage: int
    src_layer_range: range
    dst_layer_range: range

    @property
    def keywords(self) -> PullKeywords:
        """For pull_blocks(..., **share.keywords)."""
        return {
            "src_layer_range": self.src_layer_range,
            "dst_layer_range": self.dst_layer_range,
        }


def layer_shares(src_layers: Sequence[int], dst_first: int, dst_count: int) -> list[LayerShare]:
    """Divide the layers of one stage of the destination among the stages of the source.

    Args:
        src_layers: how many layers each stage of the source has, in order.
        dst_first: the first layer of the model that the destination has.
        dst_count: and how many.

    Returns:
        One for each stage of the source that has any of them; its ranges count from the first layer
        of either cache.

    Raises:
        LLMException: LLM_PARAM_INVALID: the source has not all of these layers.
    """
    total = sum(src_layers)
    if not (dst_first >= 0 and dst_count > 0 and dst_first + dst_count <= total):
        refuse(
            f"the destination has layers {dst_first} to {dst_first + dst_count - 1}, the source "
            f"has 0 to {total - 1}"
        )
    shares, start = [], 0
    for stage, count in enumerate(src_layers):
        first, end = max(start, dst_first), min(start + count, dst_first + dst_count)
        if first < end:
            shares.append(
                LayerShare(
                    stage,
                    range(first - start, end - start),
                    range(first - dst_first, end - dst_first),
                )
            )
        start += count
    return shares


class LayerGate(LayerSynchronizer):
    """Lets transfer_cache_async send each layer as soon as the computation says it is ready.

    gate = LayerGate() goes into transfer_cache_async; the forward pass calls gate.ready(layer)
    after each layer, or gate.cancel() when it fails. Any thread may call.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ready: set[int] = set()
        self._is_cancelled = False

    def ready(self, layer_index: int) -> None:
        """Say that a layer of the own cache is computed."""
        check_uint32("layer_index", layer_index)
        with self._changed:
            self._ready.add(layer_index)
            self._changed.notify_all()

    def cancel(self) -> None:
        """Say that no further layer will be ready: the transfer ends, and its results say so."""
        with self._changed:
            self._is_cancelled = True
            self._changed.notify_all()

    def synchronize_layer(self, layer_index: int, timeout_in_millis: int | None) -> bool:
        """Wait until the layer is ready; False: the gate was cancelled, or the time is over."""
        seconds = None if timeout_in_millis is None else timeout_in_millis / 1000
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_cancelled or layer_index in self._ready, seconds
            )
            return layer_index in self._ready


# ---- several caches ----


@dataclass(frozen=True)
class Pull:
    """One pull_blocks of several: its arguments."""

    key: PullKey
    cache: Cache
    src_blocks: Any
    dst_blocks: Any
    keywords: PullKeywords = field(default_factory=PullKeywords)


def pull_many(manager: CacheManager, pulls: Sequence[Pull]) -> None:
    """Do several pull_blocks of one request: of several caches (MLA and its indexer, states of
    mamba), from several peers (ranks, stages), or both.

    Those from one peer run one after the other, as the link has them; those from different peers
    run at the same time, each peer on a thread. The call returns when none runs any more.

    Raises:
        TypeError: an element is not a Pull.
        LLMException, ValueError, TypeError: what the pull with the lowest index among those that
            failed has raised; its text begins with that index. Of a peer, those behind a failed one
            are not begun. What the others have written stays written.
    """
    by_peer: dict[int, list[int]] = {}
    for index, pull in enumerate(pulls):
        check_type(f"pulls[{index}]", pull, Pull)
        by_peer.setdefault(pull.key.cluster_id, []).append(index)
    failures: dict[int, Exception] = {}

    def run(indices: list[int]) -> None:
        for index in indices:
            pull = pulls[index]
            try:
                manager.pull_blocks(
                    pull.key, pull.cache, pull.src_blocks, pull.dst_blocks, **pull.keywords
                )
            except Exception as error:
                failures[index] = error
                return

    first, *others = by_peer.values() or [[]]
    threads = [threading.Thread(target=run, args=(indices,)) for indices in others]
    for thread in threads:
        thread.start()
    run(first)
    for thread in threads:
        thread.join()
    if failures:
        index = min(failures)
        error = failures[index]
        error.args = (f"pulls[{index}] of {len(pulls)}: {error}", *error.args[1:])
        raise error


def _check_positive(name: str, value: int) -> None:
    check_type(name, value, int)
    if value < 1:
        refuse(f"{name} must be at least 1, got {value}")


def _check_rank(name: str, value: int, ranks: int) -> None:
    check_type(name, value, int)
    if not 0 <= value < ranks:
        refuse(f"{name} must be from 0 to {ranks - 1}, got {value}")
