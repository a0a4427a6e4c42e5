# SPDX-License-Identifier: Apache-2.0
"""The demo moves blocks on every path, and says so only when every byte is right."""

from __future__ import annotations

import json

import pytest

from tests.package.demo_command import SMALL

CACHE_BYTES = 4 * 8 * 256


def _run_json(demo, *arguments):
    done = demo(*SMALL, "--json", "--rounds=2", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _check(report, path):
    assert [done["operation"] for done in report["operations"]] == ["pull", "push"]
    for done in report["operations"]:
        assert done["path"] == path
        assert done["blocks"] == 4
        assert done["bytes"] == CACHE_BYTES // 2
        assert len(done["seconds_each"]) == 2
        assert min(done["seconds_each"]) > 0
        assert done["gb_per_s"] == pytest.approx(done["bytes"] / done["seconds"] / 1e9)
    assert [done["from"] for done in report["operations"]] == ["prompt", "decoder"]
    # Two rounds of two transfers; after each of them both caches.
    assert report["checked_bytes"] == 2 * 2 * 2 * CACHE_BYTES
    assert report["path_reason"]


@pytest.mark.usefixtures("needs_process_vm")
def test_registered_memory_by_process_vm(demo):
    _check(_run_json(demo, "--transport=cma"), "cma")


def test_allocated_memory_is_mapped(demo):
    _check(_run_json(demo, "--memory=allocated", "--transport=mapped"), "mapped")


@pytest.mark.parametrize("memory", ["registered", "allocated"])
def test_any_memory_by_tcp(demo, memory):
    report = _run_json(demo, f"--memory={memory}", "--transport=tcp")
    assert report["memory"] == memory
    _check(report, "tcp")


def test_the_table(demo):
    done = demo(*SMALL, "--memory=allocated", "--rounds=1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "2 layers, K and V, 2 KV heads x 16, 4 tokens a block, bfloat16"
    rows = [line.split() for line in lines]
    assert ["pull", "prompt", "->", "decoder", "4", "4", "KiB"] in [row[:7] for row in rows]
    assert ["push", "decoder", "->", "prompt", "4", "4", "KiB"] in [row[:7] for row in rows]
    assert lines[-1] == "checked: 32 KiB, every byte right"
    # No bar where nobody sees it move.
    assert "\r" not in done.stderr


def test_a_single_block(demo):
    done = demo(*SMALL, "--blocks=1", "--rounds=1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["operations"][0]["blocks"] == 1


@pytest.mark.parametrize("which", ["addressed", "untouched"])
def test_one_wrong_byte_is_found(demo, which):
    done = demo(*SMALL, f"--corrupt-for-test={which}")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "WrongByteError" in done.stderr
    # Which one is damaged: the last byte of the last tensor.
    assert "tensor 3 (V of layer 1), byte 255 of 256 bytes" in done.stderr
    moved = "of the peer was moved there" in done.stderr
    assert moved == (which == "addressed")


def test_a_failure_is_json_too(demo):
    done = demo(*SMALL, "--json", "--corrupt-for-test=addressed")
    assert done.returncode == 1
    assert "WrongByteError" in json.loads(done.stdout)["error"]


def test_what_does_not_fit_is_refused_before_anything_starts(demo):
    done = demo("--blocks=100000000", "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert "need 2.98 PiB of memory" in error
    assert "--blocks" in error
    assert "process" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--blocks=0"], "at least 1"),
        (["--layers=-1"], "at least 1"),
        (["--rounds=x"], "--rounds"),
        (["--timeout=0"], "--timeout"),
        (["--transport=pigeon"], "'pigeon' is none of mapped, cma, tcp"),
        (["--memory=borrowed"], "--memory"),
        (["--model=unknown"], "llama-3-8b"),
        (["--dtype=int3"], "bfloat16"),
    ],
)
def test_wrong_arguments(demo, arguments, text):
    done = demo(*arguments)
    assert done.returncode == 2
    assert text in done.stderr
    assert done.stdout == ""


def test_a_block_that_is_no_whole_number_of_words_is_refused(demo):
    done = demo("--kv-heads=1", "--head-dim=3", "--block-tokens=1", "--blocks=1")
    assert done.returncode == 2
    assert "6 bytes; the check needs a multiple of 8" in done.stderr


def test_a_backend_that_is_none_is_refused_once_before_anything_starts(demo):
    done = demo(*SMALL, LLM_DATADIST_BACKEND="carrier")
    assert done.returncode == 2
    assert done.stderr.count("LLM_DATADIST_BACKEND names the backend 'carrier'") == 1
    assert "process" not in done.stderr


def test_a_transport_that_cannot_serve_is_a_failure_with_its_text(demo):
    done = demo(*SMALL, "--transport=mapped")
    assert done.returncode == 1
    assert "LLM_FEATURE_NOT_ENABLED" in done.stderr
