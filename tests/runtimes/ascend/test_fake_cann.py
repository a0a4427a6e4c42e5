# SPDX-License-Identifier: Apache-2.0
"""The fake CANN itself: what it refuses, so that the Ascend runtime is not tested against a
complaisant one.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llm_datadist._native import compiler
from tests.support.fake_cann import toolkit

SOURCE = toolkit.HERE / "refusals.cc"


CASES = re.findall(r'^ +\{"([a-z_0-9]+)", [A-Z]', SOURCE.read_text(), re.MULTILINE)


@pytest.fixture(scope="session", params=toolkit.VERSIONS)
def program(
    on_fake: dict[str, str], tmp_path_factory: pytest.TempPathFactory, request: Any
) -> Path:
    folder = toolkit.toolkit(request.param) / "lib64"
    made = tmp_path_factory.mktemp("fake_cann") / "refusals"
    libraries = [f"-L{folder}", f"-Wl,-rpath,{folder}", "-Wl,--disable-new-dtags"]
    libraries += ["-lcann_hixl", "-lmetadef", "-lacl_rt", "-pthread"]
    version = f"-DFAKE_HIXL={toolkit.VERSIONS[request.param]}"
    command = [*compiler.find_compiler(), *toolkit.FLAGS, version, str(SOURCE), *libraries]
    subprocess.run([*command, "-o", str(made)], check=True)
    return made


def test_every_case_is_run(program: Path) -> None:
    listed = subprocess.run([program], check=True, capture_output=True, text=True)
    assert listed.stdout.split() == CASES


def test_refusals(program: Path) -> None:
    """As each of the versions: what it refuses, and what was observed of it."""
    environment = {**os.environ, "FAKE_CANN_WAITS": "0.002"}
    environment.pop("LD_LIBRARY_PATH", None)
    failed = {}
    for name in CASES:
        result = subprocess.run(
            [program, name], capture_output=True, text=True, timeout=60, env=environment
        )
        if (result.returncode, result.stderr) != (0, ""):
            failed[name] = f"{result.returncode}: {result.stderr}"
    assert failed == {}
