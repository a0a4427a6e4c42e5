# SPDX-License-Identifier: Apache-2.0
"""What a season of the soak consists of, drawn from the seed alone: what came of earlier steps has
no influence, so a seed repeats the sequence.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from llm_datadist.testing import Geometry

MAPPED_CACHE, OWN_CACHE, ROWS_CACHE = "pool", "own", "rows"
# Every peer has all; the model ids of their keys. That of rows is contiguous and has no key.
CACHES = {MAPPED_CACHE: 0, OWN_CACHE: 1, ROWS_CACHE: None}
PAGED = (MAPPED_CACHE, OWN_CACHE)
# What each kind of a transfer is; a task is one that returns at once, a row is pull_cache or
# push_cache.
PULLS = ("pull", "pull task", "row pull")
PUSHES = ("push", "push task", "row push", "async")
TENSORS_PER_LAYER = 2

_GEOMETRIES = (
    Geometry(num_tensors=4, num_blocks=32, block_bytes=512),
    Geometry(num_tensors=8, num_blocks=64, block_bytes=4 << 10),
    Geometry(num_tensors=4, num_blocks=32, block_bytes=64 << 10),
    Geometry(num_tensors=2, num_blocks=16, block_bytes=512 << 10),
    Geometry(num_tensors=6, num_blocks=48, block_bytes=1000),
)
_MEMORY_KINDS = ("numpy", "page aligned", "odd", "malloc", "mmap")
_TIMEOUTS_MS = (300, 500, 1000)
_TRANSPORTS = ("mapped,cma,tcp", "tcp", "cma,tcp", "mapped,cma,tcp")

# For how long a push that failed waits to have its end confirmed.
_CONFIRM_MS = 100

# How often a round has how many disturbances, out of 10.
_DISTURBANCES = (0, 0, 0, 1, 1, 1, 1, 1, 2, 3)
# How long a transfer is repeated in a round: so that a disturbance comes into one of its calls.
_CALM_MS, _REPEAT_MS = 0, 80


@dataclass(frozen=True)
class Transfer:
    """A transfer from one cache to another, by `caller`; a copy has one peer only."""

    kind: str  # one of PULLS or PUSHES, or copy
    caller: int
    other: int
    own_cache: str  # of the caller
    other_cache: str
    src: tuple[int, ...]
    dst: tuple[int, ...]
    layers: range | None  # None: all of them
    repeat_ms: int
    barrier: str  # unlink, unregister or notice: which one to call if the end is not confirmed
    cancel_ms: int = -1  # when a task is cancelled; -1: it is not

    @property
    def source(self) -> tuple[int, str]:
        """The peer and the cache that is read."""
        if self.kind in PUSHES:
            return self.caller, self.own_cache
        return self.other, self.other_cache

    @property
    def destination(self) -> tuple[int, str]:
        """The peer and the cache that is written."""
        if self.kind in PUSHES:
            return self.other, self.other_cache
        return self.caller, self.own_cache

    @property
    def writes_to_a_peer(self) -> bool:
        """Whether the caller writes into the memory of another process."""
        return self.kind in PUSHES

    def __str__(self) -> str:
        (source, from_cache), (destination, to_cache) = self.source, self.destination
        layers = "" if self.layers is None else f" layers {self.layers.start}..{self.layers[-1]}"
        cancelled = "" if self.cancel_ms < 0 else f", cancelled after {self.cancel_ms} ms"
        return (
            f"{self.kind} by {self.caller}: {source}.{from_cache} {list(self.src)} to "
            f"{destination}.{to_cache} {list(self.dst)}{layers}{cancelled}"
        )


@dataclass(frozen=True)
class Disturbance:
    """What happens to a peer while transfers run.

    kind is kill, stop, go on, barrier (other is the one that was stopped, and peer unlinks it by
    force), restart, unlink, forced unlink or drop.
    """

    at_ms: int
    kind: str
    peer: int
    other: int = -1
    cache: str = ""

    def __str__(self) -> str:
        other = "" if self.other < 0 else f" {self.other}"
        return (
            f"{self.kind} {self.peer}{other}{' ' * bool(self.cache)}{self.cache} at {self.at_ms} ms"
        )


@dataclass(frozen=True)
class LinkStep:
    """What two peers do about their link before the transfers of a round: if they can use it, and
    if not. Each is "" (nothing), bare (link_clusters), plain or clean (after an unlink_clusters of
    one end, or a forced one of each).
    """

    initiator: int
    acceptor: int
    if_usable: str
    if_not: str


@dataclass(frozen=True)
class Round:
    """Some changes while nothing runs, links, transfers at the same time, and disturbances."""

    renewed: tuple[tuple[int, str], ...]  # caches that are dropped and made again
    switched: tuple[int, ...]  # peers that change their role, unlinked before
    refused: tuple[int, ...]  # peers that try to, linked as they are
    links: tuple[LinkStep, ...]
    members: tuple[int, ...]  # peers that are a communicator while the transfers run
    transfers: tuple[Transfer, ...]
    disturbances: tuple[Disturbance, ...]

    def __str__(self) -> str:
        parts = [*map(str, self.transfers), *map(str, self.disturbances)]
        return "; ".join(parts)


@dataclass(frozen=True)
class Season:
    """Engines that are opened alike, some rounds of what they do, and their end."""

    number: int
    peers: int
    one_sided: bool
    transport: str
    geometry: Geometry
    memory_kind: str
    timeout_ms: int
    rounds: tuple[Round, ...]

    def __str__(self) -> str:
        mode = "one-sided" if self.one_sided else "request mode"
        return (
            f"season {self.number}: {mode}, {self.transport}, {self.geometry.num_tensors} tensors "
            f"of {self.geometry.num_blocks} blocks of {self.geometry.block_bytes} bytes, "
            f"{self.memory_kind} memory, {self.timeout_ms} ms"
        )


def draw_season(seed: int, number: int, peers: int, transports: Sequence[str] = ()) -> Season:
    """Draw a season; equal arguments give equal seasons."""
    rng = random.Random(f"{seed}/{number}/{peers}")
    geometry = rng.choice(_GEOMETRIES)
    one_sided = rng.random() < 0.65
    transport = rng.choice(tuple(transports) or _TRANSPORTS)
    kind, timeout = rng.choice(_MEMORY_KINDS), rng.choice(_TIMEOUTS_MS)
    draw = _RoundDraw(rng, peers, one_sided, geometry, timeout)
    rounds = tuple(draw.round(first=not index) for index in range(rng.randint(6, 14)))
    return Season(number, peers, one_sided, transport, geometry, kind, timeout, rounds)


class _RoundDraw:
    def __init__(
        self, rng: random.Random, peers: int, one_sided: bool, geometry: Geometry, timeout_ms: int
    ) -> None:
        self._rng = rng
        self._peers = range(peers)
        self._one_sided = one_sided
        self._geometry = geometry
        self._timeout_ms = timeout_ms

    def round(self, first: bool) -> Round:
        rng = self._rng
        renewed = [(peer, cache) for peer in self._peers for cache in CACHES if rng.random() < 0.06]
        switched = [peer for peer in self._peers if rng.random() < 0.04]
        refused = [peer for peer in self._peers if rng.random() < 0.04]
        links = [self._link(one, two, first) for one in self._peers for two in range(one)]
        disturbances = self._disturbances()
        transfers = self._transfers(_REPEAT_MS if disturbances else _CALM_MS)
        members = [] if self._one_sided or disturbances else self._members()
        return Round(
            () if first else tuple(renewed),
            () if first else tuple(switched),
            tuple(refused),
            tuple(links),
            tuple(members),
            tuple(transfers),
            tuple(disturbances),
        )

    def _link(self, one: int, two: int, first: bool) -> LinkStep:
        rng = self._rng
        initiator, acceptor = rng.sample([one, two], 2)
        usable = rng.choice(["", "", "", "", "", "", "bare", "plain", "clean"])
        not_usable = rng.choice(["", "bare", "clean", "clean", "clean", "clean"])
        return LinkStep(initiator, acceptor, usable, "clean" if first else not_usable)

    def _members(self) -> list[int]:
        """Peers that join a communicator: none, or 2 to 4."""
        rng = self._rng
        count = rng.choice([0, 2, 3, 4])
        return rng.sample(self._peers, min(count, len(self._peers)))

    def _transfers(self, repeat_ms: int) -> list[Transfer]:
        rng = self._rng
        # What is read in a round is not written in it, and each block is written once.
        sources, free = {}, {}
        for peer in self._peers:
            for cache in CACHES:
                blocks = rng.sample(range(self._geometry.num_blocks), self._geometry.num_blocks)
                half = len(blocks) // 2
                sources[peer, cache], free[peer, cache] = blocks[:half], blocks[half:]
        transfers = []
        for _ in range(rng.randint(len(self._peers), 3 * len(self._peers))):
            transfer = self._transfer(sources, free, repeat_ms)
            if transfer is not None:
                transfers.append(transfer)
        return transfers

    def _transfer(
        self,
        sources: dict[tuple[int, str], list[int]],
        free: dict[tuple[int, str], list[int]],
        repeat_ms: int,
    ) -> Transfer | None:
        rng = self._rng
        kinds = ["pull", "pull", "pull task", "row pull", "async", "copy"]
        kinds += ["push", "push", "push task", "row push"] * self._one_sided
        kind = rng.choice(kinds)
        caller, other = rng.sample(self._peers, 2)
        own, others = rng.choice(PAGED), rng.choice(PAGED)
        is_row = kind in ("row pull", "row push")
        if is_row:
            own = others = ROWS_CACHE
        if kind == "copy":
            other, others = caller, own
        layers = None if is_row else self._layers(kind)
        cancel_ms = rng.randint(0, 20) if kind.endswith("task") and rng.random() < 0.3 else -1
        shape = Transfer(kind, caller, other, own, others, (), (), layers, repeat_ms, "")
        room = free[shape.destination]
        count = min(1 if is_row else rng.choice([1, 2, 5, 12, 100]), len(room))
        if count == 0:
            return None
        dst, room[:] = room[:count], room[count:]
        src = rng.choices(sources[shape.source], k=count)
        barriers = ["unlink", "notice"] + ["unregister"] * (others != MAPPED_CACHE)
        return Transfer(
            kind,
            caller,
            other,
            own,
            others,
            tuple(src),
            tuple(dst),
            layers,
            0 if kind == "copy" else repeat_ms,
            rng.choice(barriers),
            cancel_ms,
        )

    def _layers(self, kind: str) -> range | None:
        count = self._geometry.num_tensors // TENSORS_PER_LAYER
        first = self._rng.randrange(count)
        last = self._rng.randint(first, count - 1)
        all_of_them = self._rng.random() < 0.6
        return None if all_of_them or kind == "copy" else range(first, last + 1)

    def _disturbances(self) -> list[Disturbance]:
        found: list[Disturbance] = []
        for _ in range(self._rng.choice(_DISTURBANCES)):
            found += self._disturbance(found)
        return sorted(found, key=lambda each: each.at_ms)

    def _disturbance(self, before: list[Disturbance]) -> list[Disturbance]:
        rng = self._rng
        kinds = ["kill", "stop", "stop", "restart", "unlink", "forced unlink", "drop", "drop"]
        kind, at = rng.choice(kinds), rng.randint(2, 90)
        peer, other = rng.sample(self._peers, 2)
        cache = rng.choice([*CACHES])
        # One process is killed, stopped or restarted once in a round, and nothing else is done to
        # it then. Nobody is restarted while another one is stopped: finalize() cannot say that a
        # stopped peer is still in the memory.
        taken = {each.peer for each in before} | {each.other for each in before}
        kinds_before = {each.kind for each in before}
        if peer in taken or other in taken or {kind, *kinds_before} >= {"stop", "restart"}:
            return []
        if kind == "stop":
            return self._stop(at, peer, taken)
        if kind in ("kill", "restart"):
            return [Disturbance(at, kind, peer)]
        if kind == "drop":
            return [Disturbance(at, kind, peer, cache=cache)]
        return [Disturbance(at, kind, peer, other)]

    def _stop(self, at: int, peer: int, taken: set[int]) -> list[Disturbance]:
        """A stop that some calls outlast and others do not, with barriers of some of the others."""
        rng = self._rng
        # The third one ends while pushes that have failed wait for their end to be confirmed.
        lengths = [0.1, 0.5, 1 + rng.random() * _CONFIRM_MS / self._timeout_ms, 1.3]
        length = round(self._timeout_ms * rng.choice(lengths))
        # A peer that is stopped itself cannot call one.
        free = [each for each in self._peers if each != peer and each not in taken]
        others = [each for each in free if rng.random() < 0.4]
        barriers = [
            Disturbance(at + rng.randint(1, length), "barrier", each, peer) for each in others
        ]
        return [
            Disturbance(at, "stop", peer),
            *barriers,
            Disturbance(at + length, "go on", peer),
        ]
