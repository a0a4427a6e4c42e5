# SPDX-License-Identifier: Apache-2.0
"""A toolkit that is laid out as CANN's, in a process without CANN's environment: the library links,
loads and runs, and says what to source where it cannot.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fake_cann import toolkit

OPEN = """
from llm_datadist.testing.actor import EngineSpec
EngineSpec(7, listen="127.0.0.1:0").open().finalize()
print("opened")
"""


def open_an_engine(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """In a process without the variables of CANN's environment script."""
    ours = {"LD_LIBRARY_PATH", "ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"}
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-c", OPEN]
    return subprocess.run(command, env={**clean, **environment}, text=True, capture_output=True)


def needed(library: Path) -> set[str]:
    listing = subprocess.run(
        ["readelf", "-d", library], check=True, capture_output=True, text=True
    ).stdout
    assert not {"(RUNPATH)", "(RPATH)"} & set(listing.split())
    return set(re.findall(r"\(NEEDED\).*\[lib(.+)\.so\]", listing))


def test_the_fake_is_laid_out_as_the_original() -> None:
    folder = toolkit.toolkit() / "lib64"
    names = {path.stem for path in folder.iterdir()}
    assert {"libcann_hixl", "libmetadef", "libacl_rt", "libhcomm", "libascend_hal"} <= names
    assert {"metadef", "acl_rt"} <= needed(folder / "libcann_hixl.so")
    # HIXL opens it when it begins.
    assert "hcomm" not in needed(folder / "libcann_hixl.so")


def test_it_runs_without_an_environment_script(on_fake: dict[str, str]) -> None:
    result = open_an_engine({"LLM_DATADIST_BACKEND": on_fake["LLM_DATADIST_BACKEND"]})
    assert (result.returncode, result.stdout) == (0, "opened\n"), result.stderr


@pytest.fixture
def without_hcomm(tmp_path: Path) -> Path:
    """The libraries of a toolkit, but for the one that HIXL opens by its name."""
    folder = tmp_path / "cann" / "lib64"
    shutil.copytree(toolkit.toolkit() / "lib64", folder)
    (folder / "libhcomm.so").unlink()
    return folder


def test_it_says_what_to_source(on_fake: dict[str, str], without_hcomm: Path) -> None:
    chosen = {
        "LLM_DATADIST_BACKEND": on_fake["LLM_DATADIST_BACKEND"],
        "LD_LIBRARY_PATH": str(without_hcomm),
    }
    result = open_an_engine(chosen)
    assert result.returncode != 0
    text = result.stderr
    assert f"HIXL ({without_hcomm / 'libcann_hixl.so'}) needs libhcomm.so" in text
    assert "Source the toolkit's set_env.sh before this process starts" in text
    # HIXL also takes it from where the loader looks.
    elsewhere = without_hcomm.parent / "hcomm"
    elsewhere.mkdir()
    shutil.copy(toolkit.toolkit() / "lib64" / "libhcomm.so", elsewhere)
    chosen["LD_LIBRARY_PATH"] += f":{elsewhere}"
    assert open_an_engine(chosen).returncode == 0
