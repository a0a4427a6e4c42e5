# SPDX-License-Identifier: Apache-2.0
"""Processes that use the Ascend library, and the faults of the fake CANN below them."""

from __future__ import annotations

import fcntl
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

from llm_datadist import LLMConfig
from llm_datadist.testing import Peer


class Faults:
    """Faults that the fake CANN is to have, in a file that its processes read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.write_text("")

    def order(self, point: str, number: int, times: int = 1) -> None:
        """The next calls at this point give that number."""
        with self.path.open("r+") as file:
            # As the fake does: a process that counts a fault down must not put back what was there.
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate()
            file.write(f"{point} {number} {times}\n")

    def left(self) -> int:
        """How many have not fired."""
        with self.path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return sum(int(line.split()[2]) for line in file)


class Peers:
    """Processes with an engine of the Ascend library each."""

    def __init__(self, environment: dict[str, str], exits: ExitStack) -> None:
        self._environment = environment
        self._exits = exits
        # Engines on one device cannot be linked. A test's own client has device 0.
        self._devices = count(1)

    def start(self, cluster_id: int, **spec: Any) -> Peer:
        peer = self._exits.enter_context(Peer.start(self._environment))
        peer.wait_for("ready")
        spec.setdefault("listen", "127.0.0.1:0")
        device = {LLMConfig.device_id.key: str(next(self._devices))}
        spec["options"] = {**device, **spec.get("options", {})}
        peer.init(cluster_id, **spec)
        return peer
