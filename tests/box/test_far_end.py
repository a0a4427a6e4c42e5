# SPDX-License-Identifier: Apache-2.0
"""What an engine is told of what its peers do with it, and how their clocks stand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from llm_datadist import BlocksCacheKey, LLMException
from llm_datadist.__main__ import main
from llm_datadist._box.clocks import Clocks
from llm_datadist._box.reader import Box, boxes_of, read
from llm_datadist.testing import eventually
from llm_datadist.tracing import transfer_context
from tests.box.engines import KEY, OWNER, PULLER, opened, pair

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
# Another process: it links to the owner, pulls, and ends.
_PULLER = """
import sys
from tests.box.engines import KEY, PULLER, opened
with opened(PULLER) as puller, puller.datadist.linked(("127.0.0.1", int(sys.argv[1]))):
    for block in range(4):
        puller.pull(KEY, [block], [7 - block])
"""


def of(folder: Path, cluster_id: int) -> Box:
    return next(box for box in boxes_of([str(folder)]) if box.cluster_id == cluster_id)


def test_the_owner_is_told_who_read_what_and_when(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pair() as (_, puller):
        with transfer_context(TRACE):
            puller.pull(KEY, [3, 4, 1], [0, 1, 6])
        puller.push(KEY, [2], [5])
        with pytest.raises(LLMException):
            puller.pull(BlocksCacheKey(OWNER, 7), [3], [0])
        eventually(lambda: len(of(folder, OWNER).peers) == 3, "the owner is told of three")
        puller.pull(KEY, [1], [0])
    owner, puller_box = of(folder, OWNER), of(folder, PULLER)
    # The last one before the link has ended.
    assert len(owner.peers) == 4
    for told, call in zip(owner.peers, puller_box.calls):
        assert told.told_ns >= told.end_ns
        here = {"number": call.number, "peer": OWNER, "told_ns": 0, "number_there": 0}
        assert replace(told, text=call.text, **here) == call
        assert (told.peer, told.number_there) == (PULLER, call.number)
    capsys.readouterr()
    assert main(["why", TRACE, str(folder)]) == 0
    assert f"cluster {OWNER} (pid {os.getpid()}) was told of it: ok" in capsys.readouterr().out
    # And from its box alone.
    assert main(["why", TRACE, owner.path]) == 0
    story = capsys.readouterr().out
    assert story.startswith(f"transfer {TRACE}: a pull by cluster {PULLER} with cluster {OWNER}")
    assert "3 blocks: 0..+1 <- 3..+1, 6 <- 1" in story
    assert "its own box is not here" in story
    assert main(["trace", owner.path]) == 0
    trace = json.loads(capsys.readouterr().out)
    told_slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert [each["name"] for each in told_slices] == [
        f"{kind} by cluster {PULLER}" for kind in ("pull", "push", "pull", "pull")
    ]


def test_an_end_without_a_box_is_told_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(OWNER, KEY, listen_ip_info="127.0.0.1:0") as owner:
        monkeypatch.delenv("LLM_DATADIST_BOX")
        with opened(PULLER) as puller, puller.datadist.linked(owner.datadist):
            puller.pull(KEY, [3], [0])
        monkeypatch.setenv("LLM_DATADIST_BOX", str(folder))
        with opened(PULLER) as puller, puller.datadist.linked(owner.datadist):
            puller.pull(KEY, [3], [0])
            puller.pull(KEY, [3], [0])
    assert len(of(folder, OWNER).peers) == 2


def test_the_clock_of_a_peer_is_right_within_the_error_that_is_told(folder: Path) -> None:
    with pair() as (_, puller):
        eventually(lambda: _clocks(of(folder, OWNER)) != [], "the clock is measured")
        eventually(lambda: _clocks(of(folder, PULLER)) != [], "the clock is measured")
        puller.pull(KEY, [3], [0])
    for box in (of(folder, OWNER), of(folder, PULLER)):
        for offset, error in _clocks(box):
            # One host: the true one is 0.
            assert abs(offset) <= error < 5_000_000_000


def _clocks(box: Box) -> list[tuple[int, int]]:
    return [
        (event.data["offset_ns"], event.data["error_ns"])
        for event in box.events
        if event.what == "clock"
    ]


def test_boxes_of_two_clocks_are_put_on_one(folder: Path) -> None:
    ahead = ["unshare", "--time", "--fork", "--monotonic", "5000"]
    if subprocess.run([*ahead, "true"], capture_output=True).returncode != 0:
        pytest.skip("no time namespaces may be made here")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with opened(OWNER, KEY, listen_ip_info="127.0.0.1:0") as owner:
        assert owner.datadist.listen_address is not None
        port = str(owner.datadist.listen_address[1])
        begin = time.monotonic_ns()
        subprocess.run([*ahead, sys.executable, "-c", _PULLER, port], env=environment, check=True)
        end = time.monotonic_ns()
    owner_box = of(folder, OWNER)
    puller_box = read(next(folder.glob(f"{PULLER}-*.box")))
    assert puller_box.opened_ns - owner_box.opened_ns > 4000 * 10**9
    clocks = Clocks([owner_box, puller_box])
    clock = clocks.of(puller_box)
    assert clock.error_ns is not None
    assert abs(clock.offset_ns + 5000 * 10**9) <= clock.error_ns < 5 * 10**9
    moments = [clocks.at(puller_box, call.entry_ns) for call in puller_box.calls]
    assert moments == sorted(moments)
    assert len(moments) == 4
    first = clocks.at(owner_box, begin) - clock.error_ns
    assert first <= moments[0] <= moments[-1] <= clocks.at(owner_box, end) + clock.error_ns
