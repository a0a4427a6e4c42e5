# SPDX-License-Identifier: Apache-2.0
"""Measures which lines and branches of Python, engine and mock the suite runs.

    python -m tests.coverage                  HEAD, in a clone below build/coverage; the whole suite
    python -m tests.coverage tests/engine     these tests only; no figure is compared then
    python -m tests.coverage --note           write figures.json from the last run
    python -m tests.coverage --report         the report of the last run again

Needs coverage and gcovr (the extra 'coverage') and gcc. A process that is killed tells nothing of
what it ran.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import report

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "coverage"
TREE = FOLDER / "tree"
FLAGS = "--coverage -fprofile-update=atomic"
# Of the suite, what runs the package and the mock. The others count system calls, measure time, or
# have builds of their own.
TESTS = (
    *("tests/api", "tests/abi", "tests/engine", "tests/conformance", "tests/attacks"),
    *("tests/model", "tests/runtimes/mock", "tests/package"),
)
CONFIGURATION = """[run]
branch = true
parallel = true
source = llm_datadist
patch = subprocess
sigterm = true
"""


def _run(*command: object, cwd: Path = TREE, **variables: str) -> int:
    return subprocess.run(
        [str(each) for each in command], cwd=cwd, env={**os.environ, **variables}
    ).returncode


def _require(status: int, what: str) -> None:
    if status:
        sys.exit(f"{what} failed with {status}")


def measure(tests: list[str]) -> int:
    """Build and run the tests in a clone of HEAD; returns pytest's status."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    _require(_run("git", "clone", "--quiet", ROOT, TREE, cwd=ROOT), "git clone")
    build = {"CXX": "g++", "CC": "gcc", "CXXFLAGS": f"-O1 {FLAGS}", "LDFLAGS": "--coverage"}
    python = (sys.executable, "setup.py", "-q", "build_native", "--inplace")
    _require(_run(*python, **build), "the build")
    (TREE / ".coveragerc").write_text(CONFIGURATION)
    variables = {"PYTHONPATH": str(TREE), "LLDD_TEST_CXXFLAGS": f"-O0 {FLAGS}"}
    command = (sys.executable, "-m", "coverage", "run", "-m", "pytest", "-q", *tests)
    return _run(*command, "-p", "no:cacheprovider", **variables)


def collect() -> list[report.File]:
    """Read what the processes of the last run have left."""
    if list(TREE.glob(".coverage.*")):
        _require(_run(sys.executable, "-m", "coverage", "combine", "--quiet"), "coverage combine")
    python, cpp = FOLDER / "python.json", FOLDER / "cpp.json"
    _require(_run(sys.executable, "-m", "coverage", "json", "-q", "-o", python), "coverage json")
    filters = ("--filter", "csrc/", "--filter", "mock_runtime/", "--exclude", "csrc/ascend/")
    branches = ("--exclude-throw-branches", "--exclude-unreachable-branches")
    rest = ("--merge-mode-functions=merge-use-line-0", "--gcov-ignore-errors=all")
    command = (sys.executable, "-m", "gcovr", "--root", ".", *filters, *branches, *rest)
    _require(_run(*command, "--gcov-ignore-parse-errors=all", "--json", cpp), "gcovr")
    return [*report.of_python(python.read_text()), *report.of_cpp(cpp.read_text())]


def main() -> int:
    """Measure, write the report, and compare; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.coverage")
    parser.add_argument("--note", action="store_true", help="write figures.json from the last run")
    parser.add_argument("--report", action="store_true", help="the report of the last run again")
    parser.add_argument("tests", nargs="*", help="tests to run, default: all that count")
    args = parser.parse_args()
    status = 0 if args.note or args.report else measure(args.tests or list(TESTS))
    files = collect()
    reasons = json.loads(report.REASONS.read_text())
    (FOLDER / "report.md").write_text(report.page(files, reasons))
    for part, values in report.figures(files).items():
        print(f"{part:<18} lines {values['lines']:6.2f} %   branches {values['branches']:6.2f} %")
    print(f"what is not covered: {FOLDER / 'report.md'}")
    if args.note:
        text = json.dumps(report.figures(files), indent=1)
        report.FIGURES.write_text(text + "\n")
    if args.tests:
        return status
    found = report.problems(files, json.loads(report.FIGURES.read_text()), reasons)
    print("\n".join(found))
    return status or bool(found)


if __name__ == "__main__":
    sys.exit(main())
