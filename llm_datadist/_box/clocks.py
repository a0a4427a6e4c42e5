# SPDX-License-Identifier: Apache-2.0
"""One clock for the boxes of several processes, and of several hosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .reader import Box

__all__ = ["Clock", "Clocks"]


@dataclass(frozen=True)
class Clock:
    """How the clock of one box stands to that of the first one.

    offset_ns is added to its times. It is wrong by error_ns at most; None: nobody has measured it,
    and the clocks on the wall of both hosts were taken.
    """

    offset_ns: int
    error_ns: int | None


class Clocks:
    """The times of boxes as nanoseconds since 1970, by the clock of the first box."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        self._first = boxes[0]
        self._wall = self._first.opened_realtime_ns - self._first.opened_ns
        self._clocks = {box.path: self._clock(box) for box in boxes}

    def _clock(self, box: Box) -> Clock:
        # CLOCK_MONOTONIC is one for all processes of a host, until it boots again.
        if box.boot_id == self._first.boot_id:
            return Clock(0, 0)
        return Clock(box.opened_realtime_ns - box.opened_ns - self._wall, None)

    def of(self, box: Box) -> Clock:
        """Return how the clock of a box stands."""
        return self._clocks[box.path]

    def at(self, box: Box, time_ns: int) -> int:
        """Return a time of a box as nanoseconds since 1970."""
        return time_ns + self.of(box).offset_ns + self._wall
