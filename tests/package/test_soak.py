# SPDX-License-Identifier: Apache-2.0
"""The soak: a few seconds of it, what it finds, and that a seed repeats it.

`llm-datadist soak` runs it for ten minutes, `.ci/run` for thirty seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from llm_datadist._soak import blocks
from llm_datadist._soak.plan import draw_season

RUN_SECONDS = 240
# Nothing happens to a process in the first round of its first season.
CALM_SEED = 19
FINDINGS = (
    "wrong bytes",
    "late bytes",
    "leaks",
    "late calls",
    "unexpected failures",
    "ended processes",
)


def soak(*arguments):
    command = [sys.executable, "-m", "llm_datadist", "soak", *arguments]
    return subprocess.run(command, text=True, capture_output=True, timeout=RUN_SECONDS)


@pytest.mark.sanitize
@pytest.mark.threads
def test_some_seconds_find_nothing():
    done = soak("--seconds=6", "--json")
    report = json.loads(done.stdout)
    assert report["texts"] == [], done.stderr
    assert done.returncode == 0
    assert report["findings"] == dict.fromkeys(FINDINGS, 0)
    assert report["calls"]["pull"]["LLM_SUCCESS"] > 0
    assert report["moved_bytes"] > 0
    assert report["checked_bytes"] > 0


def test_a_fault_of_each_kind_is_found():
    done = soak("--seconds=0.1", f"--seed={CALM_SEED}", "--plant-for-test")
    assert done.returncode == 1, done.stderr
    *texts, repeat, summary = done.stdout.splitlines()
    for finding in FINDINGS:
        assert f"1 {finding}" in summary, done.stdout
        assert any(text.startswith(f"{finding}: season 0, ") for text in texts), texts
    assert repeat == f"repeat: llm-datadist soak --seed {CALM_SEED} --peers 4 --season N"


def test_a_seed_repeats_the_operations():
    seasons = [draw_season(7, number, 4) for number in range(20)]
    assert seasons == [draw_season(7, number, 4) for number in range(20)]
    assert seasons != [draw_season(8, number, 4) for number in range(20)]
    rounds = [each for season in seasons for each in season.rounds]
    assert {what.kind for each in rounds for what in each.transfers} == {
        *("pull", "pull task", "row pull", "push", "push task", "row push", "async", "copy")
    }
    assert any(what.cancel_ms >= 0 for each in rounds for what in each.transfers)
    assert {len(each.members) for each in rounds} == {0, 2, 3, 4}
    assert {what.kind for each in rounds for what in each.disturbances} == {
        *("kill", "stop", "go on", "barrier", "restart", "unlink", "forced unlink", "drop")
    }
    assert {season.one_sided for season in seasons} == {False, True}


def test_no_block_is_read_and_written_in_one_round():
    for number in range(20):
        for each in draw_season(1, number, 4).rounds:
            written = [(what.destination, block) for what in each.transfers for block in what.dst]
            read = {(what.source, block) for what in each.transfers for block in what.src}
            assert len(written) == len(set(written))
            assert not read & set(written)


def test_nobody_who_is_stopped_or_killed_is_asked_for_anything():
    for number in range(100):
        for each in draw_season(2, number, 4).rounds:
            gone: set[int] = set()
            for what in each.disturbances:
                assert what.kind == "go on" or what.peer not in gone, str(each)
                if what.kind in ("kill", "stop"):
                    gone.add(what.peer)
                elif what.kind == "go on":
                    gone.discard(what.peer)


def test_what_a_failed_transfer_may_have_left():
    words = 8
    before, sent, other = (np.array([tag], np.uint64) for tag in (5, 6, 7))
    tensor = blocks.words_of(before, words)
    half = tensor.copy()
    half[0, :4] = blocks.words_of(sent, words)[0, :4]
    zeros = half.copy()
    zeros[0, 6:] = 0
    strange = half.copy()
    strange[0, 5] = blocks.words_of(other, words)[0, 5]
    place = np.array([0])

    def look(found):
        return blocks.unexplained_bytes("own", 3, found, place, before, sent)

    assert [look(found) for found in (tensor, half, zeros)] == [[], [], []]
    (wrong,) = look(strange)
    assert (wrong.cache, wrong.tensor, wrong.block, wrong.offset) == ("own", 3, 0, 40)
    assert wrong.found.startswith("word 5 of tag 7 ")


@pytest.mark.parametrize("argument", ["--peers=1", "--peers=17"])
def test_what_cannot_be_served(argument):
    done = soak(argument)
    assert done.returncode == 2
    assert "--peers must be 2 to 16" in done.stderr
