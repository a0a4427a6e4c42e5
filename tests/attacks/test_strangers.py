# SPDX-License-Identifier: Apache-2.0
"""Strangers at the port and at the same-host channel: many, silent, with much that they never end
(decision 76).
"""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from llm_datadist.testing import Peer, eventually
from tests.attacks import protocol
from tests.attacks.conftest import MOST_GROWTH, SECRET, Victim

SERVED_WITHIN = 2.0
FLOOD = 2000
# What a link and the attacker's own sockets need besides.
OWN_FILES = 200


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process open as many files as the flood has connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FLOOD + OWN_FILES
    if soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            pytest.skip(f"this process may open {hard} files, {wanted} are needed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def links_in_time(client: Peer, victim: Victim) -> None:
    """A peer that knows what it must know is served as if nobody else were there."""
    begin = time.monotonic()
    assert client.link_to(victim.peer.cluster()).status == 0
    assert time.monotonic() - begin < SERVED_WITHIN
    assert victim.growth() < MOST_GROWTH
    assert client.unlink_from(victim.peer.cluster()).status == 0


class Strangers:
    """Many connections to one port."""

    def __init__(self, exits: ExitStack, port: int) -> None:
        self.exits = exits
        self.port = port
        self.streams: list[socket.socket] = []

    def come(self, count: int, words: bytes) -> None:
        """Connect so many times, and say that."""
        for _ in range(count):
            stream = self.exits.enter_context(
                socket.create_connection(("127.0.0.1", self.port), timeout=10)
            )
            stream.sendall(words)
            self.streams.append(stream)


@pytest.mark.rule("C10-110")
@pytest.mark.parametrize("secret", ["", SECRET], ids=["no secret", "secret"])
def test_two_thousand_connections(start, many_files: None, secret: str) -> None:
    options = {"lldd.AuthToken": secret} if secret else {}
    victim = Victim(start(), options=options)
    client: Peer = start()
    client.init(2, options=options)
    links_in_time(client, victim)
    with ExitStack() as exits:
        strangers = Strangers(exits, victim.port)
        strangers.come(FLOOD // 4, b"")
        links_in_time(client, victim)
        # In the right way, as far as one can without the secret.
        strangers.come(FLOOD // 4, protocol.hello(auth=1 if secret else 0, identifier=7))
        links_in_time(client, victim)
        strangers.come(FLOOD // 2, protocol.hello(auth=1 if secret else 0, identifier=7)[:30])
        links_in_time(client, victim)
    eventually(lambda: client.link_to(victim.peer.cluster()).status == 0, "the victim serves")


@pytest.mark.rule("C10-111")
def test_requests_that_never_end(victim: Victim, start) -> None:
    """Each of nearly 8 MiB, as large as one may be: 320 MiB in all."""
    client: Peer = start()
    client.init(2)
    most = 8 << 20
    words = protocol.frame(protocol.LINK, 1, bytes(most - 4096), size=most - 100)
    with ExitStack() as exits:
        strangers = Strangers(exits, victim.port)
        for _ in range(40):
            try:
                strangers.come(1, protocol.hello(identifier=7) + words)
            except OSError:
                # The victim has hung up in the middle.
                continue
        links_in_time(client, victim)


@pytest.mark.rule("C10-111")
def test_lengths_that_nobody_has(victim: Victim, start) -> None:
    client: Peer = start()
    client.init(2)
    with ExitStack() as exits:
        strangers = Strangers(exits, victim.port)
        for size in (0xFFFFFFFF, 0x7FFFFFFF, (8 << 20) + 1, 8 << 20):
            strangers.come(
                50, protocol.hello(identifier=7) + protocol.frame(protocol.LINK, 1, size=size)
            )
        links_in_time(client, victim)


def visit(name: bytes, count: int) -> list[socket.socket]:
    visitors = []
    for _ in range(count):
        visitor = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        visitor.settimeout(5)
        visitor.connect(b"\0lldd-" + name.hex().encode())
        visitors.append(visitor)
    return visitors


@pytest.mark.rule("C10-112")
def test_silent_visitors_of_the_channel_do_not_force_tcp(victim: Victim, start) -> None:
    client: Peer = start()
    client.init(2)
    attacker = protocol.Attacker(victim.port, 5, transports=7)
    visitors = visit(attacker.channel, 300)
    try:
        assert client.link_to(victim.peer.cluster()).status == 0
        paths = client.call("link_paths", 1)
        assert not any("did not come over a local socket" in path.reason for path in paths)
        assert "mapped" in {path.path for path in paths}, paths
        assert victim.growth() < MOST_GROWTH
    finally:
        for visitor in visitors:
            visitor.close()
        attacker.close()


@pytest.mark.skipif(os.getuid() != 0, reason="capability: another user, which only root can become")
@pytest.mark.rule("C10-112")
def test_another_user_pushes_out_its_own_visitors(victim: Victim) -> None:
    attacker = protocol.Attacker(victim.port, 5, transports=7)
    own = visit(attacker.channel, 1)
    os.seteuid(65534)
    try:
        others = visit(attacker.channel, 300)
    finally:
        os.seteuid(0)
    own[0].settimeout(0.2)
    with pytest.raises(TimeoutError):
        own[0].recv(1)
    assert others[0].recv(1) == b""
    for visitor in (*own, *others):
        visitor.close()
    attacker.close()
