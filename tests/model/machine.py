# SPDX-License-Identifier: Apache-2.0
"""Random calls on two or three engines of one process, each made in the model and for real.

After each step statuses and warnings, the bytes of all memory, links, numbers of caches, free bytes
of pools and counters agree.
"""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis.stateful import initialize

from tests.model.cache_rules import CacheRules
from tests.model.copy_rules import CopyRules
from tests.model.link_rules import POOL_CHOICES, LinkRules
from tests.model.players import NUM_SLOTS, SLOT
from tests.model.transfer_rules import TransferRules
from tests.model.world import Memory

_TRANSPORTS = (None, "tcp", "cma,tcp", "mapped,tcp")


class Machine(CacheRules, LinkRules, TransferRules, CopyRules):
    """All rules; a subclass says in which mode."""

    @initialize(count=st.sampled_from([3, 3, 2]), transport=st.sampled_from(_TRANSPORTS))
    def open(self, count: int, transport: str | None) -> None:
        self._set_transport(transport)
        for cluster in range(1, count + 1):
            buffer = self._fill.integers(0, 256, NUM_SLOTS * SLOT, np.uint8)
            self.world.memories.append(Memory(int(buffer.ctypes.data), bytearray(buffer.tobytes())))
            self.players.append(self._opened(cluster, buffer, POOL_CHOICES[0]))
        # Somewhere to start from: an empty world answers most calls with a refusal.
        for who in range(count):
            self.furnish(who)
            self.link(who, 0, True)
            self.link(who, 1, False)


class OneSided(Machine):
    """One-sided mode: tables read once a link, pulls and pushes."""

    one_sided = True


class Request(Machine):
    """Request mode: keys found by the owner, and used up."""

    one_sided = False
