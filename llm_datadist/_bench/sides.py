# SPDX-License-Identifier: Apache-2.0
"""The two processes of a benchmark, as far as what they measure does not matter.

The owner has the caches, the puller pulls from them and takes the times. The process that started
them asks (_cli/_processes.py); each class here up to Begun is one request, or an answer.
"""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from llm_datadist._cli import _processes
from llm_datadist._cli._pattern import Blocks

from .memory import tensors_at
from .work import Work

OWNER, PULLER = 1, 2  # whose bytes they are
_SEED = 20240229


@dataclass(frozen=True)
class OpenOwner:
    """Be the owner. Answer: what the puller must know."""

    setup: Any


@dataclass(frozen=True)
class OpenPuller:
    """Be the puller of an owner that answered this. No answer."""

    setup: Any
    owner: Any


@dataclass(frozen=True)
class Fill:
    """Owner: have the cache of a work, filled. Answer: what the puller must know."""

    work: Work


@dataclass(frozen=True)
class Begin:
    """Puller: do a work once, and check every byte. Answer: Begun."""

    work: Work
    source: Any  # what the owner answered


@dataclass(frozen=True)
class Round:
    """Puller: do a round of the work. Answer: a time in microseconds for each way to pull."""

    warm_up: bool  # first do the work once without a look at the clock


@dataclass(frozen=True)
class End:
    """Be done with the work, so that another one can come. No answer."""


@dataclass(frozen=True)
class Begun:
    """The work can be timed, or there is an obstacle."""

    pages: str = ""
    obstacle: str = ""


Pull = Callable[[Blocks, Blocks], float]  # block lists of both sides; returns microseconds


class Owner(ABC):
    """The side that has the blocks."""

    @abstractmethod
    def info(self) -> Any:
        """Return what the puller must know before there is any work."""

    @abstractmethod
    def fill(self, work: Work) -> Any:
        """Have the cache of a work; returns what the puller must know of it."""

    def end(self) -> None:  # noqa: B027 - what is reused needs no end
        """Be done with the work."""

    def close(self) -> None:  # noqa: B027
        """Be done with everything."""


class Puller(ABC):
    """The side that pulls, in one way or in several, and takes the times."""

    @abstractmethod
    def begin(self, work: Work, source: Any) -> Begun:
        """Get ready for a work, and call ``begin_rounds``."""

    def begin_rounds(self, work: Work, pulls: dict[str, Pull], addrs: list[int]) -> None:
        """Do the work once in each way, and look at every byte. Raises RuntimeError.

        Args:
            work: what to do.
            pulls: the ways.
            addrs: of the tensors that the blocks go to.
        """
        self._work, self._pulls, self._order = work, pulls, list(pulls)
        self._random = np.random.default_rng(_SEED)
        tensors = tensors_at(addrs, work)
        for name, pull in pulls.items():
            work.fill(tensors, PULLER)
            src, dst = work.block_list(self._random), work.block_list(self._random)
            pull(src, dst)
            work.check(tensors, PULLER, OWNER, src, dst, name)

    def round(self, warm_up: bool) -> dict[str, float]:
        """Do the work in each way some times; returns the medians, in microseconds."""
        work, random = self._work, self._random
        if warm_up:
            for pull in self._pulls.values():
                pull(work.block_list(random), work.block_list(random))
        times: dict[str, list[float]] = {name: [] for name in self._order}
        for _ in range(work.pulls):
            for name in self._order:
                src, dst = work.block_list(random), work.block_list(random)
                times[name].append(self._pulls[name](src, dst))
            # Nobody is always the one who finds the caches as his rival left them.
            self._order.append(self._order.pop(0))
        self._order.append(self._order.pop(0))
        return {name: statistics.median(each) for name, each in times.items()}

    def end(self) -> None:  # noqa: B027
        """Be done with the work."""

    def close(self) -> None:  # noqa: B027
        """Be done with everything."""


class _Side:
    """Is told what it is, and then does what it is asked."""

    def __init__(self, owner: Callable[[Any], Owner], puller: Callable[[Any, Any], Puller]) -> None:
        self._make_owner, self._make_puller = owner, puller
        self.side: Any = None

    def handle(self, request: Any) -> Any:
        if isinstance(request, OpenOwner):
            self.side = self._make_owner(request.setup)
            return self.side.info()
        if isinstance(request, OpenPuller):
            self.side = self._make_puller(request.setup, request.owner)
            return None
        handlers: dict[type, Callable[[Any], Any]] = {
            Fill: lambda request: self.side.fill(request.work),
            Begin: lambda request: self.side.begin(request.work, request.source),
            Round: lambda request: self.side.round(request.warm_up),
            End: lambda request: self.side.end(),
        }
        return handlers[type(request)](request)


def serve(
    descriptor: int, owner: Callable[[Any], Owner], puller: Callable[[Any, Any], Puller]
) -> None:
    """Be one of the two processes.

    Args:
        descriptor: of the channel to who asks.
        owner: makes the owner of a setup.
        puller: makes the puller of a setup and the owner's info.
    """
    side = _Side(owner, puller)
    _processes.serve(descriptor, side.handle)
    if side.side is not None:
        side.side.close()
