# SPDX-License-Identifier: Apache-2.0
"""Peers that go from test to test: starting a process takes longer than most tests."""

from __future__ import annotations

from .peer import Peer, PeerGoneError

__all__ = ["WarmPeers"]


class WarmPeers:
    """Processes that are idle, as they were after their start."""

    def __init__(self) -> None:
        self._idle: list[Peer] = []

    def take(self) -> Peer:
        """Return an idle process, or a new one."""
        if self._idle:
            return self._idle.pop()
        peer = Peer.start()
        peer.wait_for("ready")
        return peer

    def give_back(self, peer: Peer) -> None:
        """Reset a process that can go on; one that was killed is not kept."""
        if peer.process.poll() is None:
            try:
                peer.go_on()
                peer.reset()
            except PeerGoneError:
                peer.kill()
            else:
                self._idle.append(peer)
        else:
            peer.kill()

    def end(self) -> None:
        """End all that are idle."""
        for peer in self._idle:
            peer.hang_up()
        while self._idle:
            self._idle.pop().close()
