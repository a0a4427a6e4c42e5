# SPDX-License-Identifier: Apache-2.0
"""The simplest shared thing: multiprocessing.shared_memory, copied by a fancy index of numpy."""

from __future__ import annotations

from multiprocessing import resource_tracker, shared_memory
from typing import Any

import numpy as np

from llm_datadist._bench.work import Work
from llm_datadist.testing.pattern import Blocks

from . import arenas


def _bytes(memory: shared_memory.SharedMemory) -> Any:
    return np.frombuffer(memory.buf, np.uint8)


class Owner(arenas.Owner):
    def allocate(self) -> int:
        self._memory = shared_memory.SharedMemory(create=True, size=self.size)
        _bytes(self._memory)[::4096] = 1
        return int(_bytes(self._memory).ctypes.data)

    def info(self) -> str:
        return self._memory.name

    def end(self) -> None:
        # The name is not needed any more once the puller is there.
        if self._memory is not None:
            self._memory.unlink()
            self._keep, self._memory = self._memory, None


class Puller(arenas.Puller):
    def attach(self, owner: str) -> None:
        self._memory = shared_memory.SharedMemory(name=owner)
        # Before Python 3.13 who attaches counts as an owner, too, and would unlink it.
        resource_tracker.unregister(f"/{owner}", "shared_memory")
        self._theirs = _bytes(self._memory)[: self.size]
        self._theirs[::4096].sum()

    def begin_work(self, work: Work, theirs: list[int]) -> None:
        self._to = self.own_blocks(work)
        self._from = self.blocks(self._theirs.view(np.uint64), work)

    def prepare(self, src: Blocks, dst: Blocks, size: int) -> Any:
        return self.numbers(src, dst, size, np.int64)

    def pull(self, prepared: Any) -> None:
        theirs, numbers = prepared
        self._to[numbers] = self._from[theirs]
