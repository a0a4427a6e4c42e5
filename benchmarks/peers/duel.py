# SPDX-License-Identifier: Apache-2.0
"""A peer against this package: two pairs of processes that take turns, round by round.

Who is not on turn is stopped (SIGSTOP): some libraries poll without end, and would take a CPU from
the other. Each turn starts with a pull that is not timed. The ratio of each round is between
neighbours in time, which is what a noisy machine leaves comparable.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from llm_datadist._bench import package
from llm_datadist._bench.pair import Pair
from llm_datadist._bench.results import PACKAGE, PATHS, Spread
from llm_datadist._bench.work import Work
from llm_datadist._tools.progress import Progress

from . import arenas, side
from .catalogue import Peer


@dataclass(frozen=True)
class Outcome:
    """One work of a duel: microseconds of each round."""

    peer: Peer
    work: Work
    theirs: list[float]
    ours: list[float]

    @property
    def ratio(self) -> Spread:
        """How many times as fast this package is."""
        return Spread.of([theirs / ours for theirs, ours in zip(self.theirs, self.ours)])


def steps(works: Sequence[Work], rounds: int) -> int:
    """How far a progress bar goes for a duel."""
    return 1 + len(works) * (1 + rounds)


def fight(peer: Peer, works: Sequence[Work], rounds: int, progress: Progress) -> list[Outcome]:
    """Return what came of each work. Raises PeerFailure, NoReferences."""
    path = PATHS[peer.path]
    environment = {"LLM_DATADIST_MOCK_TRANSPORT": path.transport, "LLM_DATADIST_BACKEND": "mock"}
    with tempfile.TemporaryDirectory() as directory:
        progress.show(f"{peer.name}: starting")
        options = {**peer.options, **(peer.builder()(directory) if peer.build else {})}
        setup = package.Setup(path, works, library="")
        their_module = f"{__package__}.{peer.module}"
        our_pair = _pair("llm_datadist", package.__name__, environment)
        with our_pair as ours, _pair(peer.name, their_module, peer.environment) as theirs:
            with _turn(ours):
                ours.open(setup)
            with _turn(theirs):
                theirs.open(arenas.Setup(setup.cache_bytes, options))
            progress.advance()
            outcomes = [_work(peer, work, rounds, ours, theirs, progress) for work in works]
            for pair in (ours, theirs):
                with _turn(pair):
                    pair.finish()
    return outcomes


def _pair(name: str, module: str, environment: Mapping[str, str]) -> Pair:
    return Pair(module, environment, f"{name}'s ", side.prepare)


def _work(
    peer: Peer, work: Work, rounds: int, ours: Pair, theirs: Pair, progress: Progress
) -> Outcome:
    progress.show(f"{peer.name} {work.name}: filling, checking")
    for pair in (ours, theirs):
        with _turn(pair):
            begun = pair.begin(work)
        if begun.obstacle:
            raise RuntimeError(f"the path {peer.path} is not available here: {begun.obstacle}")
    progress.advance()
    times: dict[str, list[float]] = {PACKAGE: [], arenas.NAME: []}
    for number in range(rounds):
        progress.show(f"{peer.name} {work.name}: round {number + 1} of {rounds}")
        for pair in (ours, theirs) if number % 2 == 0 else (theirs, ours):
            with _turn(pair):
                for name, microseconds in pair.round(warm_up=True).items():
                    times[name].append(microseconds)
        progress.advance()
    for pair in (ours, theirs):
        with _turn(pair):
            pair.end()
    return Outcome(peer, work, times[arenas.NAME], times[PACKAGE])


@contextmanager
def _turn(pair: Pair) -> Iterator[None]:
    """Let a pair run for a while, and no longer."""
    _signal(pair, signal.SIGCONT)
    yield
    _signal(pair, signal.SIGSTOP)


def _signal(pair: Pair, number: signal.Signals) -> None:
    for process in pair.running():
        os.kill(process, number)
