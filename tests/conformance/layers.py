# SPDX-License-Identifier: Apache-2.0
"""Synchronizers of the tests of transfer_cache_async."""

from __future__ import annotations

import threading
from typing import Callable

from llm_datadist import LayerSynchronizer

WAIT_MS = 30_000


class Ready(LayerSynchronizer):
    """Every layer is ready; notes what it was asked, and does what a test puts at a layer."""

    def __init__(self, acts: dict[int, Callable[[], object]] | None = None) -> None:
        self.asked: list[tuple[int, int | None]] = []
        self.threads: set[threading.Thread] = set()
        self.acts = acts or {}

    def synchronize_layer(self, layer_index: int, timeout_in_millis: int | None) -> bool:
        self.asked.append((layer_index, timeout_in_millis))
        self.threads.add(threading.current_thread())
        act = self.acts.get(layer_index)
        return True if act is None else act()  # type: ignore[return-value]


class Held(LayerSynchronizer):
    """Layers are ready when the test lets them go on, one by one."""

    def __init__(self) -> None:
        self.reached = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def synchronize_layer(self, layer_index: int, timeout_in_millis: int | None) -> bool:
        self.reached.release()
        return self.go_on.acquire(timeout=WAIT_MS / 1000)
