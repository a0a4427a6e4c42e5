# SPDX-License-Identifier: Apache-2.0
"""The processes of the soak: started early, kept over seasons, watched for what they hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from llm_datadist.testing import Peer, Resources, eventually, leaked
from llm_datadist.testing.resources import RESIDENT_TELLS

from . import peer_side
from .tally import ENDED, LEAK, Tally

# What a process may grow by after its first seasons, whose caches have many sizes.
_GROWTH = 64 << 20
_FIRST_SEASONS = 4
_ENVIRONMENT = {"ASCEND_GLOBAL_LOG_LEVEL": "4"}


@dataclass
class Player:
    """A process, and what it holds without an engine."""

    peer: Peer
    at_rest: Resources
    # Resident bytes after each season.
    resident: list[int] = field(default_factory=list)


class Troupe:
    """Starts processes, and ends all of them.

    Args:
        patience: seconds in which a process must answer.
    """

    def __init__(self, tally: Tally, patience: float) -> None:
        self._tally = tally
        self._patience = patience
        self._starting: list[Peer] = []
        self._idle: list[Player] = []

    def start_ahead(self, count: int) -> None:
        """Have so many processes ready soon."""
        while len(self._starting) + len(self._idle) < count:
            self._starting.append(Peer.start(_ENVIRONMENT))

    def take(self) -> Player:
        """Return a process without an engine."""
        if self._idle:
            return self._idle.pop(0)
        self.start_ahead(1)
        peer = self._starting.pop(0)
        peer.wait_for("ready", seconds=self._patience)
        player = Player(peer, peer.tell(peer_side.prepare).result(self._patience))
        self.start_ahead(1)
        return player

    def give_back(self, player: Player, where: str) -> None:
        """Take a process back whose engine is closed, and look at what it has left."""
        peer = player.peer
        try:
            eventually(lambda: not leaked(player.at_rest, peer.resources()), "nothing is left", 5)
        except AssertionError:
            for text in leaked(player.at_rest, peer.resources()):
                self._tally.find(LEAK, where, f"{peer}: {text}")
            self.end(player, where)
            return
        player.resident.append(peer.tell(peer_side.resident).result(self._patience))
        self._look_at_memory(player, where)
        self._idle.append(player)

    def _look_at_memory(self, player: Player, where: str) -> None:
        sizes = player.resident
        if not RESIDENT_TELLS or len(sizes) <= _FIRST_SEASONS:
            return
        grown = sizes[-1] - max(sizes[:_FIRST_SEASONS])
        if grown > _GROWTH:
            self._tally.find(LEAK, where, f"{player.peer}: {grown} bytes more are resident")
            sizes[:] = []

    def end(self, player: Player, where: str) -> None:
        """End a process, which must do so in the regular way."""
        try:
            player.peer.close(self._patience)
        except AssertionError as failure:
            self._tally.find(ENDED, where, str(failure))

    def close(self, well: bool) -> None:
        """End all processes; after a failure of the soak itself without looking how."""
        for peer in self._starting:
            peer.kill()
        for player in self._idle:
            if well:
                self.end(player, "at the end")
            else:
                player.peer.kill()
