# SPDX-License-Identifier: Apache-2.0
"""What comes out: medians over rounds, and ratios within rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .work import Work

# What this package is called among those that do the work.
PACKAGE = "llm_datadist"


@dataclass(frozen=True)
class PathPlan:
    """One path, and what it is compared with."""

    name: str  # what --path calls it
    transport: str  # of LLM_DATADIST_MOCK_TRANSPORT
    mechanism: str  # the same for people
    allocated: bool  # memory from the pool; else registered
    limit: str  # the reference that shows what the machine allows
    latency_target_us: float  # W3: what may be added to the limit's time


PATHS = {
    path.name: path
    for path in (
        PathPlan("registered", "cma", "process_vm_readv", False, "readv_t2", 2.0),
        PathPlan("allocated", "mapped", "mapping the pool", True, "nt_t2", 2.0),
        PathPlan("tcp", "tcp", "TCP over loopback", False, "raw_tcp", 10.0),
    )
}


@dataclass(frozen=True)
class Spread:
    """A median over rounds, with the extremes."""

    median: float
    min: float
    max: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Return the spread of the rounds' figures."""
        return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Result:
    """One work on one path."""

    path: PathPlan
    work: Work
    pages: str
    microseconds: dict[str, list[float]]  # of "llm_datadist", "ref" and the limit: each round

    @property
    def rounds(self) -> int:
        """How many there were."""
        return len(self.microseconds[PACKAGE])

    def time_us(self, name: str) -> Spread:
        """Return the time of one pull."""
        return Spread.of(self.microseconds[name])

    def gb_per_s(self, name: str) -> Spread:
        """Return the speed, in 10^9 bytes a second."""
        return Spread.of([self.work.moved_bytes / us / 1e3 for us in self.microseconds[name]])

    def ratio(self, name: str) -> Spread:
        """Return the speed of this package as a part of the reference's."""
        pairs = zip(self.microseconds[name], self.microseconds[PACKAGE])
        return Spread.of([theirs / ours for theirs, ours in pairs])

    def added_us(self, name: str) -> Spread:
        """Return the time of this package less the reference's."""
        pairs = zip(self.microseconds[name], self.microseconds[PACKAGE])
        return Spread.of([ours - theirs for theirs, ours in pairs])

    @property
    def references(self) -> list[str]:
        """What this package was compared with: nothing where there is no C compiler."""
        return [name for name in self.microseconds if name != PACKAGE]


@dataclass
class Report:
    """Everything that was measured."""

    machine: dict[str, Any]
    results: list[Result]
    unavailable: dict[str, str]  # a path that this machine does not have, and why
    no_references: str  # why there are none; "": there are
