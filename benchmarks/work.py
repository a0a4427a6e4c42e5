# SPDX-License-Identifier: Apache-2.0
"""The work that is timed: W1 to W4, and which bytes it must move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.uint64]

# An odd factor: the words of a cache are all different.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Work:
    """One pull: ``moved`` random blocks of each tensor go to random blocks of the same tensor."""

    name: str
    tensors: int
    blocks: int  # of each tensor
    moved: int
    block_bytes: int
    pulls: int  # timed in each round

    @property
    def tensor_bytes(self) -> int:
        return self.blocks * self.block_bytes

    @property
    def cache_bytes(self) -> int:
        return self.tensors * self.tensor_bytes

    @property
    def moved_bytes(self) -> int:
        return self.tensors * self.moved * self.block_bytes

    def block_list(self, random: np.random.Generator) -> Numbers:
        if self.moved == 1:  # W3 draws thousands of them
            return random.integers(self.blocks, size=1, dtype=np.uint64)
        return random.permutation(self.blocks)[: self.moved].astype(np.uint64)

    def addresses(self, tensor_addrs: list[int], block_list: Numbers) -> Numbers:
        """Return the address of each block that is moved, tensor by tensor."""
        starts = np.array(tensor_addrs, np.uint64)[:, np.newaxis]
        flat: Numbers = (starts + block_list * np.uint64(self.block_bytes)).ravel()
        return flat

    def fill(self, tensors: list[Numbers]) -> None:
        """Write what an owner's cache holds; tensors are arrays of words."""
        for index, tensor in enumerate(tensors):
            first = index * len(tensor)
            for start in range(0, len(tensor), 1 << 20):
                part = tensor[start : start + (1 << 20)]
                part[:] = self._words(first + start, len(part))

    def clear(self, tensors: list[Numbers], block_list: Numbers) -> None:
        """Make sure that none of these blocks is right already."""
        for tensor in tensors:
            rows = tensor.reshape(self.blocks, -1)
            for block in block_list.tolist():
                rows[block] = 0

    def check(self, tensors: list[Numbers], src: Numbers, dst: Numbers, who: str) -> None:
        """Look at every byte that was to be moved. Raises RuntimeError."""
        block_words = self.block_bytes // 8
        for index, tensor in enumerate(tensors):
            rows = tensor.reshape(self.blocks, -1)
            for source, destination in zip(src.tolist(), dst.tolist()):
                first = (index * self.blocks + source) * block_words
                if not np.array_equal(rows[destination], self._words(first, block_words)):
                    raise RuntimeError(
                        f"{self.name}, {who}: wrong bytes in block {destination} of tensor "
                        f"{index}, which should be block {source} of the owner"
                    )

    @staticmethod
    def _words(first: int, count: int) -> Numbers:
        words: Numbers = np.arange(first + 1, first + 1 + count, dtype=np.uint64)
        words *= _FACTOR
        return words


FULL = {
    work.name: work
    for work in (
        Work("W1", tensors=8, blocks=2048, moved=1024, block_bytes=64 << 10, pulls=1),
        Work("W2", tensors=2, blocks=16384, moved=4096, block_bytes=4 << 10, pulls=3),
        Work("W3", tensors=1, blocks=16384, moved=1, block_bytes=4 << 10, pulls=1000),
        Work("W4", tensors=1, blocks=4, moved=1, block_bytes=256 << 20, pulls=1),
    )
}

# The same shapes, small: to see whether everything works, not how fast.
TINY = {
    work.name: work
    for work in (
        Work("W1", tensors=8, blocks=16, moved=8, block_bytes=64 << 10, pulls=1),
        Work("W2", tensors=2, blocks=64, moved=16, block_bytes=4 << 10, pulls=2),
        Work("W3", tensors=1, blocks=64, moved=1, block_bytes=4 << 10, pulls=10),
        Work("W4", tensors=1, blocks=4, moved=1, block_bytes=2 << 20, pulls=1),
    )
}
