# SPDX-License-Identifier: Apache-2.0
"""The demo's course: what its two processes are asked, in which order, and how long it may take."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_datadist import LLMRole
from llm_datadist._tools import engines
from llm_datadist._tools.engines import Opened
from llm_datadist._tools.processes import Command, Processes
from llm_datadist._tools.progress import Progress
from llm_datadist.testing.actor import ClusterAddress, EngineSpec
from llm_datadist.testing.pattern import Blocks, Moved, Stamp

from . import _demo_peer
from ._geometry import KVGeometry

PROMPT, DECODER = "prompt", "decoder"
CLUSTER_IDS = {PROMPT: 1, DECODER: 2}
# The decoder acts: it pulls from the prompt, and pushes to it.
SOURCE_AND_DESTINATION = {"pull": (PROMPT, DECODER), "push": (DECODER, PROMPT)}

# Slower than any machine fills, checks or moves memory.
_SLOWEST_BYTES_PER_SECOND = 50e6
# Between an engine's deadline and ours, in seconds: it is the engine's message that must be shown.
_MARGIN = 2.0
# Tensors of an allocated cache start on pages of the pool.
POOL_PAGE_SHIFT = 16
_STAMPS = 1 << 20
# Starting, linking; and for each transfer: fill, transfer, check.
_STEPS_BEFORE, _STEPS_EACH = 2, 3


@dataclass(frozen=True)
class Plan:
    """What to do."""

    geometry: KVGeometry
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

    Also raises PeerFailure for a wrong byte. The processes are gone in any case.
    """
    steps = _STEPS_BEFORE + _STEPS_EACH * len(SOURCE_AND_DESTINATION) * plan.rounds
    progress = Progress(sys.stderr, steps)
    try:
        moving = plan.geometry.cache_bytes / _SLOWEST_BYTES_PER_SECOND
        with Processes(plan.timeout + moving + _MARGIN) as peers:
            report = _Course(plan, peers, progress).run()
            peers.ask(dict.fromkeys(CLUSTER_IDS, ("finalize",)))
            peers.finish(plan.timeout)
    finally:
        progress.clear()
    return report


class _Course:
    def __init__(self, plan: Plan, peers: Processes, progress: Progress) -> None:
        self._plan = plan
        self._peers = peers
        self._progress = progress
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
        plan = self._plan
        path = self._peers.call(DECODER, engines.path_to, CLUSTER_IDS[PROMPT], plan.allocated)
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
            path=path.path,
            path_reason=path.reason,
            checked_bytes=step * len(CLUSTER_IDS) * plan.geometry.cache_bytes,
        )

    def _start(self) -> dict[str, Opened]:
        self._progress.show("starting two processes")
        plan = self._plan
        transport = plan.transport
        environment = {} if transport is None else {"LLM_DATADIST_MOCK_TRANSPORT": transport}
        pids = {name: self._peers.start(name, environment) for name in CLUSTER_IDS}
        self._progress.clear()
        started = ", ".join(f"{name} process {pid}" for name, pid in pids.items())
        print(started, file=sys.stderr, flush=True)
        geometry = plan.geometry.cache()
        opened = self._peers.ask(
            {name: (_demo_peer.open_with_cache, self._spec(name), geometry) for name in CLUSTER_IDS}
        )
        self._progress.advance()
        return opened

    def _spec(self, name: str) -> EngineSpec:
        pool = self._plan.geometry.cache().pool_bytes(POOL_PAGE_SHIFT)
        return EngineSpec(
            CLUSTER_IDS[name],
            LLMRole[name.upper()],
            engines.LISTEN,
            sync_timeout_ms=self._timeout_ms,
            device_pool=pool if self._plan.allocated else 0,
            page_shift=POOL_PAGE_SHIFT,
        )

    def _link(self, address: tuple[str, int]) -> None:
        prompt = ClusterAddress(CLUSTER_IDS[PROMPT], address)
        self._do("linking", {DECODER: (engines.link, prompt, self._timeout_ms)})

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
        stamps = {name: _stamp(name, step) for name in CLUSTER_IDS}
        fills = {name: ("fill", _demo_peer.CACHE, stamp) for name, stamp in stamps.items()}
        self._do(f"before {operation}: filling", fills)
        transfer = (_demo_peer.timed_transfer, operation, CLUSTER_IDS[PROMPT], src, dst)
        answers = self._do(operation, {DECODER: transfer})
        # The source must be as it was, and so must the other blocks of the destination.
        moved = {source: None, destination: Moved(stamps[source], src, dst)}
        checks = {
            name: (_demo_peer.check, stamps[name], what, self._plan.corrupt)
            for name, what in moved.items()
        }
        self._do(f"after {operation}: checking", checks)
        seconds = answers[DECODER]
        assert isinstance(seconds, float)
        return seconds

    def _do(self, what: str, commands: dict[str, Command]) -> dict[str, Any]:
        self._progress.show(what)
        answers = self._peers.ask(commands)
        self._progress.advance()
        return answers


def _stamp(name: str, step: int) -> Stamp:
    """Return what a peer fills its cache with at a step, unlike those of the steps before."""
    return (len(CLUSTER_IDS) * step + CLUSTER_IDS[name]) % _STAMPS
