# SPDX-License-Identifier: Apache-2.0
"""The victims: peers on the mock library, each in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable

import pytest

from llm_datadist.testing import Peer
from llm_datadist.testing.resources import resident_bytes

MOST_GROWTH = 64 << 20
SCOPE = "attacks"
SECRET = "s3cret"


class Victim:
    """A listening peer, and what it needed before it was attacked."""

    def __init__(self, peer: Peer, **spec: Any) -> None:
        self.peer = peer
        peer.init(1, listen="127.0.0.1:0", **spec)
        self.port = peer.listen_address[1]
        self.resident = resident_bytes(peer.pid)

    def growth(self) -> int:
        """Count the bytes that it needs more than at rest."""
        return resident_bytes(self.peer.pid) - self.resident

    def links(self) -> list[tuple[int, str]]:
        """List the links: cluster id and state."""
        return [(each.peer_cluster_id, each.state.name) for each in self.peer.call("links")]


@pytest.fixture
def start() -> Iterator[Callable[..., Peer]]:
    """Start a peer; it must end with exit code 0."""
    with ExitStack() as exits:

        def one(environment: dict[str, str] | None = None) -> Peer:
            own = {"LLM_DATADIST_BACKEND": "mock", "LLM_DATADIST_SCOPE": scope()}
            peer = exits.enter_context(Peer.start({**own, **(environment or {})}))
            peer.wait_for("ready")
            return peer

        yield one


@pytest.fixture
def victim(start: Callable[..., Peer]) -> Victim:
    """An engine with cluster id 1, without a secret."""
    return Victim(start())


def scope() -> str:
    """Name what the communicators of this test session meet in."""
    return f"{SCOPE}-{os.getpid()}"


def meeting_name(communicator: str, cluster_id: int) -> str:
    """Name the socket at which a member waits for the others."""
    return f"lldd-meet-{os.getuid()}-{_hashed(scope())}-{_hashed(communicator)}-{cluster_id}"


def _hashed(text: str) -> str:
    value = 14695981039346656037
    for byte in text.encode():
        value = ((value ^ byte) * 1099511628211) % 2**64
    return f"{value:016x}"
