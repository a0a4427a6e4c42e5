# SPDX-License-Identifier: Apache-2.0
"""Runs the fast tests against each mutant, and says which of them live."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.mutation import python
from tests.mutation.cpp import VARIABLE
from tests.mutation.draw import BUILT, FLAGS, TREE, WORK, Mutant
from tests.mutation.folders import Folder

# How often the tests of one mutant are run, when one fails that passes alone.
TRIES = 3
KILLED, TIMED_OUT, LIVES, EQUIVALENT = "killed", "timeout", "lives", "equivalent"


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant, and which test saw it."""

    number: int
    mutant: str
    verdict: str
    seconds: float
    by: str = ""


class BaselineError(Exception):
    """The tests fail without any mutant."""


class Campaign:
    """The tests of one folder, run against its mutants one by one.

    Args:
        folder: what is mutated, and by which tests it is tested.
        seconds: how long the tests of one mutant may take at least; twice what they take without
            one, if that is longer. Tests that take longer have noticed it: they hang.
    """

    def __init__(self, folder: Folder, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self.log = WORK / f"{folder.name}.log"

    def check_baseline(self) -> float:
        """Run all the tests with no mutant switched on; returns how long they take.

        They must pass. The first of them compile what mutants are in.
        """
        started = time.monotonic()
        files = list(
            dict.fromkeys([test for tests in self.folder.first.values() for test in tests])
        )
        tests = [*files, *(test for test in self.folder.tests if test not in files)]
        status, output = self._run(0, tests, 20 * self.seconds)
        if status != 0:
            raise BaselineError(f"{self.folder.name}: the tests fail without a mutant:\n{output}")
        taken = time.monotonic() - started
        self.seconds = max(self.seconds, 2 * taken)
        return taken

    def judge(self, mutant: Mutant) -> Outcome:
        """Run the tests of one mutant until one fails."""
        started = time.monotonic()
        file = mutant.site.file
        reason = mutant.reason()
        verdict, by = EQUIVALENT, reason
        if not reason:
            copy = TREE / file
            # The copy's: that of the working tree may be another one by now.
            original = copy.read_text()
            if file.endswith(".py"):
                copy.write_text(python.mutated(original, mutant.site))
            try:
                verdict, by = self._verdict(mutant)
            finally:
                if file.endswith(".py"):
                    copy.write_text(original)
        seconds = round(time.monotonic() - started, 1)
        return Outcome(mutant.number, str(mutant.site), verdict, seconds, by)

    def _verdict(self, mutant: Mutant) -> tuple[str, str]:
        """Run the tests; one that fails must fail again alone, or it is left out.

        What fails once may be a test of moments on a busy machine.
        """
        unstable: list[str] = []
        tests = self.folder.tests_of(mutant.site.file)
        for _ in range(TRIES):
            status, output = self._run(mutant.number, tests, self.seconds, unstable)
            if status is None:
                return TIMED_OUT, ""
            if status == 0:
                break
            failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
            if not failed:
                return KILLED, f"pytest ended with {status}"
            if self._run(mutant.number, failed[:1], self.seconds)[0] != 0:
                return KILLED, failed[0]
            unstable += failed[:1]
        return LIVES, f"but not always: {unstable}" if unstable else ""

    def _run(
        self, number: int, tests: list[str], seconds: float, left_out: Sequence[str] = ()
    ) -> tuple[int | None, str]:
        environment = {
            **os.environ,
            **self.folder.environment,
            VARIABLE: str(number),
            "PYTHONPATH": str(TREE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LLDD_TEST_BUILT": str(BUILT),
            "LLDD_TEST_CXXFLAGS": " ".join(FLAGS),
            "HYPOTHESIS_DATABASE": "none",
        }
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        command += ["-m", self.folder.selects, *tests]
        command += [f"--deselect={test}" for test in (*self.folder.without, *left_out)]
        with self.log.open("w+") as log:
            process = subprocess.Popen(
                command, cwd=TREE, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                return None, ""
            finally:
                _end(process)
            log.seek(0)
            return process.returncode, log.read()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the tests and every process that they have left."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        # All of them had ended.
        return
    finally:
        process.wait()


def results_file(folder: Folder) -> Path:
    return WORK / f"{folder.name}.json"


def keep(folder: Folder, commit: str, outcomes: list[Outcome]) -> None:
    """Write down what is known so far; a run that is broken off is not lost."""
    content = {"commit": commit, "outcomes": [asdict(outcome) for outcome in outcomes]}
    results_file(folder).write_text(json.dumps(content, indent=1) + "\n")


def table(results: dict[str, list[Outcome]]) -> str:
    """Return a line for each folder, and one for each mutant that lives."""
    lines = [
        f"{'folder':10} {'drawn':>6} {'killed':>7} {'equivalent':>11} {'live':>5} {'score':>6}"
    ]
    living = []
    for name, outcomes in results.items():
        count = dict.fromkeys((KILLED, TIMED_OUT, LIVES, EQUIVALENT), 0)
        for outcome in outcomes:
            count[outcome.verdict] += 1
            if outcome.verdict == LIVES:
                living.append(f"lives: {name} {outcome.number} {outcome.mutant}")
        killed = count[KILLED] + count[TIMED_OUT]
        able = len(outcomes) - count[EQUIVALENT]
        score = f"{killed / able:6.2f}" if able else "     -"
        lines.append(
            f"{name:10} {len(outcomes):6} {killed:7} {count[EQUIVALENT]:11} "
            f"{count[LIVES]:5} {score}"
        )
    return "\n".join([*lines, "", *living])
