# SPDX-License-Identifier: Apache-2.0
"""Bytes that tell where they came from, so that every single one can be checked after a transfer.

The word at place w of a block is noise(w) ^ key, where the key is a hash of who wrote the block, at
which step, and of its tensor and its number. A block that came from elsewhere, is older, or is
shifted differs in nearly every word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Blocks = npt.NDArray[np.uint64]

# Bytes that are worked on at a time: the scratch memory stays in the processor's cache.
_CHUNK_BYTES = 256 << 10


@dataclass(frozen=True)
class Moved:
    """What a transfer did to a cache: its blocks ``dst`` are blocks ``src`` of ``owner``."""

    owner: int
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


def hash_words(words: Words) -> Words:
    """Hash each word (the finalizer of splitmix64); returns a new array."""
    mixed: Words = (words + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


class Pattern:
    """Fills and checks caches of one shape.

    Args:
        blocks: of a tensor.
        block_words: words of 8 bytes in a block.
    """

    def __init__(self, blocks: int, block_words: int) -> None:
        self._numbers = np.arange(blocks, dtype=np.uint64)
        self._noise = hash_words(np.arange(block_words, dtype=np.uint64))
        self._rows = max(1, _CHUNK_BYTES // (8 * block_words))

    def fill(self, tensors: Sequence[Words], owner: int, step: int) -> None:
        """Write what ``owner`` writes at ``step``; tensors are arrays of blocks x words."""
        for index, tensor in enumerate(tensors):
            keys = self._keys(owner, step, index)
            for first in range(0, len(tensor), self._rows):
                rows = slice(first, first + self._rows)
                np.bitwise_xor(self._noise, keys[rows, np.newaxis], out=tensor[rows])

    def check(
        self, tensors: Sequence[Words], owner: int, step: int, moved: Moved | None
    ) -> WrongByte | None:
        """Look at every byte; None when all are what ``fill`` and ``moved`` say."""
        scratch = np.empty((self._rows, len(self._noise)), np.uint64)
        for index, tensor in enumerate(tensors):
            keys = self._keys(owner, step, index)
            if moved is not None:
                keys[moved.dst] = self._keys(moved.owner, step, index)[moved.src]
            for first in range(0, len(tensor), self._rows):
                found = tensor[first : first + self._rows]
                wrong = scratch[: len(found)]
                np.bitwise_xor(found, self._noise, out=wrong)
                wrong ^= keys[first : first + self._rows, np.newaxis]
                if wrong.any():
                    return _first_wrong(index, first, found, wrong)
        return None

    def _keys(self, owner: int, step: int, tensor: int) -> Words:
        place = np.array([(owner << 56) ^ (step << 24) ^ tensor], np.uint64)
        return hash_words(self._numbers ^ hash_words(place))


def _first_wrong(tensor: int, first_block: int, found: Words, wrong: Words) -> WrongByte:
    found_bytes, wrong_bytes = found.view(np.uint8), wrong.view(np.uint8)
    row, offset = np.argwhere(wrong_bytes)[0]
    byte = int(found_bytes[row, offset])
    difference = int(wrong_bytes[row, offset])
    return WrongByte(tensor, first_block + int(row), int(offset), byte, byte ^ difference)
