# SPDX-License-Identifier: Apache-2.0
"""What blocks contain: each is filled from a tag, a number that no other block ever had, and a
transfer moves the tag with the bytes. So each word says which block, of which time, it is of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_datadist.testing.pattern import WORD, Words

# One for each tensor and block: [tensor, block].
Tags = NDArray[np.uint64]

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = pow(int(_FACTOR), -1, 1 << 64)
_HALF = np.uint64(32)
# Words of a block that are told apart.
_WORD_BITS = 20
# Words that are worked on at a time.
_CHUNK = 64 << 10


@dataclass(frozen=True)
class WrongBlock:
    """A block with bytes that should not be there."""

    cache: str
    tensor: int
    block: int
    wrong_bytes: int
    offset: int  # of the first of them in the block
    found: str  # what its word is

    def __str__(self) -> str:
        return (
            f"{self.cache}, tensor {self.tensor}, block {self.block}: {self.wrong_bytes} bytes, "
            f"the first at {self.offset}, {self.found}"
        )


def words_of(tags: NDArray[np.uint64], words: int) -> Words:
    """Return the contents of blocks with these tags: [block, word]."""
    steps = np.arange(words, dtype=np.uint64) * _FACTOR
    starts = (tags << np.uint64(_WORD_BITS)) * _FACTOR
    filled: Words = starts[:, np.newaxis] + steps
    # The low bytes of the products are the same for all tags.
    filled ^= filled >> _HALF
    return filled


def describe(word: int) -> str:
    """Say which block's a word is."""
    number = (word ^ word >> int(_HALF)) * _INVERSE % (1 << 64)
    return f"word {number % (1 << _WORD_BITS)} of tag {number >> _WORD_BITS} ({word:#018x})"


def fill(tensor: Words, blocks: NDArray[np.int64], tags: NDArray[np.uint64]) -> None:
    """Write blocks of a tensor, [block, word]."""
    for part in _parts(len(blocks), tensor.shape[1]):
        tensor[blocks[part]] = words_of(tags[part], tensor.shape[1])


def wrong_blocks(
    cache: str, index: int, tensor: Words, tags: NDArray[np.uint64]
) -> list[WrongBlock]:
    """Look at every byte of a tensor, which has these tags."""
    wrong = []
    for part in _parts(len(tags), tensor.shape[1]):
        wanted = words_of(tags[part], tensor.shape[1])
        found = tensor[part]
        for row in np.flatnonzero((found != wanted).any(axis=1)).tolist():
            differs = _bytes(found[row]) != _bytes(wanted[row])
            wrong.append(_wrong_block(cache, index, part.start + row, found[row], differs))
    return wrong


def unexplained_bytes(
    cache: str,
    index: int,
    tensor: Words,
    blocks: NDArray[np.int64],
    before: NDArray[np.uint64],
    sent: NDArray[np.uint64],
) -> list[WrongBlock]:
    """Look at blocks that a failed transfer had begun to write: every byte is of before, of what
    was sent, or zero, which is what an owner sends whose memory is withdrawn during a read.
    """
    wrong = []
    words = tensor.shape[1]
    for place, block in enumerate(blocks.tolist()):
        found = _bytes(tensor[block])
        old, new = (_bytes(words_of(tags[place : place + 1], words)[0]) for tags in (before, sent))
        differs = (found != old) & (found != new) & (found != 0)
        if differs.any():
            wrong.append(_wrong_block(cache, index, block, tensor[block], differs))
    return wrong


def _wrong_block(
    cache: str, index: int, block: int, found: Words, differs: NDArray[np.bool_]
) -> WrongBlock:
    offset = int(np.argmax(differs))
    return WrongBlock(
        cache,
        index,
        block,
        int(np.count_nonzero(differs)),
        offset,
        describe(int(found[offset // WORD])),
    )


def _bytes(words: Words) -> NDArray[np.uint8]:
    return np.ascontiguousarray(words).view(np.uint8)


def _parts(blocks: int, words: int) -> Iterator[slice]:
    """Cut blocks into parts of at most _CHUNK words."""
    rows = max(1, _CHUNK // words)
    for first in range(0, blocks, rows):
        yield slice(first, first + rows)
