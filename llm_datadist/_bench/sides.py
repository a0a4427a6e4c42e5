# SPDX-License-Identifier: Apache-2.0
"""The two processes of a benchmark, as far as what they measure does not matter.

The owner has the caches, the puller pulls from them and takes the times: each is what a peer's
Actor keeps. The functions at the end are the commands that they are given.
"""

from __future__ import annotations

import importlib
import statistics
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from llm_datadist.testing.actor import Actor
from llm_datadist.testing.pattern import Blocks

from .memory import tensors_at
from .work import Work

OWNER, PULLER = 1, 2  # whose bytes they are
_SEED = 20240229


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
            # So that no way always finds the caches as the same other one left them.
            self._order.append(self._order.pop(0))
        self._order.append(self._order.pop(0))
        return {name: statistics.median(each) for name, each in times.items()}

    def end(self) -> None:  # noqa: B027
        """Be done with the work."""

    def close(self) -> None:  # noqa: B027
        """Be done with everything."""


def open_owner(actor: Actor, module: str, setup: Any) -> Any:
    """Be the Owner of a module; returns what the puller must know."""
    actor.kept = importlib.import_module(module).Owner(actor, setup)
    return actor.kept.info()


def open_puller(actor: Actor, module: str, setup: Any, info: Any) -> None:
    """Be the Puller of a module, of an owner that answered this."""
    actor.kept = importlib.import_module(module).Puller(actor, setup, info)


def fill(actor: Actor, work: Work) -> Any:
    """Owner: have the cache of a work, filled; returns what the puller must know of it."""
    return actor.kept.fill(work)


def begin(actor: Actor, work: Work, source: Any) -> Any:
    """Puller: do a work once, and check every byte; source is what the owner answered."""
    return actor.kept.begin(work, source)


def do_round(actor: Actor, warm_up: bool) -> Any:
    """Puller: do a round of the work; returns microseconds for each way to pull."""
    return actor.kept.round(warm_up)


def end(actor: Actor) -> None:
    """Be done with the work, so that another one can come."""
    actor.kept.end()


def close(actor: Actor) -> None:
    """Be done with everything."""
    actor.kept.close()
