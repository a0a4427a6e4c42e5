# SPDX-License-Identifier: Apache-2.0
"""examples/connector: its tests pass, no line of its connector is untested, and the suite that it
uses notices connectors that are wrong.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.package.tree import ROOT

EXAMPLE = ROOT / "examples" / "connector"
CONNECTOR = EXAMPLE / "kv_connector.py"


def _run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    variables.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", "-p", "llm_datadist_cffi_pytest", "-q"]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
    )


def test_it_passes_and_every_line_of_the_connector_runs(tmp_path: Path) -> None:
    missed = tmp_path / "missed"
    done = _run(
        EXAMPLE,
        "-p",
        "tests.support.lines",
        f"--basetemp={tmp_path / 'base'}",
        LINES_OF=str(CONNECTOR),
        LINES_MISSED=str(missed),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ passed(, 1 skipped)? in ", done.stdout, re.MULTILINE), done.stdout
    text = CONNECTOR.read_text().splitlines()
    lines = [f"{line}: {text[int(line) - 1]}" for line in missed.read_text().split()]
    assert lines == []


# What is changed in the connector, into what, and what the suite says of it.
MISTAKES = [
    (
        "if self._is_final(failure, attempt):",
        "if self._is_final(failure, attempt):\n                        return\n"
        "                    if False:",
        "the connector says that the blocks have arrived: they cannot",
    ),
    (
        "self._unlink(remote)\n\n    def _is_final",
        "pass\n\n    def _is_final",
        "no load succeeded in 3 attempts",
    ),
]


def test_the_suite_notices_connectors_that_are_wrong(tmp_path: Path) -> None:
    """One that says that lost blocks have arrived, and one that never links again."""
    for number, (right, wrong, said) in enumerate(MISTAKES):
        folder = tmp_path / str(number)
        folder.mkdir()
        for file in EXAMPLE.iterdir():
            if file.is_file():
                (folder / file.name).write_text(file.read_text())
        text = CONNECTOR.read_text()
        assert text.count(right) == 1
        (folder / CONNECTOR.name).write_text(text.replace(right, wrong))
        some = "lost_within" if number else "wrong_blocks"
        done = _run(folder, "-k", some, f"--basetemp={folder / 'base'}")
        assert done.returncode == 1, done.stdout + done.stderr
        assert said in done.stdout
