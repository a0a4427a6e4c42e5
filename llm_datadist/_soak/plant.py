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
from .peer_side import Outcome
from .plan import OWN_CACHE
from .world import PeerState, World

KINDS = ("late call", "refusal", "end", "wrong byte", "late byte", "leak")


def plant(kind: str, world: World, asking: Asking) -> bool:
    """Put a fault in between the transfers of a round and the look at all bytes.

    Returns:
        Whether there was a place for it.
    """
    peer = world.peers[0]
    if peer.index in asking.dead:
        return False
    if kind == "late byte":
        return any(_damage_suspect(each, asking) for each in world.peers)
    if kind == "wrong byte":
        suspects = peer.caches[OWN_CACHE].suspects
        block = next(each for each in range(world.geometry.num_blocks) if each not in suspects)
        asking.ask(peer, _damage, OWN_CACHE, block)
    elif kind == "leak":
        asking.ask(world.peers[-1], _leak)
    elif kind == "late call":
        peer = next(each for each in world.peers if each.index not in asking.stopped)
        asking.outcome(peer, kind, asking.start(peer, _sleep, 2 * GRACE), 0.0)
    elif kind == "refusal":
        call = asking.start(peer, peer_side.unlink, peer.cluster, -1, False)
        asking.require(peer, kind, asking.outcome(peer, kind, call, 1.0), peer_side.SUCCESS)
    else:
        peer.peer.process.kill()
        peer.peer.gone.result()
    return True


def _damage_suspect(peer: PeerState, asking: Asking) -> bool:
    for name, cache in peer.caches.items():
        if cache.suspects and peer.index not in asking.dead:
            asking.ask(peer, _damage, name, next(iter(cache.suspects)))
            return True
    return False


def _damage(actor: Actor, name: str, block: int) -> None:
    actor.caches[name].tensor(0)[block, -1:] ^= np.uint64(1 << 40)


def _leak(actor: Actor) -> None:
    _leaked.append(os.dup(2))


_leaked: list[Any] = []


def _sleep(actor: Actor, seconds: float) -> Outcome:
    time.sleep(seconds)
    return Outcome(peer_side.SUCCESS, "", seconds, 0.0)
