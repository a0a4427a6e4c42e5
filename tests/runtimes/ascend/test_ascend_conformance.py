# SPDX-License-Identifier: Apache-2.0
"""The conformance suite once more, with the Ascend library on the fake CANN.

In a session of its own, since a process has one library. Each file of that session is a test here,
so that whoever waits sees how far it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "tests" / "conformance"
FILES = sorted(path.name for path in FOLDER.glob("test_*.py"))
# Of one file, on a machine that does much else: the longest ones take a minute.
LONGEST_SECONDS = 600
COLLECT = ["--collect-only", "tests/conformance/test_pull_blocks.py"]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]

# Of both sessions.
ONE_FILE = "test_the_conformance_suite and test_pull_blocks"

pytestmark = pytest.mark.slow


def asked_for() -> set[str] | None:
    names = os.environ.get("LLM_DATADIST_TEST_PATHS")
    return None if names is None else set(names.split(","))


@pytest.fixture(scope="module")
def wanted(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of that session. What was asked for must be there."""
    names = asked_for()
    if names is not None and "ascend" not in names:
        pytest.skip("capability ascend: not among LLM_DATADIST_TEST_PATHS")
    try:
        environment = request.getfixturevalue("on_fake")
    except pytest.skip.Exception as unavailable:
        if names is not None:
            pytest.fail(f"asked for, but: {unavailable}")
        raise
    return {**os.environ, **environment, "LLM_DATADIST_TEST_PATHS": "ascend"}


class Suite:
    """A session of the conformance suite in a process of its own, which reports file by file."""

    def __init__(self, environment: dict[str, str], arguments: list[str], log: Path) -> None:
        self._log = log
        self._reports: dict[str, dict[str, Any]] = {}
        receiving, sending = os.pipe()
        reports = ["-p", "tests.support.reports", f"--reports-to={sending}"]
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [*PYTEST, *reports, *arguments],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[sending],
            )
        os.close(sending)
        self._lines = os.fdopen(receiving)
        first = json.loads(self._next_line() or "{}")
        self._selected: list[str] = first.get("selected", [])
        self._deselected: list[str] = first.get("deselected", [])

    def __enter__(self) -> Suite:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._lines.close()

    def _next_line(self) -> str:
        """Wait for the next report; a session that stands still is ended, and has no more."""
        deadline = threading.Timer(LONGEST_SECONDS, self._process.kill)
        deadline.start()
        try:
            return self._lines.readline()
        finally:
            deadline.cancel()

    def report_of(self, file: str) -> dict[str, Any]:
        """Wait until the session is done with the file; nothing ran if -k deselected all of it."""
        if file in self._deselected:
            return {"failed": [], "skipped": []}
        while file not in self._reports:
            line = self._next_line()
            if not line:
                status = self._process.wait()
                pytest.fail(f"ended with {status} before {file} was done:\n{self._log.read_text()}")
            report = json.loads(line)
            self._reports[report["file"]] = report
        return self._reports[file]

    def end(self) -> tuple[int, str]:
        """Wait for the end of the session; return its exit status and what it printed."""
        for file in self._selected:
            self.report_of(file)
        return self._process.wait(LONGEST_SECONDS), self._log.read_text()


@pytest.fixture(scope="module", params=["host addresses", "opaque"])
def suite(
    request: pytest.FixtureRequest,
    wanted: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Suite]:
    """Device memory at host addresses, and without any, as on a device host."""
    own = [item for item in request.session.items if item.path == request.path]
    files = {item.callspec.params.get("file") for item in own if hasattr(item, "callspec")}
    some = sorted(str(FOLDER / name) for name in files if name is not None)
    arguments = some if 0 < len(some) < len(FILES) else [str(FOLDER)]
    environment = wanted
    if request.param == "opaque":
        environment = {**wanted, "FAKE_CANN_DEVICE_MEMORY": "opaque"}
        # What takes no path is run only when this was asked for.
        arguments += ["-k", "ascend"] if asked_for() is None else []
    log = tmp_path_factory.mktemp("suite") / "log"
    with Suite(environment, arguments, log) as suite:
        yield suite


@pytest.mark.parametrize("file", FILES)
def test_the_conformance_suite(suite: Suite, file: str) -> None:
    """All pass, or say which capability is missing."""
    report = suite.report_of(file)
    for name, text in report["failed"]:
        print(f"---- {name}\n{text}")
    assert [name for name, _ in report["failed"]] == []
    assert [reason for reason in report["skipped"] if "capability " not in reason] == []


def test_the_conformance_suite_ends_well(suite: Suite) -> None:
    status, printed = suite.end()
    sys.stdout.write(printed)
    assert status == 0, "see what it printed"
    assert " passed" in printed


def session(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PYTEST, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST_SECONDS,
    )


# ---- what is asked for, and cannot be had


@pytest.fixture
def no_compiler(tmp_path: Path) -> dict[str, str]:
    variables = ("CXX", "LLM_DATADIST_TEST_PATHS")
    here = {name: value for name, value in os.environ.items() if name not in variables}
    return {**here, "PATH": str(tmp_path)}


def test_without_a_compiler_it_is_skipped(no_compiler: dict[str, str]) -> None:
    result = session(no_compiler, __file__, "-k", ONE_FILE)
    assert result.returncode == 0, result.stdout
    assert "capability fake CANN: there is no C++ compiler" in result.stdout
    assert "2 skipped" in result.stdout


def test_without_a_compiler_it_fails_if_it_was_asked_for(no_compiler: dict[str, str]) -> None:
    asked = {**no_compiler, "LLM_DATADIST_TEST_PATHS": "ascend"}
    result = session(asked, __file__, "-k", ONE_FILE)
    assert result.returncode == 1, result.stdout
    assert "asked for, but: capability fake CANN" in result.stdout
    assert "2 errors" in result.stdout


@pytest.mark.parametrize("asked", ["ascend", "mapped,ascend"])
def test_a_path_that_the_library_has_not_fails(asked: str) -> None:
    mock = {**os.environ, "LLM_DATADIST_BACKEND": "mock", "LLM_DATADIST_TEST_PATHS": asked}
    result = session(mock, "tests/conformance/test_pull_blocks.py")
    assert result.returncode == 2, result.stdout
    assert "asks for ['ascend'], but the library of this run (mock) has" in result.stdout
    alone = session({**mock, "LLM_DATADIST_TEST_PATHS": "mapped"}, *COLLECT)
    assert alone.returncode == 0, alone.stdout
