# SPDX-License-Identifier: Apache-2.0
"""The demo's course: what its two processes are asked, in which order, and how long it may take."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._demo_messages import Check, Fill, Link, Open, Opened, Path, Transfer
from ._geometry import Geometry
from ._pattern import Blocks, Moved
from ._processes import Peers
from ._progress import Progress

PROMPT, DECODER = "prompt", "decoder"
CLUSTER_IDS = {PROMPT: 1, DECODER: 2}
# The decoder acts: it pulls from the prompt, and pushes to it.
SOURCE_AND_DESTINATION = {"pull": (PROMPT, DECODER), "push": (DECODER, PROMPT)}

# Slower than any machine fills, checks or moves memory.
_SLOWEST_BYTES_PER_SECOND = 50e6
# Between an engine's deadline and ours, in seconds: it is the engine's message that shall be shown.
_MARGIN = 2.0
# Starting, linking; and for each transfer: fill, transfer, check.
_STEPS_BEFORE, _STEPS_EACH = 2, 3


@dataclass(frozen=True)
class Plan:
    """What to do."""

    geometry: Geometry
    allocated: bool
    transport: str | None
    rounds: int
    seed: int
    timeout: float  # seconds
    corrupt: str

    @property
    def memory(self) -> str:
        """The kind of memory, in a word."""
        return "allocated" if self.allocated else "registered"

    @property
    def moved_blocks(self) -> int:
        """How many blocks one transfer moves: half of them. The other half must stay as it was."""
        return max(1, self.geometry.blocks // 2)


@dataclass(frozen=True)
class Operation:
    """One kind of transfer, done once a round."""

    operation: str
    source: str
    destination: str
    blocks: int
    bytes: int
    seconds: list[float]

    @property
    def median_seconds(self) -> float:
        """The time of one transfer."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Report:
    """What came of it."""

    plan: Plan
    runtime: str
    operations: list[Operation]
    path: str
    path_reason: str
    checked_bytes: int


def run(plan: Plan) -> Report:
    """Start the two processes, move the blocks, check the bytes.

    Raises PeerFailure for a wrong byte, too. The processes are gone in any case.
    """
    steps = _STEPS_BEFORE + _STEPS_EACH * len(SOURCE_AND_DESTINATION) * plan.rounds
    progress = Progress(sys.stderr, steps)
    try:
        with Peers() as peers:
            report = _Course(plan, peers, progress).run()
            peers.finish(plan.timeout)
    finally:
        progress.clear()
    return report


class _Course:
    def __init__(self, plan: Plan, peers: Peers, progress: Progress) -> None:
        self._plan = plan
        self._peers = peers
        self._progress = progress
        moving = plan.geometry.cache_bytes / _SLOWEST_BYTES_PER_SECOND
        self._patience = plan.timeout + moving + _MARGIN
        self._timeout_ms = max(1, round(plan.timeout * 1000))

    def run(self) -> Report:
        opened = self._start()
        self._link(opened[PROMPT].address)
        seconds: dict[str, list[float]] = {operation: [] for operation in SOURCE_AND_DESTINATION}
        step = 0
        for src, dst in self._block_lists():
            for operation, times in seconds.items():
                step += 1
                times.append(self._transfer(operation, step, src, dst))
        answer = self._peers.ask({DECODER: Path(CLUSTER_IDS[PROMPT])}, self._patience)
        path, reason = answer[DECODER]
        plan = self._plan
        moved_bytes = plan.moved_blocks * plan.geometry.tensors * plan.geometry.block_bytes
        return Report(
            plan=plan,
            runtime=opened[DECODER].runtime,
            operations=[
                Operation(
                    operation,
                    *SOURCE_AND_DESTINATION[operation],
                    plan.moved_blocks,
                    moved_bytes,
                    times,
                )
                for operation, times in seconds.items()
            ],
            path=path,
            path_reason=reason,
            checked_bytes=step * len(CLUSTER_IDS) * plan.geometry.cache_bytes,
        )

    def _start(self) -> dict[str, Opened]:
        self._progress.show("starting two processes")
        environment = dict(os.environ)
        if self._plan.transport is not None:
            environment["LLM_DATADIST_MOCK_TRANSPORT"] = self._plan.transport
        command = ["demo", "--peer-channel"]
        pids = {name: self._peers.start(name, command, environment) for name in CLUSTER_IDS}
        self._progress.clear()
        started = ", ".join(f"{name} process {pid}" for name, pid in pids.items())
        print(started, file=sys.stderr, flush=True)
        opened = self._peers.ask(
            {
                name: Open(
                    role=name,
                    cluster_id=cluster_id,
                    geometry=self._plan.geometry,
                    allocated=self._plan.allocated,
                    timeout_ms=self._timeout_ms,
                    corrupt=self._plan.corrupt,
                )
                for name, cluster_id in CLUSTER_IDS.items()
            },
            self._patience,
        )
        self._progress.advance()
        return opened

    def _link(self, address: tuple[str, int]) -> None:
        request = Link(CLUSTER_IDS[PROMPT], address, self._timeout_ms)
        self._do("linking", {DECODER: request})

    def _block_lists(self) -> Iterator[tuple[Blocks, Blocks]]:
        for number in range(self._plan.rounds):
            random = np.random.default_rng([self._plan.seed, number])
            src, dst = (
                random.permutation(self._plan.geometry.blocks)[: self._plan.moved_blocks]
                for _ in range(2)
            )
            yield src.astype(np.uint64), dst.astype(np.uint64)

    def _transfer(self, operation: str, step: int, src: Blocks, dst: Blocks) -> float:
        source, destination = SOURCE_AND_DESTINATION[operation]
        self._do(f"before {operation}: filling", dict.fromkeys(CLUSTER_IDS, Fill(step)))
        request = Transfer(operation, CLUSTER_IDS[PROMPT], src, dst)
        answers = self._do(operation, {DECODER: request})
        # The source must be as it was, and so must the other blocks of the destination.
        checks = {
            source: Check(step, None),
            destination: Check(step, Moved(CLUSTER_IDS[source], src, dst)),
        }
        self._do(f"after {operation}: checking", checks)
        seconds = answers[DECODER]
        assert isinstance(seconds, float)
        return seconds

    def _do(self, what: str, requests: dict[str, Any]) -> dict[str, Any]:
        self._progress.show(what)
        answers = self._peers.ask(requests, self._patience)
        self._progress.advance()
        return answers
