# SPDX-License-Identifier: Apache-2.0
"""A linked peer that reads nothing, as one that is stopped with full buffers."""

from __future__ import annotations

import time

import pytest

from llm_datadist.testing import Geometry, eventually
from tests.attacks import protocol
from tests.attacks.conftest import Victim

PEER_TIMEOUT_S = 1
CACHES = 300
TABLES = 16


@pytest.mark.rule("C10-212")
def test_a_peer_whose_buffers_are_full_is_only_silent(start) -> None:
    victim = Victim(start(), options={"lldd.PeerTimeout": str(1000 * PEER_TIMEOUT_S)})
    for number in range(CACHES):
        victim.peer.register(f"kv{number}", Geometry(), None, number)
    attacker = protocol.Attacker(victim.port, 100, transports=4)
    # More than the window of a connection that nobody reads.
    for number in range(TABLES):
        attacker.stream.sendall(protocol.frame(protocol.TABLE, 100 + number))
    eventually(lambda: victim.links() == [(100, "SILENT")], "it is silent", 10)
    until = time.monotonic() + 3 * PEER_TIMEOUT_S
    eventually(lambda: time.monotonic() > until or victim.links() != [(100, "SILENT")], "it stays")
    assert victim.links() == [(100, "SILENT")]
    # It goes on: nothing was lost.
    tables = [protocol.receive_frame(attacker.stream) for _ in range(TABLES)]
    assert [number for _, number, _ in tables] == [100 + number for number in range(TABLES)]
    protocol.serve(attacker.stream, lambda _: b"")
    eventually(lambda: victim.links() == [(100, "LIVE")], "it answers")
    attacker.close()
