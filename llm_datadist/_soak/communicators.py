# SPDX-License-Identifier: Apache-2.0
"""Communicators that peers of the soak join while transfers run that nothing disturbs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from llm_datadist.testing import eventually

from . import peer_side
from .asking import Asking
from .pace import FACTOR
from .peer_side import SUCCESS, Outcome
from .tally import REFUSED
from .world import PeerState, World

# For the members to meet and link, and for one to leave, in seconds.
_JOINING = 10.0
_LEAVING = 3.0


class Communicators:
    """Joins peers of a season, and has them leave.

    Args:
        world: the peers.
        asking: calls on them.
    """

    def __init__(self, world: World, asking: Asking) -> None:
        self._world = world
        self._asking = asking
        self._numbers = count(1)

    def join(self, members: Sequence[int]) -> list[tuple[PeerState, int]]:
        """Have peers join one communicator, which must succeed; returns them with their ids."""
        name = f"communicator {next(self._numbers)} of {self._world.season.number}"
        peers = [self._world.peers[index] for index in members]
        clusters = [peer.index + 1 for peer in peers]
        calls = [self._asking.start(peer, peer_side.join, name, clusters) for peer in peers]
        joined = []
        for peer, call in zip(peers, calls):
            answer: tuple[Outcome, int] | None = self._asking.result(peer, call)
            if answer is None:
                continue
            outcome, comm_id = answer
            self._asking.count("join", outcome)
            if self._asking.require(peer, "join", outcome, SUCCESS):
                joined.append((peer, comm_id))
        for peer, comm_id in joined:
            self._wait(peer, comm_id)
        return joined

    def _wait(self, peer: PeerState, comm_id: int) -> None:
        def answer() -> str:
            is_there = self._asking.ask(peer, peer_side.is_joined, comm_id)
            return {None: "", True: "joined", False: "failed"}[is_there]

        try:
            state = eventually(answer, "all members are there", _JOINING * FACTOR)
        except AssertionError as failure:
            state = str(failure)
        if state != "joined" and peer.index not in self._asking.dead:
            self._asking.find(REFUSED, f"communicator {comm_id} of peer {peer.index}: {state}")

    def leave(self, joined: Sequence[tuple[PeerState, int]]) -> None:
        """Have all of them leave, at the same time."""
        calls = [
            (peer, self._asking.start(peer, peer_side.leave, comm_id)) for peer, comm_id in joined
        ]
        for peer, call in calls:
            outcome = self._asking.outcome(peer, "leave", call, _LEAVING * FACTOR)
            self._asking.require(peer, "leave", outcome, SUCCESS)
