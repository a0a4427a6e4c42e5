# SPDX-License-Identifier: Apache-2.0
"""The fake CANN itself: what it refuses, so that the Ascend runtime is not tested against a
complaisant one.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from llm_datadist._native import compiler
from tests.support.fake_cann import toolkit

SOURCE = toolkit.HERE / "refusals.cc"


@pytest.fixture(scope="session")
def program(on_fake: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = toolkit.toolkit()
    made = tmp_path_factory.mktemp("fake_cann") / "refusals"
    folder = root / "lib64"
    libraries = [f"-L{folder}", f"-Wl,-rpath,{folder}", "-Wl,--disable-new-dtags"]
    libraries += ["-lcann_hixl", "-lmetadef", "-lacl_rt"]
    command = [*compiler.find_compiler(), *toolkit.FLAGS, str(SOURCE), *libraries, "-o", str(made)]
    subprocess.run(command, check=True)
    return made


CASES = re.findall(r'^ +\{"([a-z_]+)", [A-Z]', SOURCE.read_text(), re.MULTILINE)


def test_every_case_is_run(program: Path) -> None:
    listed = subprocess.run([program], check=True, capture_output=True, text=True)
    assert listed.stdout.split() == CASES


@pytest.mark.parametrize("name", CASES)
def test_refusals(program: Path, name: str) -> None:
    result = subprocess.run([program, name], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
