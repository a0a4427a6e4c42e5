# SPDX-License-Identifier: Apache-2.0
"""A progress bar of one line."""

from __future__ import annotations

from typing import TextIO

_WIDTH = 24


class Progress:
    """Shows how far a run is, if the stream is a terminal; otherwise writes nothing.

    Args:
        stream: where to, usually sys.stderr.
        steps: how many there are.
    """

    def __init__(self, stream: TextIO, steps: int) -> None:
        self._stream = stream if stream.isatty() else None
        self._steps = steps
        self._done = 0

    def show(self, doing: str) -> None:
        """Say what is being done now."""
        if self._stream is not None:
            full = _WIDTH * self._done // self._steps
            bar = "#" * full + "." * (_WIDTH - full)
            # \033[K: the last text may have been longer.
            self._stream.write(f"\r[{bar}] {self._done}/{self._steps} {doing}\033[K")
            self._stream.flush()

    def advance(self, steps: int = 1) -> None:
        """Count steps as done."""
        self._done += steps

    def clear(self) -> None:
        """Leave an empty line to what is written next."""
        if self._stream is not None:
            self._stream.write("\r\033[K")
            self._stream.flush()
