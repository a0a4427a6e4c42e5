# SPDX-License-Identifier: Apache-2.0
"""Faults that the soak's own tests put in, to see that each kind is found."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from llm_datadist.testing.actor import Actor

from . import peer_side
from .asking import Asking
from .pace import GRACE
from .peer_side import SUCCESS, Outcome
from .plan import OWN_CACHE
from .world import World


def plant(world: World, asking: Asking) -> None:
    """Put a fault of each kind in between the transfers of a round and the look at all bytes."""
    ends, damaged, *_, leaks = world.peers
    cache = damaged.caches[OWN_CACHE]
    asking.ask(damaged, _damage, OWN_CACHE, 0)
    cache.suspects.pop(0, None)
    asking.ask(damaged, _damage, OWN_CACHE, 1)
    cache.suspects[1] = "a transfer that failed"
    asking.ask(leaks, _leak)
    asking.outcome(damaged, "sleep", asking.start(damaged, _sleep, 2 * GRACE), 0.0)
    call = asking.start(damaged, peer_side.unlink, ends.cluster, -1, False)
    asking.require(damaged, "unlink", asking.outcome(damaged, "unlink", call, 1.0), SUCCESS)
    ends.peer.process.kill()
    ends.peer.gone.result()


def _damage(actor: Actor, name: str, block: int) -> None:
    actor.caches[name].tensor(0)[block, -1:] ^= np.uint64(1 << 40)


def _leak(actor: Actor) -> None:
    _leaked.append(os.dup(2))


_leaked: list[Any] = []


def _sleep(actor: Actor, seconds: float) -> Outcome:
    time.sleep(seconds)
    return Outcome(SUCCESS, "", seconds, 0.0)
