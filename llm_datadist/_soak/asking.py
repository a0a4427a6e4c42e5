# SPDX-License-Identifier: Apache-2.0
"""Asking peers to do things, with an eye on how long they take and whether they are still there."""

from __future__ import annotations

from typing import Any, Callable

from llm_datadist.testing import DeadlineError, PeerCall, PeerGoneError

from .pace import FACTOR, GRACE
from .peer_side import Outcome
from .tally import ENDED, LATE_CALL, REFUSED, Tally
from .world import PeerState, World

# The status of a call whose process ended.
GONE = "process gone"
_PATIENCE = 30.0


class Asking:
    """Calls on the peers of a season.

    Args:
        world: the peers.
        tally: where calls and findings are counted.
    """

    def __init__(self, world: World, tally: Tally) -> None:
        self._world = world
        self._tally = tally
        self.where = ""
        # Peers whose processes are gone, killed by the soak or not.
        self.dead: set[int] = set()
        # Peers that were stopped in this round, whose calls take what they take.
        self.stopped: set[int] = set()

    def start(
        self, peer: PeerState, command: str | Callable[..., Any], *args: Any
    ) -> PeerCall | None:
        """Start a command on a thread of its own in a peer; None: the peer is gone."""
        try:
            return peer.peer.start_call(command, *args)
        except PeerGoneError:
            self._note_end(peer)
            return None

    def result(self, peer: PeerState, call: PeerCall | None, seconds: float = 0.0) -> Any:
        """Wait for an answer, for so long and some more; None: the peer is gone."""
        if call is None:
            return None
        try:
            return call.result((seconds + _PATIENCE) * FACTOR)
        except PeerGoneError:
            self._note_end(peer)
        except DeadlineError as error:
            # By now the peer has written the stacks of its threads to stderr.
            self._tally.find(LATE_CALL, self.where, str(error))
            peer.peer.kill()
            self.dead.add(peer.index)
        return None

    def _note_end(self, peer: PeerState) -> None:
        if peer.index in self.dead:
            return
        self.dead.add(peer.index)
        code = peer.peer.process.wait(_PATIENCE)
        self._tally.find(ENDED, self.where, f"peer {peer.index} ended by itself, with {code}")

    def ask(self, peer: PeerState, command: str | Callable[..., Any], *args: Any) -> Any:
        """Have a peer do something that must succeed; None: the peer is gone."""
        return self.result(peer, self.start(peer, command, *args))

    def outcome(
        self, peer: PeerState, what: str, call: PeerCall | None, limit: float, text: str = ""
    ) -> Outcome:
        """Wait for the outcome of a timed call, whose deadline was after `limit` seconds."""
        outcome: Outcome | None = self.result(peer, call, limit)
        if outcome is None:
            outcome = Outcome(GONE, "", 0.0, 0.0)
        self._tally.calls[what, outcome.status] += max(1, outcome.calls)
        late = outcome.seconds - limit
        if late > GRACE and peer.index not in self.stopped:
            self._tally.find(
                LATE_CALL,
                self.where,
                f"{text or what} of peer {peer.index} took {outcome.seconds:.2f} s, its deadline "
                f"was after {limit:g} s: {outcome.status} {outcome.text}",
            )
        return outcome

    def count(self, what: str, outcome: Outcome) -> None:
        """Count a call whose time is not looked at."""
        self._tally.calls[what, outcome.status] += 1

    def find(self, kind: str, text: str) -> None:
        """Note a fault."""
        self._tally.find(kind, self.where, text)

    def require(
        self, peer: PeerState, what: str, outcome: Outcome, *allowed: str, text: str = ""
    ) -> bool:
        """Note an outcome with another status; tells whether it has one of them."""
        if outcome.status in allowed:
            return True
        if outcome.status != GONE:
            self._tally.find(
                REFUSED,
                self.where,
                f"{text or what} of peer {peer.index}: {outcome.status} instead of "
                f"{' or '.join(allowed)}: {outcome.text}",
            )
        return False
