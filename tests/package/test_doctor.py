# SPDX-License-Identifier: Apache-2.0
"""Whole runs of ``llm-datadist doctor``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm_datadist._cli._probe import BACKEND, in_child
from llm_datadist._cli.doctor import SECTIONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def doctor(tmp_path):
    """Run it as the console script does; returns the finished process."""

    def run(*arguments, package=ROOT, **environment):
        variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ASCEND_")},
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "LLM_DATADIST_BACKEND": "mock",
            "PYTHONPATH": str(package),
            **environment,
        }
        return subprocess.run(
            [sys.executable, str(package / "llm_datadist_cffi_cli.py"), "doctor", *arguments],
            cwd=tmp_path,
            env=variables,
            text=True,
            capture_output=True,
            timeout=120,
        )

    return run


@pytest.fixture
def report(doctor):
    """Run it with --json; returns the exit status and what it printed, findings by name."""

    def run(**options):
        result = doctor("--json", **options)
        told = json.loads(result.stdout)
        findings = [finding for section in told["sections"].values() for finding in section]
        return result.returncode, told, {finding["name"]: finding for finding in findings}

    return run


def test_text(doctor):
    result = doctor()
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    titles = [line for line in result.stdout.splitlines() if line and line[0] != " "]
    assert titles[:5] == ["Package", "CANN", "Libraries", "Backend", "Kernel"]
    assert titles[-1] in ("Nothing to fix.", "First to fix")
    assert "mock (LLM_DATADIST_BACKEND is mock); an engine opens" in result.stdout


def test_json(report):
    status, told, findings = report()
    assert (status, told["works"]) == (0, True)
    # What the progress bar counts to.
    assert len(told["sections"]) == SECTIONS
    assert findings["import"]["level"] == "ok"
    assert findings["mock"]["data"]["device_count"] == 16
    assert findings["backend"]["data"]["chosen"] == "mock"
    assert findings["LLM_DATADIST_BACKEND"]["data"]["value"] == "mock"
    assert {"mapped", "cma", "tcp"} <= set(findings)
    assert {"driver", "built against", "hixl"} <= set(findings)
    there = findings["ascend"]["data"]["path"] is not None
    assert findings["hixl"]["data"]["usable"] is there
    assert all(set(finding) >= {"level", "text", "advice"} for finding in findings.values())


def test_it_runs_beside_another_package_of_the_name(report, tmp_path):
    """CANN's environment script may put CANN's own llm_datadist in front on the path."""
    package = tmp_path / "llm_datadist"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('the decoy was imported')\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    status, told, findings = report(PYTHONPATH=path)
    assert (status, told["works"]) == (0, True)
    assert told["first_to_fix"] == "import"
    assert findings["import"]["level"] == "fail"
    assert findings["import"]["data"]["found"] == str(package / "__init__.py")


def test_no_backend(report):
    status, told, findings = report(LLM_DATADIST_BACKEND="ascend")
    assert (status, told["works"], told["first_to_fix"]) == (1, False, "backend")
    assert "there is no such library" in findings["backend"]["text"]
    assert "llm-datadist build-ascend" in findings["backend"]["advice"]


def test_a_checkout_that_was_not_built(report, tmp_path):
    """Neither libraries nor declarations: it runs all the same, and says what is missing."""
    package = tmp_path / "checkout"
    built = shutil.ignore_patterns("__pycache__", "_ffi.py", "*.so")
    shutil.copytree(ROOT / "llm_datadist", package / "llm_datadist", ignore=built)
    shutil.copy(ROOT / "llm_datadist_cffi_cli.py", package)
    status, told, findings = report(package=package)
    assert (status, told["first_to_fix"]) == (1, "backend")
    assert findings["import"]["level"] == "ok"
    assert findings["versions"]["data"]["abi"] == "unknown"
    for name in ("backend", "mock", "ascend"):
        assert "_ffi was not generated" in findings[name]["text"]


def test_a_toolkit_without_a_library(report, tmp_path):
    status, _, findings = report(LLM_DATADIST_BACKEND="auto", ASCEND_HOME_PATH=str(tmp_path))
    assert status == 1
    assert f"a CANN toolkit in {tmp_path}" in findings["backend"]["text"]
    assert findings["toolkit"]["level"] == "warn"


def test_a_variable_that_the_runtime_refuses(report):
    """The library loads all the same, so only an engine tells."""
    status, _, findings = report(LLM_DATADIST_MOCK_TRANSPORT="pigeon")
    assert status == 1
    assert findings["mock"]["level"] == "ok"
    assert 'LLM_DATADIST_MOCK_TRANSPORT is "pigeon"' in findings["backend"]["text"]


def test_a_library_that_ends_the_process(report, tmp_path):
    compiler = next(filter(shutil.which, ["cc", "gcc", "clang"]), None)
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    path = tmp_path / "libdeadly.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)],
        input="#include <stdlib.h>\n__attribute__((constructor)) static void f(void) { abort(); }",
        text=True,
        check=True,
    )
    status, _, findings = report(LLM_DATADIST_BACKEND=str(path))
    assert status == 1
    assert "killed by SIGABRT" in findings["backend"]["text"]
    assert findings["memory"]["level"] in ("ok", "warn")


def test_a_library_that_does_not_answer(tmp_path):
    """Nothing answers within no time."""
    tried = in_child(BACKEND, os.environ, patience=0.0)
    assert "no answer within 0 seconds" in tried.error
    assert tried.path == ""
