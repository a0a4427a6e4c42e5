# SPDX-License-Identifier: Apache-2.0
"""The stacks of all threads, of this process and of its peers, when a test takes too long."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterable
from typing import Callable

from .peer import Peer

__all__ = ["HangWatch", "stacks_of_this_process"]


def stacks_of_this_process() -> str:
    """Return the stack of each other thread, as a traceback has it."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        if ident == threading.get_ident():
            continue  # This thread only tells.
        stack = "".join(traceback.format_stack(frame))
        parts.append(f"thread {names.get(ident, ident)}:\n{stack}")
    return "\n".join(parts)


class HangWatch:
    """Tells the stacks once, unless it is ended before.

    Args:
        seconds: until then; 0: never.
        peers: returns the peers there are by then.
        tell: takes the text.
    """

    def __init__(
        self, seconds: float, peers: Callable[[], Iterable[Peer]], tell: Callable[[str], None]
    ) -> None:
        self._peers = peers
        self._tell = tell
        self._seconds = seconds
        self._timer = threading.Timer(seconds, self._report) if seconds else None
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()

    def _report(self) -> None:
        texts = [f"the test takes more than {self._seconds:g} s; {stacks_of_this_process()}"]
        texts += [f"{peer}:\n{peer.stacks()}" for peer in self._peers()]
        self._tell("\n\n".join(texts))

    def end(self) -> None:
        """Tell nothing any more; waits for the thread."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
