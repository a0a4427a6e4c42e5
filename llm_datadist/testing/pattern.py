# SPDX-License-Identifier: Apache-2.0
"""What test caches contain, and what a transfer must make of it.

Every 8-byte word of every cache of a test is different: it is the number (stamp, tensor, index of
the word) times an odd constant, so that each byte varies, and where a misplaced word comes from can
be computed from the word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..cache import CacheDesc, Placement
from ..data_type import BYTES_OF, DataType

__all__ = [
    "WORD",
    "Blocks",
    "Geometry",
    "Moved",
    "Stamp",
    "Words",
    "WrongByte",
    "describe_difference",
    "fill",
    "first_wrong_byte",
    "moved",
    "origin",
]

Words = NDArray[np.uint64]
Blocks = NDArray[np.uint64]

WORD = 8
_FACTOR = 0x9E3779B97F4A7C15
_INVERSE = pow(_FACTOR, -1, 1 << 64)
_MASK = (1 << 64) - 1

# Words that are worked on at a time: the scratch memory stays in the processor's cache.
_CHUNK = 32 << 10

# Tells the contents of caches apart: any number below 2**20.
Stamp = int


@dataclass(frozen=True)
class Geometry:
    """The shape of a cache: block_bytes is a multiple of 8.

    Words are different in up to 2**12 tensors of up to 2**32 words each. The interface is told that
    a block has block_shape elements of data_type; without a block_shape it is one row of them.
    """

    num_tensors: int = 4
    num_blocks: int = 16
    block_bytes: int = 512
    data_type: DataType = DataType.DT_FLOAT16
    block_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.block_bytes <= 0 or self.block_bytes % WORD:
            raise ValueError(
                f"block_bytes must be a positive multiple of {WORD}, got {self.block_bytes}"
            )
        if self.block_shape is None:
            return
        described = math.prod(self.block_shape) * BYTES_OF[self.data_type]
        if described != self.block_bytes:
            raise ValueError(
                f"block_shape {self.block_shape} of {self.data_type.name} has {described} bytes, "
                f"block_bytes is {self.block_bytes}"
            )

    @property
    def words_per_block(self) -> int:
        """8-byte words in a block."""
        return self.block_bytes // WORD

    @property
    def tensor_bytes(self) -> int:
        """Bytes of one tensor."""
        return self.num_blocks * self.block_bytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of all tensors."""
        return self.num_tensors * self.tensor_bytes

    def pool_bytes(self, page_shift: int = 16) -> int:
        """Return the bytes of a pool that holds the cache: each tensor starts on a page."""
        page = 1 << page_shift
        return self.num_tensors * -(-self.tensor_bytes // page) * page

    def desc(self, placement: Placement = Placement.DEVICE) -> CacheDesc:
        """Return the description that the interface takes."""
        row = self.block_bytes // BYTES_OF[self.data_type]
        shape = [self.num_blocks, *(self.block_shape or (row,))]
        return CacheDesc(self.num_tensors, shape, self.data_type, placement)

    def filled(self, stamp: Stamp) -> Words:
        """Return the contents of a cache with this stamp: [tensor, block, word]."""
        words = np.empty((self.num_tensors, self.num_blocks, self.words_per_block), np.uint64)
        for tensor in range(self.num_tensors):
            fill(words[tensor].reshape(-1), stamp, tensor)
        return words


def fill(words: Words, stamp: Stamp, tensor: int) -> None:
    """Write the contents of one whole tensor."""
    steps = _steps(min(words.size, _CHUNK))
    for first in range(0, words.size, _CHUNK):
        part = words[first : first + _CHUNK]
        start = ((stamp << 44) | (tensor << 32)) + first
        np.add(steps[: part.size], np.uint64(start * _FACTOR & _MASK), out=part)


def _steps(count: int) -> Words:
    """Return by how much the first words of a block exceed its first one."""
    steps: Words = np.arange(count, dtype=np.uint64)
    steps *= np.uint64(_FACTOR)
    return steps


@dataclass(frozen=True)
class Moved:
    """What a transfer did to a cache: its blocks dst are blocks src of a cache with this stamp."""

    stamp: Stamp
    src: Blocks
    dst: Blocks


@dataclass(frozen=True)
class WrongByte:
    """The first byte that is not what it should be."""

    tensor: int
    block: int
    offset: int  # in the block
    found: int
    wanted: int


def first_wrong_byte(
    tensors: Sequence[Words], stamp: Stamp, moved: Moved | None = None
) -> WrongByte | None:
    """Look at every byte of a cache where it is; None when all are right.

    Args:
        tensors: of the cache, [block, word].
        stamp: that it was filled with.
        moved: what happened to it since then.
    """
    scratch = np.empty(_CHUNK, np.uint64)
    for index, tensor in enumerate(tensors):
        blocks, words = tensor.shape
        starts = _starts(stamp, index, np.arange(blocks, dtype=np.uint64), words)
        if moved is not None:
            starts[moved.dst] = _starts(moved.stamp, index, moved.src, words)
        steps = _steps(min(words, _CHUNK))
        for row, column, found in _parts(tensor):
            first = starts[row : row + len(found)] + np.uint64(column * _FACTOR & _MASK)
            wanted = scratch[: found.size].reshape(found.shape)
            np.add(first[:, np.newaxis], steps[: found.shape[1]], out=wanted)
            if not np.array_equal(found, wanted):
                return _describe_byte(index, row, column, found, wanted)
    return None


def _starts(stamp: Stamp, tensor: int, blocks: Blocks, words: int) -> Words:
    """Return the first word of each block; a block has that many words."""
    numbers = blocks * np.uint64(words) + np.uint64((stamp << 44 | tensor << 32) & _MASK)
    starts: Words = numbers * np.uint64(_FACTOR)
    return starts


def _parts(tensor: Words) -> Iterator[tuple[int, int, Words]]:
    """Cut a tensor into parts of at most _CHUNK words; yields first block, first word, part."""
    blocks, words = tensor.shape
    rows = max(1, _CHUNK // words)
    for row in range(0, blocks, rows):
        for column in range(0, words, _CHUNK):
            yield row, column, tensor[row : row + rows, column : column + _CHUNK]


def _describe_byte(
    tensor: int, first_block: int, first_word: int, found: Words, wanted: Words
) -> WrongByte:
    found_bytes = np.ascontiguousarray(found).view(np.uint8)
    wanted_bytes = wanted.view(np.uint8)
    row, offset = (int(place) for place in np.argwhere(found_bytes != wanted_bytes)[0])
    return WrongByte(
        tensor,
        first_block + row,
        first_word * WORD + offset,
        int(found_bytes[row, offset]),
        int(wanted_bytes[row, offset]),
    )


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
