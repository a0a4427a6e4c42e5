# SPDX-License-Identifier: Apache-2.0
"""The conformance suite once more, with the Ascend library on the fake CANN.

In a session of its own, since a process has one library.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# It takes about a minute and a half on two cores, up to twice in a session.
LONGEST_SECONDS = 900
COLLECT = ["--collect-only", "tests/conformance/test_pull_blocks.py"]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]


def asked_for() -> set[str] | None:
    names = os.environ.get("LLM_DATADIST_TEST_PATHS")
    return None if names is None else set(names.split(","))


@pytest.fixture
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


def check_suite(environment: dict[str, str], *arguments: str) -> None:
    """All pass, or say which capability is missing."""
    result = session(environment, "tests/conformance", *arguments)
    sys.stdout.write(result.stdout)
    assert result.returncode == 0, "see what it printed"
    assert " passed" in result.stdout
    skipped = [line for line in result.stdout.splitlines() if line.startswith("SKIPPED")]
    assert [line for line in skipped if ": capability " not in line] == []


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


def test_the_conformance_suite(wanted: dict[str, str]) -> None:
    check_suite(wanted)


def test_the_conformance_suite_where_device_memory_has_no_host_addresses(
    wanted: dict[str, str],
) -> None:
    """As on a device host. What takes no path is run only when this was asked for."""
    arguments = ["-k", "ascend"] if asked_for() is None else []
    check_suite({**wanted, "FAKE_CANN_DEVICE_MEMORY": "opaque"}, *arguments)


# ---- what is asked for, and cannot be had


@pytest.fixture
def no_compiler(tmp_path: Path) -> dict[str, str]:
    variables = ("CXX", "LLM_DATADIST_TEST_PATHS")
    here = {name: value for name, value in os.environ.items() if name not in variables}
    return {**here, "PATH": str(tmp_path)}


def test_without_a_compiler_it_is_skipped(no_compiler: dict[str, str]) -> None:
    result = session(no_compiler, __file__, "-k", "test_the_conformance_suite")
    assert result.returncode == 0, result.stdout
    assert "capability fake CANN: there is no C++ compiler" in result.stdout
    assert "2 skipped" in result.stdout


def test_without_a_compiler_it_fails_if_it_was_asked_for(no_compiler: dict[str, str]) -> None:
    asked = {**no_compiler, "LLM_DATADIST_TEST_PATHS": "ascend"}
    result = session(asked, __file__, "-k", "test_the_conformance_suite")
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
