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

ROOT = Path(__file__).resolve().parents[2]
# It takes about a minute and a half on two cores.
LONGEST_SECONDS = 900
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
    # So that HIXL begins with init, as the suite expects of what an engine holds.
    address = {"LLM_DATADIST_HOST_IP": "127.0.0.1"}
    return {**os.environ, **environment, **address, "LLM_DATADIST_TEST_PATHS": "ascend"}


def test_the_conformance_suite(wanted: dict[str, str]) -> None:
    result = subprocess.run(
        [*PYTEST, "tests/conformance"],
        cwd=ROOT,
        env=wanted,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST_SECONDS,
    )
    sys.stdout.write(result.stdout)
    assert result.returncode == 0, "see what it printed"
    assert " passed" in result.stdout
