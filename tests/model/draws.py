# SPDX-License-Identifier: Apache-2.0
"""What the rules draw: numbers, of which a rule takes the rest by what there is, and lists."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st

from tests.model.players import fold
from tests.model.world import Layers

few = st.integers(0, 11)
small = st.integers(0, 3)
seldom = st.integers(0, 15).map(lambda n: n == 15)
block_lists = st.lists(st.integers(0, 11), min_size=1, max_size=4)
layer_ranges = st.sampled_from([None, None, None, range(1), range(1, 2), range(2), range(3)])
layers = st.one_of(
    st.just(Layers()),
    st.sampled_from([Layers(1, range(at, at + 1), range(at, at + 1)) for at in (0, 1)]),
    st.builds(Layers, st.sampled_from([2, 2, 1, 3]), layer_ranges, layer_ranges),
)
shapes = st.tuples(st.booleans(), st.sampled_from([2, 2, 2, 2, 4, 4, 1, 3]), small, few)


@dataclass(frozen=True)
class Aim:
    """Which cache of an engine is to exchange bytes with which key of another engine."""

    who: int
    whom: int
    which: int
    what: int


@dataclass(frozen=True)
class Lists:
    """Source and destination blocks; in range unless they shall be wild."""

    src: list[int]
    dst: list[int]
    wild: bool

    def sources(self, count: int, like: list[int]) -> list[int]:
        """Return as many sources as there are in the other list, in range for so many blocks."""
        if self.wild:
            return self.src
        return [self.src[i % len(self.src)] % count for i in range(len(like))]

    def destinations(self, count: int) -> list[int]:
        """Return the destinations without repetition."""
        return fold(self.dst, count, self.wild)


aims = st.builds(Aim, small, few, few, few)
lists = st.builds(Lists, block_lists, block_lists, seldom)
