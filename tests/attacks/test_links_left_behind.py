# SPDX-License-Identifier: Apache-2.0
"""Links that nobody can use or end: joins that fail, peers that come and go (decision 73)."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from llm_datadist import LLMException
from llm_datadist.testing import Peer, eventually
from tests.attacks import protocol
from tests.attacks.conftest import MOST_GROWTH, Victim, meeting_name

MOST_GONE = 1024
JOINS = 40


def join_again_and_again(actor, times: int) -> int:
    """Join a communicator whose name is taken; returns how often that failed."""
    failures = 0
    for _ in range(times):
        try:
            actor.datadist.link("held", {1: 0, 9: 1}, "{}")
        except LLMException:
            failures += 1
    return failures


@pytest.mark.rule("C10-77")
def test_a_join_that_fails_while_a_member_dials_leaves_no_link(victim: Victim) -> None:
    stop = threading.Event()

    def dial() -> None:
        while not stop.is_set():
            try:
                # Everything at once, so that it is confirmed while the join fails.
                with socket.create_connection(("127.0.0.1", victim.port)) as stream:
                    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    stream.sendall(protocol.hello(identifier=9))
                    protocol.receive(stream, protocol.HELLO_BYTES)
                    request = (9).to_bytes(8, "little") + bytes([1, 0, 0, 0]) + bytes(5)
                    request += os.urandom(16) + protocol.sized(b"held")
                    request += protocol.sized(protocol.endpoint(transports=4))
                    stream.sendall(protocol.frame(1, 1, request) + protocol.frame(2, 2))
                    protocol.receive_frame(stream)
            except (EOFError, OSError):
                continue

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as holder:
        holder.bind(b"\0" + meeting_name("held", 1).encode())
        holder.listen(1)
        threads = [threading.Thread(target=dial) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            assert victim.peer.call(join_again_and_again, JOINS) == JOINS
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert victim.links() == []


@pytest.mark.rule("C10-78")
def test_a_peer_that_is_gone_leaves_no_list_of_regions(victim: Victim) -> None:
    regions = [protocol.Region((1 + slot) << 16, 4096, slot=slot) for slot in range(100_000)]
    for cluster_id in range(100, 130):
        protocol.Attacker(victim.port, cluster_id, regions=regions).close()
    gone = [(cluster_id, "PEER_GONE") for cluster_id in range(100, 130)]
    eventually(lambda: victim.links() == gone, "the victim sees that they are gone")
    # 30 lists of 5 MB each.
    assert victim.growth() < MOST_GROWTH


@pytest.mark.rule("C10-78")
def test_links_of_peers_that_are_gone_are_bounded(victim: Victim, start) -> None:
    for cluster_id in range(100, 100 + MOST_GONE + 1):
        protocol.Attacker(victim.port, cluster_id, transports=4).close()
    at_the_limit = [(each, "PEER_GONE") for each in range(101, 101 + MOST_GONE)]
    eventually(lambda: victim.links() == at_the_limit, "the first that was gone is removed")
    client: Peer = start()
    client.init(2)
    assert client.link_to(victim.peer.cluster()).status == 0
    assert len(victim.links()) == MOST_GONE + 1
