# SPDX-License-Identifier: Apache-2.0
"""What a test must not leave behind in its own process: engines, descriptors, threads, memory."""

from __future__ import annotations

import gc
import os
from collections import Counter
from dataclasses import replace

from .. import datadist
from ..datadist import LLMDataDist
from .resources import Resources, children_of, leaked
from .waiting import eventually

__all__ = ["LeakCheck"]

# Seconds in which what ends by itself has ended: a thread that was told to, for instance.
_GRACE = 2.0


def _held() -> Resources:
    """Return what this process holds; children by their pids, since their states change."""
    held = Resources.of(os.getpid())
    children = Counter(
        f"{name.rpartition(' (')[0]}, pid {pid}" for pid, name in children_of(os.getpid()).items()
    )
    return replace(held, children=children)


class LeakCheck:
    """Remembers what there is when it is made; finish() says what is there in addition.

    An engine that is left open is finalised, so that the next test can have one.
    """

    def __init__(self) -> None:
        self._engines = list(datadist._live)
        self._before = _held()

    def finish(self) -> list[str]:
        """Finalise the engines that were opened since then, and return a text for each thing that
        is left.
        """
        left = [f"{engine} was left open" for engine in self.finalize()]
        try:
            eventually(lambda: not self._leaked(), "nothing is left", _GRACE)
        except AssertionError:
            left += self._leaked()
        return left

    def finalize(self) -> list[LLMDataDist]:
        """Finalise the engines that were opened since then, and return them."""
        opened = [engine for engine in datadist._live if engine not in self._engines]
        for engine in opened:
            engine.finalize()
        return opened

    def _leaked(self) -> list[str]:
        now = leaked(self._before, _held())
        if now:
            # What is unreachable, in a circle of references, is about to go.
            gc.collect()
            now = leaked(self._before, _held())
        return now
