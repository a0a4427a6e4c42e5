# SPDX-License-Identifier: Apache-2.0
"""What test caches contain, and what a transfer must make of it.

Every 8-byte word of every cache of a test is different: it is the number (stamp, tensor, index of
the word) times an odd constant, so that each byte varies, and where a misplaced word comes from can
be computed from the word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..cache import CacheDesc, Placement
from ..data_type import DataType

__all__ = ["WORD", "Geometry", "Stamp", "Words", "describe_difference", "fill", "moved", "origin"]

Words = NDArray[np.uint64]

WORD = 8
_FACTOR = 0x9E3779B97F4A7C15
_INVERSE = pow(_FACTOR, -1, 1 << 64)

# Tells the contents of caches apart: any number below 2**20.
Stamp = int


@dataclass(frozen=True)
class Geometry:
    """The shape of a test cache: block_bytes is a multiple of 8."""

    num_tensors: int = 4
    num_blocks: int = 16
    block_bytes: int = 512

    @property
    def words_per_block(self) -> int:
        """8-byte words in a block."""
        return self.block_bytes // WORD

    @property
    def tensor_bytes(self) -> int:
        """Bytes of one tensor."""
        return self.num_blocks * self.block_bytes

    def desc(self, placement: Placement = Placement.DEVICE) -> CacheDesc:
        """Return the description that the interface takes: float16 elements."""
        shape = [self.num_blocks, self.block_bytes // 2]
        return CacheDesc(self.num_tensors, shape, DataType.DT_FLOAT16, placement)

    def filled(self, stamp: Stamp) -> Words:
        """Return the contents of a cache with this stamp: [tensor, block, word]."""
        words = np.empty((self.num_tensors, self.num_blocks, self.words_per_block), np.uint64)
        for tensor in range(self.num_tensors):
            fill(words[tensor].reshape(-1), stamp, tensor)
        return words


def fill(words: Words, stamp: Stamp, tensor: int) -> None:
    """Write the contents of one whole tensor."""
    start = (stamp << 44) | (tensor << 32)
    words[:] = np.arange(start, start + words.size, dtype=np.uint64)
    words *= np.uint64(_FACTOR)


def origin(word: int) -> tuple[Stamp, int, int]:
    """Return the stamp, the tensor and the index that this word was made from."""
    number = word * _INVERSE % (1 << 64)
    return number >> 44, number >> 32 & 0xFFF, number & 0xFFFFFFFF


def moved(
    destination: Words,
    source: Words,
    src_blocks: Iterable[int],
    dst_blocks: Iterable[int],
    src_tensors: Sequence[int] | None = None,
    dst_tensors: Sequence[int] | None = None,
) -> Words:
    """Return what destination must be after a transfer: block src_blocks[k] is at dst_blocks[k].

    Args:
        destination: [tensor, block, word] before the transfer; stays as it is, and what is not
            written stays in the result.
        source: the same of the source.
        src_blocks: and dst_blocks, equally many.
        dst_blocks: see there.
        src_tensors: and dst_tensors: which tensors, equally many; None is all of them.
        dst_tensors: see there.
    """
    after: Words = destination.copy()
    pairs = zip(
        range(len(source)) if src_tensors is None else src_tensors,
        range(len(destination)) if dst_tensors is None else dst_tensors,
    )
    src_list, dst_list = list(src_blocks), list(dst_blocks)
    for src_tensor, dst_tensor in pairs:
        after[dst_tensor][dst_list] = source[src_tensor][src_list]
    return after


def describe_difference(actual: Words, expected: Words) -> str:
    """Say where the first wrong word is and where it comes from; "" when all are right."""
    if actual.shape != expected.shape:
        return f"the shape is {actual.shape}, expected {expected.shape}"
    wrong = np.argwhere(actual != expected)
    if not len(wrong):
        return ""
    tensor, block, word = (int(index) for index in wrong[0])

    def name(value: int) -> str:
        stamp, from_tensor, index = origin(value)
        return (
            f"{value:#018x} (stamp {stamp}, tensor {from_tensor}, "
            f"block {index // actual.shape[2]}, word {index % actual.shape[2]})"
        )

    blocks = sorted({(int(place[0]), int(place[1])) for place in wrong})
    return (
        f"{len(wrong)} words are wrong, in (tensor, block) {blocks[:8]}; first is tensor "
        f"{tensor}, block {block}, word {word}: {name(int(actual[tensor, block, word]))} instead "
        f"of {name(int(expected[tensor, block, word]))}"
    )
