# SPDX-License-Identifier: Apache-2.0
"""The command top: a look at engines while they work."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from llm_datadist import BlocksCacheKey, LLMException
from llm_datadist.__main__ import main
from llm_datadist._box.reader import read
from llm_datadist._box.top import boxes_of_process, by_peer
from llm_datadist.testing import eventually, faults
from tests.box.engines import KEY, OWNER, PULLER, pair


def test_a_row_tells_what_is_done_with_a_peer(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pair() as (_, puller):
        for number in range(8):
            puller.pull(KEY, [3], [number])
        puller.push(KEY, [3], [0])
        with pytest.raises(LLMException):
            puller.pull(BlocksCacheKey(OWNER, 7), [3], [0])
        paths = boxes_of_process(os.getpid())
        box = next(box for box in map(read, paths) if box.cluster_id == PULLER)
        (row,) = by_peer(box, since=2, seconds=2.0, now_ns=box.calls[-1].end_ns)
        assert (row.peer, row.link, row.calls) == (OWNER, "live", 4.0)
        assert (row.bytes_in, row.bytes_out) == (6 * 256 / 2, 256 / 2)
        assert dict(row.failed) == {"LLM_KV_CACHE_NOT_EXIST": 1}
        assert (len(row.took_ms), len(row.waited_ms), row.under_way) == (8, 8, 0)
        with faults.inject("read delay=60s") as injection:
            pull = threading.Thread(target=lambda: puller.pull(KEY, [3], [0]))
            pull.start()
            eventually(lambda: injection.fired == 1, "the pull has begun")
            assert main(["top", str(os.getpid()), "--times", "2", "--every", "0.05"]) == 0
        pull.join()
    shown = capsys.readouterr().out
    assert shown.count(f"cluster {PULLER} (pid {os.getpid()})") == 2
    rows = [line.split() for line in shown.splitlines() if line.split()[:2] == [str(OWNER), "live"]]
    assert [row[-2] for row in rows] == ["1", "1"]  # under way
    assert 0 < int(rows[0][-1]) < int(rows[1][-1])  # since


def test_a_process_without_a_box_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", str(os.getppid())]) == 1
    assert main(["top", str(2**22 + 1)]) == 1
    errors = capsys.readouterr().err
    assert "has no box: LLM_DATADIST_BOX was not set" in errors
    assert "there is no process 4194305" in errors
