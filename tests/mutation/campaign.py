# SPDX-License-Identifier: Apache-2.0
"""Runs the fast tests against each mutant, and says which of them live."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from tests.mutation import python
from tests.mutation.cpp import NUMBERS, REACHED, VARIABLE
from tests.mutation.draw import BUILT, FLAGS, TREE, WORK, Mutant
from tests.mutation.folders import RUNTIME, Folder

# How often the tests of one mutant are run, when one fails that passes alone.
TRIES = 3
# The tests of one mutant may take that many times what one test may.
INTERVALS = 20
# Memory that each process of the tests may ask for; one asks for 8 GiB, one for half of what is
# free, and neither uses it.
MOST_BYTES = max(10 << 30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 5 // 8)
# What pytest ends with when all tests are deselected.
NO_TESTS = 5
TESTS_FAILED = 1
# One test of each of those that compile the sources for themselves.
BUILDERS = ("tests/engine/test_hmac.py", f"{RUNTIME}::test_every_case_is_run")
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
    """The tests of one folder, run against its mutants.

    Args:
        folder: what is mutated, and by which tests it is tested.
        seconds: how long one test may take. One that takes longer has noticed it: it hangs.
        jobs: how many mutants are tested at a time.
    """

    def __init__(self, folder: Folder, seconds: float, jobs: int) -> None:
        self.folder = folder
        self.seconds = seconds
        # A mutant of Python is written into the one copy of the sources.
        self.jobs = 1 if folder.name == "python" else jobs
        # How long each file of tests takes without a mutant, and the numbers that it comes to.
        self.taken: dict[str, float] = {}
        self.reached: dict[str, bytes] = {}

    def check_baseline(self) -> None:
        """Run each file of tests with no mutant switched on, and note to which ones it comes.

        All must pass. The first of them compile what mutants are in.
        """
        for builder in BUILDERS:
            if builder.split("::")[0] in self.folder.all_tests():
                self._check(builder)
        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(self._check, self.folder.all_tests()))

    def _check(self, tests: str) -> None:
        started = time.monotonic()
        with tempfile.NamedTemporaryFile(dir=WORK) as reached:
            reached.truncate(NUMBERS)
            for left in reversed(range(TRIES)):
                status, output = self._run(0, [tests], variables={REACHED: reached.name})
                if status in (0, NO_TESTS):
                    break
                if not left:
                    raise BaselineError(f"{tests} fails without a mutant:\n{output}")
            self.reached[tests] = Path(reached.name).read_bytes()
        self.taken[tests] = round(time.monotonic() - started, 1)

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Return the files of tests that come to a mutant: the most relevant first, then by time.

        All, where no baseline says which; those that a source in Python has, too.
        """
        tests = self.folder.tests_of(mutant.site.file)
        if not self.reached or mutant.site.file.endswith(".py"):
            return tests
        first = self.folder.first_tests_of(mutant.site.file)
        rest = sorted({*self.folder.all_tests()} - {*first}, key=lambda test: self.taken[test])
        return [test for test in (*first, *rest) if self.reached[test][mutant.number]]

    def judge_all(self, mutants: list[Mutant]) -> Iterator[Outcome]:
        """Judge mutants, some at a time, and yield what becomes of them as soon as it is known."""
        with ThreadPoolExecutor(self.jobs) as pool:
            for done in as_completed([pool.submit(self.judge, mutant) for mutant in mutants]):
                yield done.result()

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
        tests = self.tests_of(mutant)
        if not tests:
            return LIVES, "no test comes to it"
        for _ in range(TRIES):
            status, output = self._run(mutant.number, tests, unstable)
            if status is None:
                return TIMED_OUT, ""
            if status in (0, NO_TESTS):
                break
            # With all its parameters, which may have any characters.
            failed = re.findall(r"^(?:FAILED|ERROR) ([^\s[]+)", output, re.MULTILINE)
            if not failed and status == TESTS_FAILED:
                # None of those that ran: pytest itself, as it tidied up.
                continue
            if not failed:
                return KILLED, f"pytest ended with {status}"
            if self._run(mutant.number, failed[:1])[0] != 0:
                return KILLED, failed[0]
            unstable += failed[:1]
        return LIVES, f"but not always: {unstable}" if unstable else ""

    def _run(
        self,
        number: int,
        tests: list[str],
        left_out: Sequence[str] = (),
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> tuple[int | None, str]:
        """Return pytest's status, or None if it hangs, and what it printed."""
        environment = {
            **os.environ,
            **self.folder.environment,
            **variables,
            VARIABLE: str(number),
            "PYTHONPATH": str(TREE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LLDD_TEST_BUILT": str(BUILT),
            "LLDD_TEST_CXXFLAGS": " ".join(FLAGS),
            "HYPOTHESIS_DATABASE": "none",
        }
        # pytest removes what older runs of anybody have left where it has its temporary files.
        environment["PYTEST_DEBUG_TEMPROOT"] = tempfile.mkdtemp(dir=WORK)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        command += ["-m", self.folder.selects, *tests]
        command += [f"--deselect={test}" for test in (*self.folder.without, *left_out)]
        with tempfile.NamedTemporaryFile("w+", dir=WORK) as log:
            process = subprocess.Popen(
                command, cwd=TREE, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            # Its peers inherit it: a mutant that allocates without end fails a test.
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
            try:
                ended = _ended(process, Path(log.name), self.seconds)
            finally:
                _end(process)
                shutil.rmtree(environment["PYTEST_DEBUG_TEMPROOT"], ignore_errors=True)
            log.seek(0)
            return (process.returncode if ended else None), log.read()


def _ended(process: subprocess.Popen[bytes], log: Path, seconds: float) -> bool:
    """Wait for the tests; returns whether they end, and not for that long none of them does."""
    printed = -1
    for _ in range(INTERVALS):
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            if log.stat().st_size == printed:
                return False
            printed = log.stat().st_size
        else:
            return True
    return False


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
