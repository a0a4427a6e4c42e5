# SPDX-License-Identifier: Apache-2.0
"""One clock for the boxes of several processes, and of several hosts.

Processes of one host share CLOCK_MONOTONIC, unless one has a time namespace of its own. Elsewhere
the events "clock" say how the clock of a peer stands: an end with a box asks the other one over the
control connection, and half of the round trip is what the answer may be wrong by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .reader import Box, Call, Event

__all__ = ["Clock", "Clocks"]


@dataclass(frozen=True)
class Clock:
    """How one clock stands to another one at some time.

    offset_ns is added to times of the one. It is wrong by error_ns at most; None: nobody has
    measured it, and the clocks on the wall of both hosts were taken.
    """

    offset_ns: int
    error_ns: int | None


@dataclass(frozen=True)
class _Measured:
    """What one box has measured of the clock of another one."""

    time_ns: int  # by the clock of the one that asked
    offset_ns: int  # the other one's clock less its own
    error_ns: int


class Clocks:
    """The times of boxes as nanoseconds since 1970, by the clock of the first box."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        self._first = boxes[0]
        self._wall = self._first.opened_realtime_ns - self._first.opened_ns
        self._boxes = {box.path: box for box in boxes}
        self._measured = {
            (one.path, other.path): found
            for one in boxes
            for other in boxes
            if one is not other and (found := _between(one, other))
        }
        self._ways = self._shortest_ways()

    def _shortest_ways(self) -> dict[str, list[str]]:
        """Return for each box that is reached from the first one the boxes in between, itself
        last.
        """
        ways: dict[str, list[str]] = {self._first.path: []}
        edge = [self._first.path]
        while edge:
            following = []
            for place in edge:
                for path, box in self._boxes.items():
                    if path not in ways and self._joined(self._boxes[place], box):
                        ways[path] = [*ways[place], path]
                        following.append(path)
            edge = following
        return ways

    def _joined(self, one: Box, other: Box) -> bool:
        pairs = ((one.path, other.path), (other.path, one.path))
        return one.clock_id == other.clock_id or any(pair in self._measured for pair in pairs)

    def of(self, box: Box, time_ns: int | None = None) -> Clock:
        """Return how the clock of a box stands to that of the first one at a time of the box; by
        default when it was opened.
        """
        way = self._ways.get(box.path)
        if way is None:
            return Clock(box.opened_realtime_ns - box.opened_ns - self._wall, None)
        now = box.opened_ns if time_ns is None else time_ns
        offset = error = 0
        for path, before in zip(reversed(way), [*reversed(way[:-1]), self._first.path]):
            step = self._step(self._boxes[path], self._boxes[before], now + offset)
            offset += step.offset_ns
            error += step.error_ns or 0
        return Clock(offset, error)

    def _step(self, box: Box, to: Box, time_ns: int) -> Clock:
        if box.clock_id == to.clock_id:
            return Clock(0, 0)
        candidates = [
            (abs(each.time_ns - time_ns), Clock(each.offset_ns, each.error_ns))
            for each in self._measured.get((box.path, to.path), ())
        ]
        candidates += [
            (abs(each.time_ns + each.offset_ns - time_ns), Clock(-each.offset_ns, each.error_ns))
            for each in self._measured.get((to.path, box.path), ())
        ]
        return min(candidates, key=lambda candidate: candidate[0])[1]

    def at(self, box: Box, time_ns: int) -> int:
        """Return a time of a box as nanoseconds since 1970."""
        return time_ns + self.of(box, time_ns).offset_ns + self._wall

    def told_at(self, box: Box, told: Call, time_ns: int) -> int:
        """Return a time of the peer's clock, in a record that a box was told, as nanoseconds since
        1970.
        """
        measured = [each for each in _measurements(box) if each[0] == told.link]
        if not measured:
            return self.at(box, time_ns)
        _, nearest = min(measured, key=lambda each: abs(each[1].time_ns - told.told_ns))
        return self.at(box, time_ns - nearest.offset_ns)


def _measurements(box: Box) -> list[tuple[int, _Measured]]:
    """Return what a box has measured, by the number of the link."""
    return [
        (
            event.data["link"],
            _Measured(event.time_ns, event.data["offset_ns"], event.data["error_ns"]),
        )
        for event in box.events
        if event.what == "clock" and _is_whole(event)
    ]


def _is_whole(event: Event) -> bool:
    names = ("link", "offset_ns", "error_ns")
    return all(isinstance(event.data.get(name), int) for name in names)


def _links(box: Box) -> set[int]:
    return {
        event.data["link"]
        for event in box.events
        if event.what == "link_end" and isinstance(event.data.get("link"), int)
    }


def _between(one: Box, other: Box) -> list[_Measured]:
    """Return what one box has measured of the clock of the other one, over a link of both."""
    by_link = defaultdict(list)
    for link, measured in _measurements(one):
        by_link[link].append(measured)
    return [measured for link in by_link.keys() & _links(other) for measured in by_link[link]]
