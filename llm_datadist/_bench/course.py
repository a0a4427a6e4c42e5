# SPDX-License-Identifier: Apache-2.0
"""The course of a run: each path in a pair of fresh processes, each work in rounds."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_datadist._tools.host import available_memory
from llm_datadist._tools.outcome import Refusal
from llm_datadist._tools.processes import PROCESS_OVERHEAD
from llm_datadist._tools.progress import Progress
from llm_datadist._tools.units import in_words

from . import package, reference
from .package import Setup
from .pair import Pair
from .results import PathPlan, Report, Result
from .work import Work


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    paths: Sequence[PathPlan]
    works: Sequence[Work]
    rounds: int

    @property
    def steps_of_a_work(self) -> int:
        """One to get ready and check the bytes, and the rounds."""
        return 1 + self.rounds

    @property
    def steps_of_a_path(self) -> int:
        """One to start the processes, and the works."""
        return 1 + len(self.works) * self.steps_of_a_work


def run(plan: Plan, progress: Progress) -> Report:
    """Measure. Raises Refusal, PeerFailure; the processes are gone in any case."""
    report = Report(_machine(), [], {}, "")
    library = ""
    with tempfile.TemporaryDirectory() as directory:
        try:
            library = reference.build(directory)
            report.machine["kernels"] = reference.Reference(library).kernels
        except reference.NoReferences as reason:
            report.no_references = str(reason)
        setups = [Setup(path, plan.works, library) for path in plan.paths]
        for setup in setups:
            refuse_what_does_not_fit(setup)
        for setup in setups:
            run_path(setup, plan, progress, report)
    return report


def _machine() -> dict[str, Any]:
    return {
        "platform": platform.machine(),
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "runtime": "",
        "kernels": {},
    }


def refuse_what_does_not_fit(setup: Setup) -> None:
    """Raise Refusal where the memory of this machine is too small."""

    def needed(works: Sequence[Work]) -> int:
        cache_bytes = max(work.cache_bytes for work in works)
        return setup.arenas * cache_bytes + 2 * PROCESS_OVERHEAD

    available = available_memory()
    if needed(setup.works) > available.bytes:
        fitting = [work.name for work in setup.works if needed([work]) <= available.bytes]
        advice = f"{', '.join(fitting)} would fit" if fitting else "none of the works fits"
        raise Refusal(
            f"the path {setup.path.name} needs {in_words(needed(setup.works))} of memory, "
            f"{in_words(available.bytes)} is available {available.where}; {advice}"
        )


def run_path(setup: Setup, plan: Plan, progress: Progress, report: Report) -> None:
    """Measure all works on one path, and add them to the report."""
    path = setup.path
    # Read by the runtime when an engine opens. The paths are the mock's.
    environment = {"LLM_DATADIST_MOCK_TRANSPORT": path.transport}
    if "LLM_DATADIST_BACKEND" not in os.environ:
        environment["LLM_DATADIST_BACKEND"] = "mock"
    with Pair(package.__name__, environment) as pair:
        progress.show(f"{path.name}: starting two processes")
        report.machine["runtime"] = pair.open(setup).runtime
        progress.advance()
        for done, work in enumerate(setup.works):
            progress.show(f"{path.name} {work.name}: filling, checking")
            begun = pair.begin(work)
            if begun.obstacle:
                report.unavailable[path.name] = begun.obstacle
                progress.advance((len(setup.works) - done) * plan.steps_of_a_work)
                return
            progress.advance()
            rounds = []
            for number in range(plan.rounds):
                progress.show(f"{path.name} {work.name}: round {number + 1} of {plan.rounds}")
                rounds.append(pair.round())
                progress.advance()
            pair.end()
            times = {name: [each[name] for each in rounds] for name in rounds[0]}
            report.results.append(Result(path, work, begun.pages, times))
        pair.finish()
