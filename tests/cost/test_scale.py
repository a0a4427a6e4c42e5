# SPDX-License-Identifier: Apache-2.0
"""The curves run and print what their README says; how steep they are is not asked here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALWAYS = {
    "register": {"register_us", "unregister_us", "bytes_per_cache"},
    "pull": {"link_us", "first_pull_us", "pull_us", "pull_after_register_us"},
    "request": {"link_us", "first_pull_us", "pull_us", "pull_after_register_us"},
    "links": {"threads", "descriptors"},
    "keys": {"bind_us", "pull_us", "pull_unknown_us", "remove_us", "bytes_per_key"},
    "lists": {"in_order_ns", "random_ns", "random_list_ns", "kept_bytes"},
    "lists-allocated": {"in_order_ns", "random_ns", "random_list_ns", "kept_bytes"},
}
POINTS = {"links": [1, 4, 0], "keys": [1000, 2000], "lists": [1, 10], "lists-allocated": [1, 10]}


def _run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--tiny", *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=300,
    )


def test_all_curves():
    done = _run("--json")
    assert done.returncode == 0, done.stderr
    curves = json.loads(done.stdout)
    assert set(curves) == set(ALWAYS)
    for name, rows in curves.items():
        assert [row["n"] for row in rows] == POINTS.get(name, [1, 4])
        for row in rows:
            assert set(row["figures"]) >= ALWAYS[name]
            for figure, value in row["figures"].items():
                # Memory may be given back meanwhile; everything else is something.
                assert value > 0 or "bytes" in figure, (name, figure)
    assert {row["figures"]["threads"] for row in curves["links"]} == {
        curves["links"][0]["figures"]["threads"]
    }


def test_the_table_of_one_curve():
    done = _run("--only=register")
    assert done.returncode == 0, done.stderr
    title, head, *rows = done.stdout.splitlines()
    assert "N caches registered" in title
    assert head.split() == ["N", "register_us", "unregister_us", "bytes_per_cache"]
    assert [row.split()[0] for row in rows] == ["1", "4"]
    assert "register 4" in done.stderr


@pytest.mark.parametrize("argument", ["--only=smoke", "--rounds=1"])
def test_wrong_arguments(argument):
    done = _run(argument)
    assert done.returncode == 2
    assert argument.partition("=")[0] in done.stderr
