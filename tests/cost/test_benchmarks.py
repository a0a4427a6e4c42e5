# SPDX-License-Identifier: Apache-2.0
"""The command bench runs and prints what its help says; how fast is not asked here."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from llm_datadist._bench import course, package, work
from llm_datadist._bench.results import PATHS
from llm_datadist._cli import bench
from llm_datadist._tools.host import AvailableMemory
from llm_datadist._tools.outcome import Refusal
from llm_datadist.testing import eventually
from tests.cost.bench_processes import children_of, wait_until_ended

LIMITS = {"registered": "readv_t2", "allocated": "nt_t2", "tcp": "raw_tcp"}
TINY_BYTES = {"W1": 8 * 8 << 16, "W2": 2 * 16 << 12, "W3": 1 << 12, "W4": 2 << 20}
HAS_COMPILER = bool(os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc"))
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

needs_compiler = pytest.mark.skipif(
    not HAS_COMPILER, reason="capability C compiler: none for the references"
)


def _run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "llm_datadist", "bench", "--tiny", *arguments],
        env={**os.environ, **environment},
        text=True,
        capture_output=True,
        timeout=300,
    )


def _report(*arguments, **environment):
    done = _run("--json", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_compiler
@pytest.mark.parametrize("path", LIMITS)
def test_all_works_and_sweeps_on_a_path(path):
    report = _report("--rounds=2", f"--path={path}", "--only=W1,W2,W3,W4", "--sweep=size,count")
    if path == "registered" and report["unavailable"]:
        pytest.skip(f"capability process_vm: {report['unavailable'][path]}")
    assert report["unavailable"] == {}
    assert report["no_references"] == ""
    assert report["machine"]["cpus"] >= 1
    assert report["machine"]["runtime"].startswith("mock ")
    assert set(report["machine"]["kernels"]) == {"ref", "nt_t2"}
    by_group = {"work": [], "size": [], "count": []}
    limit = LIMITS[path]
    for result in report["results"]:
        by_group[result["group"]].append(result)
        assert result["path"] == path
        assert result["rounds"] == 2
        assert result["bytes"] == result["tensors"] * result["blocks"] * result["block_bytes"]
        assert result["pages"]
        assert set(result["microseconds"]) == {"llm_datadist", "ref", limit}
        assert set(result["gb_per_s"]) == {"llm_datadist", "ref", limit}
        assert set(result["ratio"]) == set(result["added_us"]) == {"ref", limit}
        for figures in ("microseconds", "gb_per_s", "ratio"):
            for spread in result[figures].values():
                assert 0 < spread["min"] <= spread["median"] <= spread["max"]
        fastest = result["bytes"] / result["microseconds"][limit]["min"] / 1e3
        assert result["gb_per_s"][limit]["max"] == pytest.approx(fastest)
    assert {each["work"]: each["bytes"] for each in by_group["work"]} == TINY_BYTES
    assert len({each["bytes"] for each in by_group["size"]}) == 1
    assert [each["block_bytes"] for each in by_group["size"]] == [1 << 10, 1 << 14, 1 << 18]
    assert [each["blocks"] for each in by_group["count"]] == [1, 4]


@needs_compiler
def test_the_table_of_some_works():
    done = _run("--rounds=1", "--path=allocated", "--only=W2,W3")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows if row and row[0].startswith("W")] == ["W2", "W3"]
    assert "beside nt_t2" in done.stdout
    # Tiny works say nothing of what is aimed at, and no bar is where nobody sees it move.
    assert "target" not in done.stdout
    assert "\r" not in done.stderr


def test_without_a_compiler_there_are_figures_of_this_package():
    arguments = ["--rounds=1", "--path=allocated", "--only=W3"]
    report = _report(*arguments, CC="no-such-compiler")
    assert "no-such-compiler" in report["no_references"]
    (result,) = report["results"]
    assert set(result["microseconds"]) == {"llm_datadist"}
    assert result["ratio"] == {}
    done = _run(*arguments, CC="no-such-compiler")
    assert done.returncode == 0
    assert "figures without references: no C compiler (no-such-compiler)" in done.stdout
    assert "beside" not in done.stdout


def test_a_compiler_that_fails_is_said():
    report = _report("--rounds=1", "--path=allocated", "--only=W3", CC="false")
    assert report["no_references"].startswith("false failed")
    assert len(report["results"]) == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_a_path_that_is_not_there_is_said(as_json, tmp_path):
    scope = tmp_path / "scope"
    scope.write_text("3\n")
    done = _run(
        "--rounds=1",
        "--path=registered",
        *(["--json"] if as_json else []),
        LLM_DATADIST_MOCK_PTRACE_SCOPE_FILE=str(scope),
    )
    assert done.returncode == 0, done.stderr
    if as_json:
        report = json.loads(done.stdout)
        assert report["results"] == []
        assert report["unavailable"]["registered"]
    else:
        assert "registered: not available here: " in done.stdout


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("--only=W5", "'W5' is none of W1, W2, W3, W4"),
        ("--path=smoke", "'smoke' is none of registered, allocated, tcp"),
        ("--sweep=colour", "'colour' is none of size, count"),
        ("--rounds=0", "at least 1, got '0'"),
        ("--rounds=x", "at least 1, got 'x'"),
        ("--plot=figure.jpg", "'figure.jpg' does not end with .png"),
        ("--plot=/no/such/directory/figure.png", "cannot be written"),
    ],
)
def test_wrong_arguments(argument, text):
    done = _run(argument)
    assert done.returncode == 2
    assert argument.partition("=")[0] in done.stderr
    assert text in done.stderr
    assert done.stdout == ""


def test_a_refusal_is_json_too():
    done = _run("--json", "--plot=figure.jpg")
    assert done.returncode == 2
    assert "figure.jpg" in json.loads(done.stdout)["error"]


def test_a_backend_that_is_none_is_refused_once():
    done = _run("--path=tcp", LLM_DATADIST_BACKEND="carrier")
    assert done.returncode == 2
    assert done.stderr.count("LLM_DATADIST_BACKEND names the backend 'carrier'") == 1


def test_the_help_names_what_there_is():
    """The lists are written twice, so that a help text needs no numpy."""
    assert tuple(work.FULL) == tuple(work.TINY) == bench.WORKS
    assert tuple(PATHS) == bench.PATHS
    assert work.SWEEPS == bench.SWEEPS


def test_what_does_not_fit_is_refused_with_what_would(mocker):
    little, enough = AvailableMemory(1 << 30, "here"), AvailableMemory(5 << 30, "here")
    mocker.patch.object(course, "available_memory", return_value=little)
    setup = package.Setup(PATHS["allocated"], list(work.FULL.values()), "references.so")
    with pytest.raises(Refusal, match=r"needs 4\.188 GiB .* 1 GiB is available here; W2, W3 "):
        course.refuse_what_does_not_fit(setup)
    mocker.patch.object(course, "available_memory", return_value=enough)
    course.refuse_what_does_not_fit(setup)


# ---- --plot ----


def _hide_matplotlib(directory):
    """Make a process not find matplotlib; returns what its environment needs."""
    (directory / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        "def find_spec(name, package=None):\n"
        "    return None if name == 'matplotlib' else found(name, package)\n"
        "importlib.util.find_spec = find_spec\n"
    )
    return {"PYTHONPATH": os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")])}


def test_a_plot_without_matplotlib_names_the_extra(tmp_path):
    done = _run(f"--plot={tmp_path / 'figure.png'}", **_hide_matplotlib(tmp_path))
    assert done.returncode == 2
    assert "pip install 'llm-datadist-cffi[plot]'" in done.stderr
    assert not (tmp_path / "figure.png").exists()


@pytest.mark.parametrize("compiler", [{}, {"CC": "no-such-compiler"}])
def test_a_plot(tmp_path, compiler):
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("capability matplotlib: not installed")
    file = tmp_path / "figure.png"
    report = _report(
        "--rounds=1", "--path=allocated,tcp", "--sweep=size,count", f"--plot={file}", **compiler
    )
    assert {result["group"] for result in report["results"]} == {"size", "count"}
    content = file.read_bytes()
    assert content.startswith(PNG_MAGIC)
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    assert width > height > 300


# ---- the end ----


def test_an_interrupted_bench_leaves_no_process():
    bench = subprocess.Popen(
        [sys.executable, "-m", "llm_datadist", "bench", "--tiny", "--rounds=1000000", "--json"],
        env={**os.environ, "CC": "no-such-compiler"},  # so that all children are peers
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        eventually(lambda: len(children_of(bench.pid)) == 2, "an owner and a puller")
        peers = children_of(bench.pid)
        bench.send_signal(signal.SIGINT)
        stdout, stderr = bench.communicate(timeout=60)
    finally:
        bench.kill()
        bench.wait()
    assert bench.returncode == 128 + signal.SIGINT
    assert json.loads(stdout) == {"error": "interrupted"}
    assert "Traceback" not in stderr
    # One that was being started in that moment is in nobody's list yet, and ends by itself when it
    # finds the other end of its channel closed.
    wait_until_ended(peers)
