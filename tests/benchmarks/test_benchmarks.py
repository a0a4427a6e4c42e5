# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run and print what their README says; how fast is not asked here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"registered": "readv_t2", "allocated": "nt_t2", "tcp": "raw_tcp"}
TINY_BYTES = {"W1": 8 * 8 << 16, "W2": 2 * 16 << 12, "W3": 1 << 12, "W4": 2 << 20}

pytestmark = pytest.mark.skipif(
    not (os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")),
    reason="no C compiler for the references",
)


def _run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.run", "--tiny", *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=300,
    )


@pytest.mark.parametrize("path", LIMITS)
def test_all_works_on_a_path(path):
    done = _run("--json", "--rounds=2", f"--path={path}")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    if path == "registered" and report["unavailable"]:
        pytest.skip(f"capability process_vm: {report['unavailable'][path]}")
    assert report["unavailable"] == {}
    assert report["machine"]["cpus"] >= 1
    assert set(report["machine"]["kernels"]) == {"ref", "nt_t2"}
    assert [result["work"] for result in report["results"]] == list(TINY_BYTES)
    limit = LIMITS[path]
    for result in report["results"]:
        assert result["path"] == path
        assert result["rounds"] == 2
        assert result["bytes"] == TINY_BYTES[result["work"]]
        assert result["pages"]
        assert set(result["microseconds"]) == {"llm_datadist", "ref", limit}
        assert set(result["ratio"]) == set(result["added_us"]) == {"ref", limit}
        for spread in [*result["microseconds"].values(), *result["ratio"].values()]:
            assert 0 < spread["min"] <= spread["median"] <= spread["max"]


def test_the_table_of_some_works():
    done = _run("--rounds=1", "--path=allocated", "--only=W2,W3")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows if row and row[0].startswith("W")] == ["W2", "W3"]
    assert "of nt_t2" in done.stdout


@pytest.mark.parametrize("as_json", [False, True])
def test_a_path_that_is_not_there_is_said(as_json, monkeypatch, tmp_path):
    scope = tmp_path / "scope"
    scope.write_text("3\n")
    monkeypatch.setenv("LLM_DATADIST_MOCK_PTRACE_SCOPE_FILE", str(scope))
    done = _run("--rounds=1", "--path=registered", *(["--json"] if as_json else []))
    assert done.returncode == 0, done.stderr
    if as_json:
        report = json.loads(done.stdout)
        assert report["results"] == []
        assert report["unavailable"]["registered"]
    else:
        assert "registered: not available here: " in done.stdout


@pytest.mark.parametrize("argument", ["--only=W5", "--path=smoke", "--rounds=0"])
def test_wrong_arguments(argument):
    done = _run(argument)
    assert done.returncode == 2
    assert argument.partition("=")[0] in done.stderr
