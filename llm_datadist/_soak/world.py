# SPDX-License-Identifier: Apache-2.0
"""What the soak knows of its peers: the tags of all blocks, and which links can be used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import count

import numpy as np

from llm_datadist.testing import Peer
from llm_datadist.testing.actor import ClusterAddress

from .blocks import Tags
from .plan import CACHES, TENSORS_PER_LAYER, Season, Transfer
from .troupe import Player


class Pair(Enum):
    """What is known of the link between two peers."""

    NONE = 1  # neither has an end of it
    LINKED = 2
    UNKNOWN = 3  # one may have an end of a link that the other one has not


@dataclass
class CacheState:
    """What a cache must contain."""

    tags: Tags
    born: int
    addrs: list[int]
    cache_id: int = 0
    # Blocks that a failed transfer was to write, and which one, until the next one writes them.
    suspects: dict[int, str] = field(default_factory=dict)


@dataclass
class PeerState:
    """A peer with its engine."""

    index: int
    player: Player
    address: tuple[str, int] = ("", 0)
    caches: dict[str, CacheState] = field(default_factory=dict)
    # Changes with each engine.
    incarnation: int = 0

    @property
    def peer(self) -> Peer:
        """The process."""
        return self.player.peer

    @property
    def cluster(self) -> ClusterAddress:
        """What others link to it with."""
        return ClusterAddress(self.index + 1, self.address)


class World:
    """The peers of a season."""

    def __init__(self, season: Season) -> None:
        self.season = season
        self.geometry = season.geometry
        self.peers: list[PeerState] = []
        self._clock = count(1)
        self._next_tag = 1
        self._pairs: dict[frozenset[int], Pair] = {}
        self._made: dict[frozenset[int], int] = {}

    def now(self) -> int:
        """Return a number that grows."""
        return next(self._clock)

    # ------------------------------------------------------------------------------------- tags

    def fresh_tags(self, blocks: int) -> Tags:
        """Return tags that were never used, [tensor, block]."""
        total = self.geometry.num_tensors * blocks
        tags = np.arange(self._next_tag, self._next_tag + total, dtype=np.uint64)
        self._next_tag += total
        return tags.reshape(self.geometry.num_tensors, blocks)

    def new_cache(self) -> CacheState:
        """Return the state of a cache that is about to be made."""
        return CacheState(self.fresh_tags(self.geometry.num_blocks), self.now(), [])

    def tensors_of(self, what: Transfer) -> list[int]:
        """Return the tensors that a transfer moves."""
        if what.layers is None:
            return list(range(self.geometry.num_tensors))
        return [
            layer * TENSORS_PER_LAYER + index
            for layer in what.layers
            for index in range(TENSORS_PER_LAYER)
        ]

    def sent_tags(self, what: Transfer) -> tuple[Tags, Tags]:
        """Return what the destination's blocks have, and what they have if all is moved."""
        (source, from_cache), (destination, to_cache) = what.source, what.destination
        before = self.peers[destination].caches[to_cache].tags[:, list(what.dst)].copy()
        after = before.copy()
        tensors = self.tensors_of(what)
        after[tensors] = self.peers[source].caches[from_cache].tags[tensors][:, list(what.src)]
        return before, after

    def bytes_of(self, what: Transfer) -> int:
        """Return the bytes that one call moves."""
        return len(self.tensors_of(what)) * len(what.dst) * self.geometry.block_bytes

    # ------------------------------------------------------------------------------------- links

    def pair(self, one: int, two: int) -> Pair:
        """Return what is known of the link of two peers."""
        return self._pairs.get(frozenset((one, two)), Pair.NONE)

    def set_pair(self, one: int, two: int, state: Pair) -> None:
        """Note what is known of it now."""
        self._pairs[frozenset((one, two))] = state
        if state is Pair.LINKED:
            self._made[frozenset((one, two))] = self.now()

    def forget(self, one: int, others: Iterable[int] | None = None) -> None:
        """Note that one end of each link of a peer may be gone."""
        for other in range(len(self.peers)) if others is None else others:
            if other != one and self.pair(one, other) is not Pair.NONE:
                self.set_pair(one, other, Pair.UNKNOWN)

    def knows(self, one: int, two: int, caches: Sequence[tuple[int, str]]) -> bool:
        """Tell whether the link of two peers is there and younger than these caches."""
        if self.pair(one, two) is not Pair.LINKED:
            return False
        made = self._made[frozenset((one, two))]
        return all(self.peers[peer].caches[cache].born < made for peer, cache in caches)

    def is_usable(self, one: int, two: int) -> bool:
        """Tell whether the link of two peers knows all that they have."""
        return self.knows(one, two, [(peer, cache) for peer in (one, two) for cache in CACHES])
