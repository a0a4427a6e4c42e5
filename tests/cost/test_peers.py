# SPDX-License-Identifier: Apache-2.0
"""The duels with peers run; those that need nothing else are measured here, small."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from llm_datadist.testing import eventually
from tests.cost.bench_processes import children_of, state_of, wait_until_ended

ROOT = Path(__file__).resolve().parents[2]


def _run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.peers", "--tiny", "--rounds=2", *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=300,
    )


def test_a_duel():
    done = _run("--peers=mp_shm", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["left_out"] == {}
    assert [duel["work"] for duel in report["duels"]] == ["W1", "W2", "W3", "W4"]
    for duel in report["duels"]:
        assert (duel["peer"], duel["path"], duel["rounds"]) == ("mp_shm", "allocated", 2)
        for spread in (duel["peer_us"], duel["llm_datadist_us"], duel["times_as_fast"]):
            assert 0 < spread["min"] <= spread["median"] <= spread["max"]
        least = duel["peer_us"]["min"] / duel["llm_datadist_us"]["max"]
        most = duel["peer_us"]["max"] / duel["llm_datadist_us"]["min"]
        assert least <= duel["times_as_fast"]["median"] <= most
    # Nothing of the peers stays, and they have nothing to say.
    assert done.stderr == ""


def test_the_table():
    done = _run("--peers=mp_shm", "--only=W3")
    assert done.returncode == 0, done.stderr
    rows = [line.split("  ")[0] for line in done.stdout.splitlines() if line.strip()]
    assert "llm_datadist, allocated" in rows
    assert "shared_memory and numpy" in done.stdout


@pytest.fixture
def catalogue(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.peers.catalogue")


def test_what_is_not_installed_is_listed(mocker, catalogue):
    mocker.patch.object(catalogue.importlib.util, "find_spec", return_value=None)
    assert "pip install --no-deps libucx-cu12" in catalogue.PEERS["ucx"].obstacle()
    assert "pip install mooncake" in catalogue.PEERS["mooncake"].obstacle()
    assert catalogue.PEERS["mp_shm"].obstacle() == ""


def test_an_unknown_peer():
    done = _run("--peers=pigeon")
    assert done.returncode == 2
    assert "'pigeon' is none of native, ucx" in done.stderr


def test_each_peer_has_its_module_and_its_opponent(catalogue):
    folder = ROOT / "benchmarks" / "peers"
    for name, peer in catalogue.PEERS.items():
        assert peer.name == name
        assert (folder / f"{peer.module}.py").is_file()
        assert peer.path in ("registered", "allocated", "tcp")
        assert bool(peer.needs) == bool(peer.install)


def test_a_killed_run_leaves_no_process_not_even_a_stopped_one():
    duel = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers", "--tiny", "--rounds=1000000", "--peers=mp_shm"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: "T" in [state_of(child) for child in children_of(duel.pid)], "a stop")
        eventually(lambda: len(children_of(duel.pid)) == 4, "two pairs")
        children = children_of(duel.pid)
    finally:
        duel.kill()
        duel.wait()
    wait_until_ended(children)
