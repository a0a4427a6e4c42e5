# SPDX-License-Identifier: Apache-2.0
"""The commands that read boxes: why, trace; and the ids that clients give."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from llm_datadist import BlocksCacheKey, LLMException
from llm_datadist.__main__ import main
from llm_datadist._box.clocks import Clocks
from llm_datadist._box.reader import boxes_of
from llm_datadist.testing import DatadistPeers, Geometry
from llm_datadist.tracing import transfer_context
from tests.box.engines import KEY, OWNER, PULLER, opened, pair

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def told(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    capsys.readouterr()
    assert main(arguments) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_why_tells_what_happened(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pair() as (owner, puller):
        with transfer_context(TRACE), pytest.raises(LLMException):
            puller.pull(BlocksCacheKey(OWNER, 7), [3, 4], [0, 6])
        puller.pull(KEY, [3], [0])
        owner.datadist.cache_manager.unregister_cache(owner.cache.cache_id)
        with pytest.raises(LLMException):
            puller.pull(KEY, [3], [0])
    story = told(capsys, "why", TRACE[:9], str(folder))
    assert story.startswith(
        f"transfer {TRACE}: pull of BlocksCacheKey with model_id 7 from cluster {OWNER}"
    )
    steps = ["made", "called on thread", "had the link", "ended: LLM_KV_CACHE_NOT_EXIST", "closes"]
    assert sorted(steps, key=story.index) == steps
    assert "2 blocks: 0 <- 3, 6 <- 4" in story
    withdrawn = told(capsys, "why", f"{PULLER}:3")
    assert withdrawn.index("unregister cache") < withdrawn.index("ended: LLM_FAILED")
    table = told(capsys, "why", "failed").splitlines()
    assert [line.split()[-2] for line in table[1:]] == ["LLM_KV_CACHE_NOT_EXIST", "LLM_FAILED"]
    assert table[1].endswith(TRACE)
    assert len(told(capsys, "why", "slow").splitlines()) == 1 + 3
    assert told(capsys, "why", "open") == "no transfer is open\n"
    assert "no transfer has an id that begins with 'ffff'" in told(capsys, "why", "ffff", status=1)


def test_a_trace_is_one_of_chromes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pair() as (_, puller):
        puller.pull(KEY, [3], [0])
        puller.push(KEY, [3], [0])
        with pytest.raises(LLMException):
            puller.pull(BlocksCacheKey(OWNER, 7), [3], [0])
    output = folder / "trace.json"
    told(capsys, "trace", str(folder), "--output", str(output))
    trace = json.loads(output.read_text())
    check_trace(trace)
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    (pull, failed) = [each for each in slices if each["name"] == "pull"]
    assert failed["args"]["ended"] == "LLM_KV_CACHE_NOT_EXIST"
    inner = [each["name"] for each in slices if each["tid"] == pull["tid"] and within(each, pull)]
    assert inner == ["pull", "wait for the link", "plan", "bytes"]
    # From the owner to the puller, and the other way round.
    arrows = [event for event in trace["traceEvents"] if event["ph"] in "sf"]
    assert [(arrow["ph"], arrow["pid"]) for arrow in arrows] == [
        ("s", 1), ("f", 2), ("s", 2), ("f", 1)
    ]  # fmt: skip
    names = {
        event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "thread_name"
    }
    assert f"what cluster {PULLER} does here" in names


def within(inner: dict[str, Any], outer: dict[str, Any]) -> bool:
    begins_after: bool = outer["ts"] <= inner["ts"]
    return begins_after and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + 1e-6


# What "Trace Event Format" demands of each kind of event that is written.
_COMMON = {"ph": str, "pid": int, "tid": int, "name": str}
_DEMANDED = {
    "M": {"args": dict},
    "X": {"ts": float, "dur": float, "cat": str, "args": (dict, type(None))},
    "i": {"ts": float, "s": str, "cat": str},
    "s": {"ts": float, "id": int, "cat": str},
    "f": {"ts": float, "id": int, "cat": str, "bp": str},
}


def check_trace(trace: dict[str, Any]) -> None:
    assert trace["displayTimeUnit"] in ("ms", "ns")
    flows = defaultdict(list)
    rows = defaultdict(list)
    for event in trace["traceEvents"]:
        for name, kind in {**_COMMON, **_DEMANDED[event["ph"]]}.items():
            assert isinstance(event.get(name), kind), (name, event)
        assert min(event.get("ts", 0), event.get("dur", 0)) >= 0
        assert event.get("s", "p") in ("g", "p", "t")
        assert event.get("bp", "e") == "e"
        if event["ph"] in "sf":
            flows[event["id"], event["cat"], event["name"]].append(event)
        elif event["ph"] == "X":
            rows[event["pid"], event["tid"]].append(event)
    for begin, end in flows.values():
        assert (begin["ph"], end["ph"]) == ("s", "f")
        assert begin["ts"] <= end["ts"]
        # An end of an arrow lies within a slice of its row, which it is bound to.
        for arrow in (begin, end):
            row = rows[arrow["pid"], arrow["tid"]]
            assert any(each["ts"] <= arrow["ts"] <= each["ts"] + each["dur"] for each in row)
    # Slices of one row lie within each other or apart.
    for row in rows.values():
        for one in row:
            for other in row:
                apart = one["ts"] + one["dur"] <= other["ts"] + 1e-6
                apart = apart or other["ts"] + other["dur"] <= one["ts"] + 1e-6
                assert apart or within(one, other) or within(other, one)


def test_the_order_of_boxes_is_that_of_what_happened(
    folder: Path, datadist_peers: DatadistPeers
) -> None:
    members = [datadist_peers(), datadist_peers()]
    for number, member in enumerate(members):
        member.init(number + 1, listen="127.0.0.1:0", sync_timeout_ms=5000)
        member.register("kv", Geometry(), number + 1, model_id=0)
    members[0].link(members[1])
    for turn in range(20):
        actor, other = members[turn % 2], members[1 - turn % 2]
        actor.pull("kv", other.key(), [turn % 4], [3])
    boxes = boxes_of([str(folder)])
    clocks = Clocks(boxes)
    merged = sorted(
        (clocks.at(box, call.entry_ns), clocks.at(box, call.end_ns), box.cluster_id, call.blocks)
        for box in boxes
        for call in box.calls
    )
    expected = [(turn % 2 + 1, ((3, turn % 4, 1),)) for turn in range(20)]
    assert [(cluster, blocks) for _, _, cluster, blocks in merged] == expected
    for before, after in zip(merged, merged[1:]):
        assert before[1] <= after[0]


def test_transfers_run_under_the_ids_of_their_context(folder: Path) -> None:
    other = TRACE[::-1]

    async def pull(puller: Any, trace: str, model: int) -> None:
        with transfer_context(trace):
            await asyncio.sleep(0)
            for _ in range(2):
                task = puller.datadist.cache_manager.pull_blocks_async(
                    BlocksCacheKey(9, model), puller.cache, [0], [0]
                )
                with pytest.raises(LLMException):
                    await task

    async def both(puller: Any) -> None:
        await asyncio.gather(pull(puller, TRACE, 1), pull(puller, other, 2))

    with opened(PULLER) as puller:
        asyncio.run(both(puller))
        with transfer_context(f"00-{TRACE}-00f067aa0ba902b7-01") as given:
            assert given == TRACE
            with transfer_context(other), pytest.raises(LLMException):
                puller.pull(BlocksCacheKey(9, 3), [0], [0])
            with pytest.raises(LLMException):
                puller.pull(BlocksCacheKey(9, 4), [0], [0])
        with pytest.raises(LLMException):
            puller.pull(BlocksCacheKey(9, 5), [0], [0])
    (box,) = boxes_of([str(folder)])
    ids = defaultdict(set)
    for call in box.calls:
        ids[call.key_model].add((call.id, call.parent))
    ((own, parent),) = ids.pop(5)
    assert own not in (TRACE, other)
    assert parent == 0
    assert ids == {
        1: {(TRACE, 0)},
        2: {(other, 0)},
        3: {(other, 0)},
        4: {(TRACE, 0x00F067AA0BA902B7)},
    }


@pytest.mark.parametrize(
    "wrong",
    ["", "xyz", "0" * 32, TRACE.upper(), f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}", f"{TRACE}-"],
)
def test_what_is_no_trace_context_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="allowed is a W3C traceparent"), transfer_context(wrong):
        pass
