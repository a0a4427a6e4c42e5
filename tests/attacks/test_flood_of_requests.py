# SPDX-License-Identifier: Apache-2.0
"""A linked peer that asks for much and reads nothing (decision 75)."""

from __future__ import annotations

import time

import numpy as np
import pytest

from llm_datadist import BlocksCacheKey, CacheDesc, DataType, Placement
from llm_datadist.testing import Peer, eventually
from tests.attacks.conftest import MOST_GROWTH, Victim
from tests.attacks.protocol import TABLE, Attacker, frame, receive_frame

CACHES = 2000
SERVED_WITHIN = 2.0
MOST_WAITING = 1024
ENGINE_AT_ONCE = 16


def register_many(actor, count: int) -> None:
    """Make the cache table large: about 120 bytes per cache."""
    actor.many = np.zeros(4096, np.uint8)
    desc = CacheDesc(8, [16, 16], DataType.DT_INT8, Placement.HOST)
    for number in range(count):
        actor.datadist.cache_manager.register_blocks_cache(
            desc,
            [actor.many.ctypes.data] * 8,
            BlocksCacheKey(1, 100 + number),
            remote_accessible=False,
        )


@pytest.mark.rule("C10-92", "C10-93")
def test_a_flood_of_requests_for_the_table(victim: Victim, start) -> None:
    victim.peer.call(register_many, CACHES)
    other: Peer = start()
    other.init(2)
    attacker = Attacker(victim.port, 5, transports=4)
    resident = victim.growth()
    attacker.stream.sendall(b"".join(frame(TABLE, number) for number in range(5400)))
    begin = time.monotonic()
    assert other.link_to(victim.peer.cluster()).status == 0
    assert time.monotonic() - begin < SERVED_WITHIN
    eventually(lambda: (5, "PEER_GONE") in victim.links(), "the connection with too many is closed")
    assert victim.growth() - resident < MOST_GROWTH
    attacker.close()


@pytest.mark.rule("C10-92", "C10-93")
def test_as_many_requests_as_may_wait_are_all_answered(victim: Victim) -> None:
    attacker = Attacker(victim.port, 5, transports=4)
    count = MOST_WAITING + ENGINE_AT_ONCE
    attacker.stream.sendall(b"".join(frame(TABLE, number) for number in range(count)))
    numbers = [receive_frame(attacker.stream)[1] for _ in range(count)]
    assert numbers == list(range(count))
    assert victim.links() == [(5, "LIVE")]
    attacker.close()


@pytest.mark.rule("C10-92", "C10-93")
def test_answers_wait_for_a_peer_that_reads_late(victim: Victim, start) -> None:
    """More than the kernel holds is sent as the peer reads, and the link stays."""
    victim.peer.call(register_many, CACHES)
    other: Peer = start()
    other.init(2)
    attacker = Attacker(victim.port, 5, transports=4)
    table = attacker.ask(TABLE)
    count = 6 * ENGINE_AT_ONCE
    assert count * len(table) > MOST_GROWTH // 4
    attacker.stream.sendall(b"".join(frame(TABLE, number) for number in range(count)))
    # Each answer to the other is a turn in which the victim also answers the attacker.
    for _ in range(3):
        assert other.link(victim.peer) == 0
        assert other.unlink(victim.peer) == 0
    answers = [receive_frame(attacker.stream)[1:] for _ in range(count)]
    assert answers == [(number, table) for number in range(count)]
    assert attacker.ask(TABLE) == table
    assert victim.links() == [(5, "LIVE")]
    attacker.close()
