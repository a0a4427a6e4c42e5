# SPDX-License-Identifier: Apache-2.0
"""The Ascend library on the fake CANN, for tests of its own; built when the first of them runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.runtimes.ascend.ascend_peers import Faults, Peers
from tests.support.fake_cann import toolkit

# A folder with a library that was built elsewhere (tests/mutation).
KEPT = os.environ.get("LLDD_TEST_BUILT")


@pytest.fixture(scope="session")
def on_fake() -> dict[str, str]:
    """The environment of a process that uses the Ascend library on the fake CANN."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("capability fake CANN: there is no C++ compiler to build it")
    environment = (
        toolkit.environment()
        if KEPT is None
        else {
            "LLM_DATADIST_BACKEND": str(Path(KEPT) / "libllm_datadist_ascend.so"),
            "LLM_DATADIST_TEST_FAKE_CANN": "1",
            **toolkit.surroundings(),
        }
    )
    return environment


@pytest.fixture(scope="session")
def library(on_fake: dict[str, str]) -> Path:
    """The Ascend library, built against the fake."""
    return Path(on_fake["LLM_DATADIST_BACKEND"])


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    return Faults(tmp_path / "faults")


@pytest.fixture
def peers(on_fake: dict[str, str], faults: Faults) -> Iterator[Peers]:
    with ExitStack() as exits:
        yield Peers({**on_fake, "FAKE_CANN_FAULTS": str(faults.path)}, exits)


@pytest.fixture
def old_peers(on_fake: dict[str, str], faults: Faults) -> Iterator[Peers]:
    """The same on HIXL 8.5.0, whatever version the others are on."""
    old = toolkit.surroundings("8.5.0")
    with ExitStack() as exits:
        yield Peers({**on_fake, **old, "FAKE_CANN_FAULTS": str(faults.path)}, exits)
