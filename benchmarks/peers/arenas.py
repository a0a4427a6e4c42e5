# SPDX-License-Identifier: Apache-2.0
"""What the sides of all peers have in common: a piece of memory that their library knows."""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm_datadist._bench import sides
from llm_datadist._bench.memory import Arena, consecutive, page_kind, tensors_at
from llm_datadist._bench.package import Source
from llm_datadist._bench.sides import OWNER, Begun, Pull
from llm_datadist._bench.work import Work
from llm_datadist.testing.actor import Actor
from llm_datadist.testing.memory import words_at
from llm_datadist.testing.pattern import Blocks, Words

NAME = "peer"


@dataclass(frozen=True)
class Setup:
    cache_bytes: int
    options: dict[str, Any] = field(default_factory=dict)  # what the module wants to know


class Owner(sides.Owner):
    """The cache is at ``address``; a subclass makes it reachable."""

    def __init__(self, actor: Actor, setup: Setup) -> None:
        self.size = setup.cache_bytes
        self.options = setup.options
        self.address = self.allocate()

    def allocate(self) -> int:
        self._arena = Arena(self.size, shared=False)
        return self._arena.address

    def fill(self, work: Work) -> Source:
        addrs = consecutive(self.address, work)
        work.fill(tensors_at(addrs, work), OWNER)
        return Source(addrs, page_kind(addrs[0]))


class Puller(sides.Puller):
    """A subclass says how one pull is prepared, which is not timed, and done."""

    def __init__(self, actor: Actor, setup: Setup, owner: Any) -> None:
        self.size = setup.cache_bytes
        self.options = setup.options
        self._arena = Arena(self.size, shared=False)
        self.address = self._arena.address
        self.attach(owner)

    @abstractmethod
    def attach(self, owner: Any) -> None:
        """Make the memory known and find the owner, which said this of itself."""

    def begin(self, work: Work, source: Source) -> Begun:
        own = consecutive(self.address, work)
        self._first, self._their_first = own[0], source.addrs[0]
        self.begin_work(work, source.addrs)
        self.begin_rounds(work, {NAME: self.timed(work, source.addrs, own)}, own)
        pages = page_kind(own[0])
        return Begun(pages if pages == source.pages else f"{pages} (owner: {source.pages})")

    def begin_work(self, work: Work, theirs: list[int]) -> None:
        """Do what is done once for many pulls."""

    def numbers(self, src: Blocks, dst: Blocks, size: int, kind: type) -> tuple[Any, Any]:
        """Return the numbers, from the first tensor on, of blocks at these addresses."""
        theirs = (src - np.uint64(self._their_first)) // np.uint64(size)
        return theirs.astype(kind), ((dst - np.uint64(self._first)) // np.uint64(size)).astype(kind)

    def blocks(self, words: Words, work: Work) -> Words:
        """Return all blocks of a work, a row for each; words start at the first tensor."""
        return words[: work.cache_bytes // 8].reshape(work.tensors * work.blocks, -1)

    def own_blocks(self, work: Work) -> Words:
        return self.blocks(words_at(self.address, self.size // 8), work)

    def prepare(self, src: Blocks, dst: Blocks, size: int) -> Any:
        """Return what ``pull`` takes for blocks at these addresses of both sides."""
        return src, dst, size

    @abstractmethod
    def pull(self, prepared: Any) -> None:
        """Have the blocks when this returns."""

    def timed(self, work: Work, theirs: list[int], own: list[int]) -> Pull:
        clock, pull = time.perf_counter_ns, self.pull

        def timed(src: Blocks, dst: Blocks) -> float:
            prepared = self.prepare(
                work.addresses(theirs, src), work.addresses(own, dst), work.block_bytes
            )
            start = clock()
            pull(prepared)
            return (clock() - start) / 1e3

        return timed


def check(status: Any, right: Any, what: str) -> None:
    if status != right:
        raise RuntimeError(f"{what} answered {status!r}")
