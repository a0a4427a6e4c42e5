# SPDX-License-Identifier: Apache-2.0
"""The work that is timed: W1 to W4, and sweeps over the size and the number of blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_datadist._tools.units import in_words
from llm_datadist.testing import Geometry
from llm_datadist.testing.pattern import (
    Blocks,
    Moved,
    Stamp,
    Words,
    fill,
    first_wrong_byte,
)

# Up to this size what counts is the time of a call, not the bytes in a second.
_SMALL_BYTES = 64 << 10


@dataclass(frozen=True)
class Work:
    """One pull: ``moved`` random blocks of each tensor go to random blocks of the same tensor."""

    name: str
    tensors: int
    blocks: int  # of each tensor
    moved: int
    block_bytes: int
    pulls: int  # timed in each round
    group: str = "work"  # or the name of the sweep that it is a point of

    @property
    def geometry(self) -> Geometry:
        """Return the shape of its caches."""
        return Geometry(self.tensors, self.blocks, self.block_bytes)

    @property
    def cache_bytes(self) -> int:
        """Bytes of one cache."""
        return self.geometry.cache_bytes

    @property
    def moved_bytes(self) -> int:
        """Bytes that one pull moves."""
        return self.tensors * self.moved * self.block_bytes

    @property
    def is_small(self) -> bool:
        """Whether the time of a call says more than bytes in a second."""
        return self.moved_bytes <= _SMALL_BYTES

    @property
    def shape(self) -> str:
        """What one pull moves, in words: "8 x 1024 x 64 KiB" for 8 tensors."""
        tensors = f"{self.tensors} x " if self.tensors > 1 else ""
        return f"{tensors}{self.moved} x {in_words(self.block_bytes)}"

    def block_list(self, random: np.random.Generator) -> Blocks:
        """Draw the blocks of one side."""
        if self.moved == 1:  # W3 draws thousands of them
            return random.integers(self.blocks, size=1, dtype=np.uint64)
        return random.permutation(self.blocks)[: self.moved].astype(np.uint64)

    def addresses(self, tensor_addrs: list[int], block_list: Blocks) -> Blocks:
        """Return the address of each block that is moved, tensor by tensor."""
        starts = np.array(tensor_addrs, np.uint64)[:, np.newaxis]
        flat: Blocks = (starts + block_list * np.uint64(self.block_bytes)).ravel()
        return flat

    def fill(self, tensors: list[Words], stamp: Stamp) -> None:
        """Write the contents that belong to a stamp; tensors are arrays of words."""
        for index, tensor in enumerate(tensors):
            fill(tensor, stamp, index)

    def check(
        self, tensors: list[Words], own: Stamp, source: Stamp, src: Blocks, dst: Blocks, who: str
    ) -> None:
        """Look at every byte after a pull from the cache with the stamp source into the one with
        the stamp own. Raises RuntimeError.
        """
        blocks = [tensor.reshape(self.blocks, -1) for tensor in tensors]
        wrong = first_wrong_byte(blocks, own, Moved(source, src, dst))
        if wrong is not None:
            raise RuntimeError(
                f"{self.name}, {who}: byte {wrong.offset} of block {wrong.block} of tensor "
                f"{wrong.tensor} is 0x{wrong.found:02x}, should be 0x{wrong.wanted:02x}"
            )


def _by_name(*works: Work) -> dict[str, Work]:
    return {work.name: work for work in works}


FULL = _by_name(
    Work("W1", tensors=8, blocks=2048, moved=1024, block_bytes=64 << 10, pulls=1),
    Work("W2", tensors=2, blocks=16384, moved=4096, block_bytes=4 << 10, pulls=3),
    Work("W3", tensors=1, blocks=16384, moved=1, block_bytes=4 << 10, pulls=1000),
    Work("W4", tensors=1, blocks=4, moved=1, block_bytes=256 << 20, pulls=1),
)

# The same shapes, small: to see whether everything works, not how fast.
TINY = _by_name(
    Work("W1", tensors=8, blocks=16, moved=8, block_bytes=64 << 10, pulls=1),
    Work("W2", tensors=2, blocks=64, moved=16, block_bytes=4 << 10, pulls=2),
    Work("W3", tensors=1, blocks=64, moved=1, block_bytes=4 << 10, pulls=10),
    Work("W4", tensors=1, blocks=4, moved=1, block_bytes=2 << 20, pulls=1),
)


def sweep(name: str, tiny: bool) -> list[Work]:
    """Return the points of a sweep.

    Args:
        name: of SWEEPS.
        tiny: few and small ones.
    """
    return _SWEEPS[name](tiny)


def _sizes(tiny: bool) -> list[Work]:
    """Blocks from 1 KiB to 64 MiB; half of a cache is moved, always the same number of bytes."""
    cache_bytes = 1 << 20 if tiny else 256 << 20
    shifts = (10, 14, 18) if tiny else range(10, 27, 2)
    return [_point("size", cache_bytes, 1 << shift, cache_bytes >> (shift + 1)) for shift in shifts]


def _counts(tiny: bool) -> list[Work]:
    """1 to 4096 blocks of 64 KiB out of twice as many."""
    shifts = (0, 2) if tiny else range(0, 13, 2)
    return [_point("count", (2 << shifts[-1]) << 16, 1 << 16, 1 << shift) for shift in shifts]


def _point(group: str, cache_bytes: int, block_bytes: int, moved: int) -> Work:
    # As many pulls as make 16 MiB: a single small one says nothing.
    pulls = min(200, max(1, (16 << 20) // (moved * block_bytes)))
    return Work(
        f"{group} {moved} x {in_words(block_bytes)}",
        1,
        cache_bytes // block_bytes,
        moved,
        block_bytes,
        pulls,
        group,
    )


_SWEEPS = {"size": _sizes, "count": _counts}
SWEEPS = tuple(_SWEEPS)
