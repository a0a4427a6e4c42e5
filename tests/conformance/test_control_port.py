# SPDX-License-Identifier: Apache-2.0
"""Strangers at the control port: garbage, half messages, absurd lengths, many and slow connections.

What a real client and a real server say to each other is recorded by a relay and then replayed cut
short and with changed bytes, so that the tests know nothing of the protocol and reach every
message of it all the same.
"""

from __future__ import annotations

import errno
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.testing import Peer, check, eventually, moved
from llm_datadist.testing.actor import ClusterAddress
from llm_datadist.testing.resources import resident_bytes
from tests.conformance.listener import listener_that_says
from tests.conformance.paths import ON_ASCEND
from tests.conformance.relay import relay
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
STRANGER = 3


class Victim:
    """An owner with a linked puller, and the means to see that both still work."""

    def __init__(self, stage: Stage) -> None:
        self.owner = stage.engine(OWNER)
        self.puller = stage.engine(PULLER, listen=None)
        self.source = self.owner.register("kv", SMALL, 1, 0)
        self.target = self.puller.register("kv", SMALL, 2, 0)
        linked(self.puller, self.owner)
        # Both ends have all that a link in use has.
        self.puller.pull("kv", KEY, [0], [0])
        self.owner.pull("kv", BlocksCacheKey(PULLER, 0), [0], [0])
        self.at_rest = self.owner.resources()
        self.resident = resident_bytes(self.owner.pid)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.owner.listen_address, timeout=10)

    def still_serves(self) -> None:
        """The old link works in both directions, a new one can be made, and no memory was taken for
        nothing.
        """
        self.puller.pull("kv", KEY, [3], [4])
        self.owner.pull("kv", BlocksCacheKey(PULLER, 0), [5], [5])
        assert self.puller.unlink(self.owner) == S.LLM_SUCCESS
        linked(self.puller, self.owner)
        self.puller.pull("kv", KEY, [6], [6])
        assert resident_bytes(self.owner.pid) < self.resident + (64 << 20)

    def forgets(self) -> None:
        """The descriptors of strangers who hung up are closed."""

        def more() -> int:
            return sum((self.owner.resources().descriptors - self.at_rest.descriptors).values())

        # HIXL keeps its own connection to the engine that a stranger spoke for: its peer cannot be
        # asked any more. On the fake that is a socket and a file.
        kept = 2 if ON_ASCEND else 0
        eventually(lambda: more() <= kept, "closed connections are forgotten")


@pytest.fixture
def victim(stage: Stage) -> Victim:
    return Victim(stage)


def record(stage: Stage, owner: Peer) -> tuple[bytes, bytes]:
    """What client and server say on their first connection: link, table, pull, unlink."""
    client = stage.engine(
        STRANGER, listen=None, environment={"LLM_DATADIST_MOCK_TRANSPORT": "cma,tcp"}
    )
    client.register("kv", SMALL, 3)
    with relay(owner.listen_address) as passing:
        there = ClusterAddress(OWNER, passing.address)
        assert client.link_to(there).status == S.LLM_SUCCESS
        client.pull("kv", KEY, [0], [0])
        assert client.unlink_from(there).status == S.LLM_SUCCESS
    return bytes(passing.said[0][0]), bytes(passing.said[0][1])


def say(victim: Victim, message: bytes, answers: bytes = b"") -> None:
    """Say it, wait for what is answered until the server hangs up or says nothing more, and hang
    up.
    """
    with victim.connect() as stranger:
        try:
            stranger.sendall(message)
            stranger.shutdown(socket.SHUT_WR)
            stranger.settimeout(5)
            while stranger.recv(65536):
                pass
        except ConnectionError:
            # Refused in the middle, as it should be.
            return
        except OSError as error:
            # Refused so early that there is nothing left to shut down.
            if error.errno != errno.ENOTCONN:
                raise


@pytest.mark.sanitize
def test_garbage(victim: Victim) -> None:
    rng = random.Random(1)
    for size in (0, 1, 3, 35, 36, 37, 100, 4096, 300_000):
        say(victim, rng.randbytes(size))
    for text in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 4096, b"\xff" * 4096):
        say(victim, text)
    victim.still_serves()
    victim.forgets()


@pytest.mark.sanitize
def test_half_messages(stage: Stage, victim: Victim) -> None:
    spoken, _ = record(stage, victim.owner)
    assert len(spoken) > 50
    for end in range(0, len(spoken), max(1, len(spoken) // 120)):
        say(victim, spoken[:end])
    victim.still_serves()
    victim.forgets()


@pytest.mark.sanitize
def test_changed_messages(stage: Stage, victim: Victim) -> None:
    spoken, _ = record(stage, victim.owner)
    rng = random.Random(2)
    for start in range(0, len(spoken) - 4, max(1, len(spoken) // 60)):
        for value in (b"\xff\xff\xff\xff", b"\0\0\0\0", rng.randbytes(4)):
            say(victim, spoken[:start] + value + spoken[start + 4 :])
    victim.still_serves()


@pytest.mark.sanitize
def test_a_real_beginning_and_then_garbage(stage: Stage, victim: Victim) -> None:
    spoken, _ = record(stage, victim.owner)
    rng = random.Random(3)
    for end in range(0, len(spoken), max(1, len(spoken) // 30)):
        say(victim, spoken[:end] + rng.randbytes(200))
    victim.still_serves()


def test_a_replayed_conversation_gives_nobody_elses_link_away(stage: Stage, victim: Victim) -> None:
    spoken, _ = record(stage, victim.owner)
    for _ in range(5):
        say(victim, spoken)
    victim.still_serves()


def test_absurd_lengths_take_no_memory(stage: Stage, victim: Victim) -> None:
    spoken, _ = record(stage, victim.owner)
    with ExitStack() as open_connections:
        # Every 4-byte place of the conversation once as a huge length, all of them kept open at one
        # time.
        for start in range(0, len(spoken) - 4, max(1, len(spoken) // 150)):
            for value in (b"\xff\xff\xff\x7f", b"\xff\xff\xff\x03"):
                stranger = open_connections.enter_context(victim.connect())
                try:
                    stranger.sendall(spoken[:start] + value + spoken[start + 4 :] + b"\0" * 1000)
                except ConnectionError:
                    continue
        victim.still_serves()
    victim.still_serves()


def test_many_connections_that_say_nothing(victim: Victim) -> None:
    with ExitStack() as strangers:
        for _ in range(600):
            strangers.enter_context(victim.connect())
        victim.still_serves()
        assert len(victim.owner.resources().descriptors) < 2000
    victim.forgets()


@pytest.mark.sanitize
@pytest.mark.threads
def test_slow_senders_hold_nobody_up(stage: Stage, victim: Victim) -> None:
    spoken, _ = record(stage, victim.owner)
    with ExitStack() as open_connections:
        slow = [open_connections.enter_context(victim.connect()) for _ in range(20)]
        for position in range(min(len(spoken), 60)):
            for stranger in slow:
                try:
                    stranger.sendall(spoken[position : position + 1])
                except ConnectionError:
                    # The server may have had enough of it.
                    continue
            if position % 20 == 0:
                start = time.monotonic()
                victim.puller.pull("kv", KEY, [1], [1])
                victim.puller.unlink(victim.owner)
                linked(victim.puller, victim.owner)
                assert time.monotonic() - start < 3
    victim.still_serves()
    victim.forgets()


def test_a_message_in_single_bytes_is_a_message(stage: Stage, victim: Victim) -> None:
    # A real client behind a proxy that passes on single bytes gets its link.
    client = stage.engine(STRANGER, listen=None)
    client.register("kv", SMALL, 3)
    with dribble(victim.owner.listen_address) as address:
        answer = client.link_to(ClusterAddress(OWNER, address), timeout_ms=20000)
        assert answer.status == S.LLM_SUCCESS, answer
        client.pull("kv", KEY, [0], [0])
        assert client.unlink_from(ClusterAddress(OWNER, address)).status == S.LLM_SUCCESS


@contextmanager
def dribble(target: tuple[str, int]) -> Iterator[tuple[str, int]]:
    """Pass one connection on, both directions byte by byte."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while data := source.recv(65536):
                for position in range(len(data)):
                    sink.sendall(data[position : position + 1])
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # Either side ended the connection.
            return

    def pass_on(server: socket.socket) -> None:
        client, _ = server.accept()
        with client, socket.create_connection(target) as other:
            back = threading.Thread(target=pump, args=(other, client))
            back.start()
            pump(client, other)
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=pass_on, args=(server,))
        thread.start()
        yield server.getsockname()
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.sanitize
def test_a_client_that_links_to_something_else(stage: Stage, victim: Victim) -> None:
    _, answers = record(stage, victim.owner)
    rng = random.Random(4)
    wrong = [b"", b"SSH-2.0-x\r\n", rng.randbytes(36), rng.randbytes(5000), b"\xff" * 5000]
    wrong += [answers[:end] for end in range(1, min(len(answers), 300), 13)]
    for start in range(0, min(len(answers), 300), 11):
        wrong.append(answers[:start] + b"\xff\xff\xff\xff" + answers[start + 4 :])
        wrong.append(answers[:start] + rng.randbytes(60))
    # A client of its own: whoever says that he is the owner may take a link to the owner away.
    client = stage.engine(44, listen=None)
    client.register("kv", SMALL, 3)
    for said in wrong:

        def greet(connection: socket.socket, said: bytes = said) -> None:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)

        with listener_that_says(greet) as address:
            answer = client.link_to(ClusterAddress(None, address), timeout_ms=3000)
        # A changed answer may still be a link, to a peer that is gone at once.
        known = (S.LLM_LINK_FAILED, S.LLM_TIMEOUT, S.LLM_SUCCESS, *refusals())
        assert answer.status in known, answer
        assert answer.details[0] or answer.status == S.LLM_SUCCESS
        for link in client.call("links"):
            assert answer.status == S.LLM_SUCCESS, link
            client.unlink_from(ClusterAddress(link.peer_cluster_id), force=True)
    linked(client, victim.owner)
    client.pull("kv", KEY, [0], [0])
    victim.still_serves()


def refusals() -> tuple[LLMStatusCode, ...]:
    """What a server may say that it refuses a link with; changed bytes may say it, too."""
    return (S.LLM_PARAM_INVALID, S.LLM_ALREADY_LINK, S.LLM_FAILED)


def test_the_bytes_are_right_after_all_that(victim: Victim) -> None:
    rng = random.Random(5)
    for _ in range(20):
        say(victim, rng.randbytes(rng.randrange(2000)))
        victim.puller.pull("kv", KEY, [3, 4], [5, 9])
    expected = moved(victim.target.filled(), victim.source.filled(), [0, 3, 4], [0, 5, 9])
    check(victim.target, expected)
