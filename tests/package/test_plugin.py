# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "llm_datadist_cffi_pytest"


def run_pytest(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of this text where nothing of the repository is configured."""
    (folder / "test_client.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def outcome(result: subprocess.CompletedProcess[str]) -> str:
    """The counts of the last line: "2 passed, 1 error"."""
    return re.sub(r" in [0-9.]+s.*|=+ ?", "", result.stdout.strip().splitlines()[-1])


def test_every_pytest_of_the_environment_has_it() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert f'[project.entry-points.pytest11]\n{PLUGIN} = "{PLUGIN}"\n' in text
    installed = {
        entry.value
        for distribution in metadata.distributions()
        if distribution.metadata["Name"] == "llm-datadist-cffi"
        for entry in distribution.entry_points
        if entry.group == "pytest11"
    }
    assert installed == {PLUGIN}, "install the package again: its entry points are older"


def test_it_costs_nothing_where_it_is_not_used(tmp_path: Path) -> None:
    result = run_pytest(
        tmp_path,
        "import sys\n"
        "def test_nothing():\n"
        f"    assert '{PLUGIN}' in sys.modules\n"
        "    assert not {'llm_datadist', 'numpy', 'cffi', '_cffi_backend'} & set(sys.modules)\n",
    )
    assert outcome(result) == "1 passed", result.stdout


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "testing.md").read_text(), re.DOTALL
    )
    result = run_pytest(tmp_path, example)
    assert outcome(result) == "1 passed", result.stdout + result.stderr


def test_each_test_has_a_scope_of_its_own(tmp_path: Path) -> None:
    result = run_pytest(
        tmp_path,
        """
import os

import pytest

seen = set()

def scope_of(actor):
    return os.environ["LLM_DATADIST_SCOPE"]

@pytest.mark.parametrize("number", range(2))
def test_scope(datadist_scope, datadist_peers, number):
    assert os.environ["LLM_DATADIST_SCOPE"] == datadist_scope
    assert datadist_peers().call(scope_of) == datadist_scope
    seen.add(datadist_scope)

def test_they_differ():
    assert len(seen) == 2
    assert "LLM_DATADIST_SCOPE" not in os.environ
""",
    )
    assert outcome(result) == "3 passed", result.stdout + result.stderr


def test_faults_end_with_the_test(tmp_path: Path) -> None:
    result = run_pytest(
        tmp_path,
        """
def test_left(datadist_faults):
    datadist_faults.replace("read drop")
    assert datadist_faults.rules()

def test_gone():
    from llm_datadist.testing import faults
    assert faults.rules() == []
""",
    )
    assert outcome(result) == "2 passed", result.stdout + result.stderr


def test_peers_must_end_in_the_regular_way(tmp_path: Path) -> None:
    result = run_pytest(
        tmp_path,
        """
import os

def leave(actor, code):
    os._exit(code)

def test_killed_by_the_test(datadist_peers):
    datadist_peers().kill()
    assert datadist_peers(LLDD_TEST="1").call(os_environ)["LLDD_TEST"] == "1"

def os_environ(actor):
    return dict(os.environ)

def test_died(datadist_peers):
    peer = datadist_peers()
    peer.start_call(leave, 3)
    peer.process.wait(10)
""",
    )
    assert outcome(result) == "2 passed, 1 error", result.stdout + result.stderr
    assert "ended with 3 during the test" in result.stdout


@pytest.mark.parametrize("name", ["datadist_peers", "datadist_faults", "datadist_scope"])
def test_pytest_lists_the_fixtures_with_their_meaning(name: str) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--fixtures", "-p", PLUGIN, "-c", os.devnull, __file__],
        cwd=ROOT / "docs",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert re.search(rf"^{name} .*{PLUGIN}\.py:\d+\n    [A-Z]", listed.stdout, re.MULTILINE)
