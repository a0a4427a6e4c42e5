# SPDX-License-Identifier: Apache-2.0
"""Boxes as a trace in the format of Chrome's tracing, which Perfetto and chrome://tracing show.

The format: "Trace Event Format" by the Chromium authors. Times are microseconds, and each event has
`ph` (what it is), `pid`, `tid` and `ts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .clocks import Clocks
from .reader import Box, Call
from .why import what

__all__ = ["chrome_trace"]

# A thread of a process, for what has none.
_EVENTS_TID = 0


def chrome_trace(boxes: Sequence[Box]) -> dict[str, Any]:
    """Return the trace of all boxes, on one clock, with arrows between processes."""
    trace = _Trace(boxes)
    return {
        "displayTimeUnit": "ms",
        "otherData": {"beginsAt": f"{trace.begin_ns / 1e9:.6f} s since 1970"},
        "traceEvents": list(trace.events()),
    }


class _Trace:
    def __init__(self, boxes: Sequence[Box]) -> None:
        self._boxes = boxes
        self._clocks = Clocks(boxes)
        # Two engines of one process are two processes of the trace, and so are two processes of one
        # pid on two hosts.
        self._pids = {box.path: number + 1 for number, box in enumerate(boxes)}
        self._flows = 0
        # Numbers of a trace are of 53 bits: its times begin with the first engine.
        self.begin_ns = min(self._clocks.at(box, box.opened_ns) for box in boxes)

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events of all boxes."""
        for box in self._boxes:
            yield from self._names(box)
            for call in box.calls:
                yield from self._call(box, call)
            for told in box.peers:
                yield from self._told(box, told)
            yield from self._instants(box)

    def _us(self, box: Box, time_ns: int) -> float:
        return (self._clocks.at(box, time_ns) - self.begin_ns) / 1e3

    def _names(self, box: Box) -> Iterator[dict[str, Any]]:
        pid = self._pids[box.path]
        name = f"{box.name} on {box.host}"
        yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": name}}
        threads = {call.thread: f"thread {call.thread}" for call in box.calls}
        threads[_EVENTS_TID] = "links and caches"
        for peer in self._peers_of(box):
            threads[_track(peer)] = f"what cluster {peer} does here"
        for tid, text in threads.items():
            yield {
                "ph": "M",
                "pid": pid,
                "tid": tid,
                "name": "thread_name",
                "args": {"name": text},
            }

    def _peers_of(self, box: Box) -> set[int]:
        return {
            each.cluster_id
            for each in self._boxes
            if each is not box and any(call.peer == box.cluster_id for call in each.calls)
        } | {told.peer for told in box.peers}

    def _call(self, box: Box, call: Call) -> Iterator[dict[str, Any]]:
        place = {"pid": self._pids[box.path], "tid": call.thread, "cat": "transfer"}
        end_ns = call.end_ns if call.whole else self._last(box)
        args = _args(call)
        yield self._slice(box, call.kind, call.entry_ns, end_ns, {**place, "args": args})
        if call.turn_ns:
            yield self._slice(box, "wait for the link", call.entry_ns, call.turn_ns, place)
            planned = call.first_byte_ns or end_ns
            yield self._slice(box, "plan", call.turn_ns, planned, place)
        if not call.first_byte_ns:
            return
        yield self._slice(box, "bytes", call.first_byte_ns, end_ns, place)
        owner = self._owner(box, call)
        if owner is None:
            return
        # The same span at the other end, whose threads need not take part; and the arrow.
        there = {"pid": self._pids[owner.path], "tid": _track(box.cluster_id), "cat": "transfer"}
        name = f"{call.kind} by cluster {box.cluster_id}"
        yield self._slice(box, name, call.first_byte_ns, end_ns, {**there, "args": args})
        self._flows += 1
        flow = {"name": call.kind, "cat": "transfer", "id": self._flows}
        begin, end = self._us(box, call.first_byte_ns), self._us(box, end_ns)
        source, target = (there, place) if call.kind == "pull" else (place, there)
        yield {"ph": "s", "ts": begin, "pid": source["pid"], "tid": source["tid"], **flow}
        yield {"ph": "f", "bp": "e", "ts": end, "pid": target["pid"], "tid": target["tid"], **flow}

    def _told(self, box: Box, told: Call) -> Iterator[dict[str, Any]]:
        """Yield what a peer has told of a transfer, unless its own box is here."""
        if any(each.cluster_id == told.peer for each in self._boxes):
            return
        begin, end = (
            (self._clocks.told_at(box, told, time_ns) - self.begin_ns) / 1e3
            for time_ns in (told.first_byte_ns or told.entry_ns, told.end_ns)
        )
        yield {
            "ph": "X",
            "name": f"{told.kind} by cluster {told.peer}",
            "cat": "transfer",
            "ts": max(begin, 0.0),
            "dur": max(end - begin, 0.0),
            "pid": self._pids[box.path],
            "tid": _track(told.peer),
            "args": _args(told),
        }

    def _slice(
        self, box: Box, name: str, begin_ns: int, end_ns: int, more: dict[str, Any]
    ) -> dict[str, Any]:
        begin = self._us(box, begin_ns)
        end = max(begin, self._us(box, end_ns))
        return {"ph": "X", "name": name, "ts": begin, "dur": end - begin, **more}

    def _last(self, box: Box) -> int:
        """Return the time of the last thing that a box has."""
        times = [event.time_ns for event in box.events] + [call.entry_ns for call in box.calls]
        return max([*times, *(call.end_ns for call in box.calls)])

    def _owner(self, box: Box, call: Call) -> Box | None:
        """Return the box of the other end that was open then."""
        begin = self._clocks.at(box, call.entry_ns)
        found = [
            each
            for each in self._boxes
            if each.cluster_id == call.peer
            and each is not box
            and self._clocks.at(each, each.opened_ns) <= begin
            and (not each.closed_ns or begin <= self._clocks.at(each, each.closed_ns))
        ]
        return found[-1] if found else None

    def _instants(self, box: Box) -> Iterator[dict[str, Any]]:
        for event in box.events:
            name = event.what
            if name == "link_end":
                name = f"link to cluster {event.data.get('peer')} {event.data.get('how')}"
            yield {
                "ph": "i",
                "s": "p",
                "name": name,
                "cat": "control",
                "ts": self._us(box, event.time_ns),
                "pid": self._pids[box.path],
                "tid": _EVENTS_TID,
                "args": event.data,
            }


def _track(peer: int) -> int:
    # Apart from all ids of threads, which the kernel keeps below 2**22.
    return (1 << 22) + peer % (1 << 30)


def _args(call: Call) -> dict[str, Any]:
    args: dict[str, Any] = {
        "id": call.id,
        "what": what(call),
        "ended": call.outcome,
        "bytes": call.bytes,
        "path": call.path,
        "blocks": [list(run) for run in call.blocks],
        "runs": call.num_blocks,
    }
    if call.text:
        args["text"] = call.text
    if call.link:
        args["link"] = f"{call.link:08x}"
    return args
