# SPDX-License-Identifier: Apache-2.0
"""What the peers of the soak do about their links and roles while no transfer runs."""

from __future__ import annotations

from collections.abc import Sequence

from llm_datadist.testing import PeerCall

from . import peer_side
from .asking import Asking
from .pace import FACTOR
from .peer_side import SUCCESS, Outcome
from .plan import LinkStep
from .world import Pair, PeerState, World

_TIMEOUT_MS = 3000 * FACTOR


class Links:
    """Links and unlinks the peers of a season."""

    def __init__(self, world: World, asking: Asking) -> None:
        self._world = world
        self._asking = asking

    def make(self, steps: Sequence[LinkStep]) -> None:
        """Make all steps, at the same time."""
        chosen = []
        for step in steps:
            usable = self._world.is_usable(step.initiator, step.acceptor)
            action = step.if_usable if usable else step.if_not
            if action:
                chosen.append((action, step))
        self._unlink([step for action, step in chosen if action == "clean"], force=True)
        self._unlink([step for action, step in chosen if action == "plain"], force=False)
        started = [(step, *self._start_link(step)) for _, step in chosen]
        for step, initiator, call in started:
            outcome = self._asking.outcome(initiator, "link", call, _TIMEOUT_MS / 1000)
            self._note_link(step, initiator, outcome)

    def _start_link(self, step: LinkStep) -> tuple[PeerState, PeerCall | None]:
        initiator, acceptor = (self._world.peers[i] for i in (step.initiator, step.acceptor))
        args = (acceptor.cluster, _TIMEOUT_MS)
        return initiator, self._asking.start(initiator, peer_side.link, *args)

    def _note_link(self, step: LinkStep, initiator: PeerState, outcome: Outcome) -> None:
        ends = (step.initiator, step.acceptor)
        already = "LLM_ALREADY_LINK"
        allowed = {
            Pair.NONE: (SUCCESS,),
            Pair.LINKED: (already,),
            Pair.UNKNOWN: (SUCCESS, already),
        }[self._world.pair(*ends)]
        text = f"link to {step.acceptor}"
        if not self._asking.require(initiator, "link", outcome, *allowed, text=text):
            self._world.set_pair(*ends, Pair.UNKNOWN)
        elif outcome.succeeded:
            self._world.set_pair(*ends, Pair.LINKED)

    def start_unlink(
        self, peer: PeerState, other: int, timeout_ms: int, force: bool
    ) -> PeerCall | None:
        """Start an unlink_clusters."""
        cluster = self._world.peers[other].cluster
        return self._asking.start(peer, peer_side.unlink, cluster, timeout_ms, force)

    def _unlink(self, steps: Sequence[LinkStep], force: bool) -> None:
        """Unlink pairs of peers at the same time: by force at both ends, otherwise at one."""
        calls = []
        for step in steps:
            ends = [(step.initiator, step.acceptor), (step.acceptor, step.initiator)]
            for one, two in ends if force else ends[:1]:
                peer = self._world.peers[one]
                calls.append((peer, two, self.start_unlink(peer, two, _TIMEOUT_MS, force)))
        what = "forced unlink" if force else "unlink"
        for peer, other, call in calls:
            outcome = self._asking.outcome(peer, what, call, _TIMEOUT_MS / 1000)
            is_known = self._world.pair(peer.index, other) is not Pair.UNKNOWN
            if force or is_known:
                text = f"{what} from {other}"
                self._asking.require(peer, what, outcome, SUCCESS, text=text)
        for step in steps:
            if force or self._world.pair(step.initiator, step.acceptor) is Pair.LINKED:
                self._world.set_pair(step.initiator, step.acceptor, Pair.NONE)

    # -------------------------------------------------------------------------------------- roles

    def _others(self, peer: PeerState) -> list[Pair]:
        return [
            self._world.pair(peer.index, other.index)
            for other in self._world.peers
            if other is not peer
        ]

    def try_to_switch(self, peer: PeerState) -> None:
        """Have a peer change its role with the links that it has, which is refused."""
        outcome = self._switch(peer, listen=True)
        states = self._others(peer)
        if Pair.LINKED in states:
            allowed: tuple[str, ...] = ("LLM_EXIST_LINK",)
        elif Pair.UNKNOWN in states:
            allowed = (SUCCESS, "LLM_EXIST_LINK")
        else:
            allowed = (SUCCESS,)
        self._asking.require(peer, "switch_role", outcome, *allowed)

    def switch(self, peer: PeerState) -> None:
        """Have a peer drop its ends of all links, stop listening, and listen again elsewhere."""
        for other in self._world.peers:
            if other is not peer:
                call = self.start_unlink(peer, other.index, _TIMEOUT_MS, True)
                outcome = self._asking.outcome(peer, "forced unlink", call, _TIMEOUT_MS / 1000)
                self._asking.require(peer, "forced unlink", outcome, SUCCESS)
        self._world.forget(peer.index)
        for listen in (False, True):
            self._asking.require(peer, "switch_role", self._switch(peer, listen), SUCCESS)

    def _switch(self, peer: PeerState, listen: bool) -> Outcome:
        call = self._asking.start(peer, peer_side.switch_role, listen)
        outcome = self._asking.outcome(peer, "switch_role", call, _TIMEOUT_MS / 1000)
        if outcome.succeeded:
            address = self._asking.ask(peer, peer_side.listen_address)
            peer.address = address or peer.address
        return outcome
