# SPDX-License-Identifier: Apache-2.0
"""Strangers where the members of a communicator meet: at the rendezvous, and on their own host
(decision 78).
"""

from __future__ import annotations

import os
import socket
import struct
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from llm_datadist import RegisterMemStatus
from llm_datadist.testing import Peer, eventually
from llm_datadist.testing.resources import resident_bytes
from tests.attacks import protocol
from tests.attacks.conftest import MOST_GROWTH, SECRET, meeting_name
from tests.attacks.protocol import HELLO_BYTES, PROOF_BYTES, frame, receive_frame

SERVED_WITHIN = 2.0
MEMBERS = {1: 0, 2: 1}
NAME = "secret plans"
NOBODY = 65534
CARD, GREETING, FOR_A_MEETING = 9, 11, 4


def join(actor: Any, name: str) -> tuple[int, str]:
    """Join a communicator; returns its number, and what the client is told."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        comm = actor.datadist.link(name, MEMBERS, "{}")
        actor.datadist.query_register_mem_status(comm)
    return comm, "\n".join(str(each.message) for each in caught)


def state(actor: Any, comm: int) -> str:
    return actor.datadist.query_register_mem_status(comm).name


@pytest.fixture
def address() -> tuple[str, int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()


def member(start, cluster_id: int, address: tuple[str, int] | None, secret: str) -> Peer:
    where = {} if address is None else {"LLM_DATADIST_RENDEZVOUS": "{}:{}".format(*address)}
    peer: Peer = start(where)
    peer.init(cluster_id, options={"lldd.AuthToken": secret} if secret else {})
    return peer


def both_ready(members: list[tuple[Peer, tuple[int, str]]]) -> None:
    begin = time.monotonic()
    ready = {RegisterMemStatus.OK.name}
    eventually(
        lambda: {peer.call(state, comm) for peer, (comm, _) in members} == ready, "the members met"
    )
    assert time.monotonic() - begin < SERVED_WITHIN


def card(name: str, cluster_id: int) -> bytes:
    texts = (b"cluster 1 and cluster 2", b"{}", b"127.0.0.1")
    fixed = struct.pack("<IHQ", 0x44444C4C, 2, cluster_id) + protocol.sized(name.encode())
    return fixed + b"".join(protocol.sized(each) for each in texts) + struct.pack("<I", 1)


def heard(address: tuple[str, int], words: bytes, bytes_wanted: int = 1 << 20) -> bytes:
    """Say something to the holder and hear until it hangs up."""
    with socket.create_connection(address, timeout=5) as stream:
        told = b""
        try:
            stream.sendall(words)
            while len(told) < bytes_wanted and (more := stream.recv(65536)):
                told += more
        except ConnectionResetError:
            # It has hung up before it had read everything.
            return told
        return told


@pytest.mark.rule("C10-118")
def test_a_stranger_is_not_told_what_the_rendezvous_is_for(start, address) -> None:
    holder = member(start, 1, address, SECRET)
    joined = [(holder, holder.call(join, NAME))]
    assert heard(address, frame(CARD, 1, card(NAME, 2))) == b""
    greeting = protocol.hello(FOR_A_MEETING, 1)
    wrong = os.urandom(PROOF_BYTES) + card(NAME, 2)
    told = heard(address, frame(GREETING, 1, greeting) + frame(CARD, 2, wrong))
    assert len(told) == 12 + HELLO_BYTES + PROOF_BYTES
    assert NAME.encode() not in told
    # What is proved once is proved for one connection.
    assert heard(address, frame(GREETING, 1, greeting) * 2)[: len(told)] != told
    visitor = member(start, 2, address, SECRET)
    both_ready([*joined, (visitor, visitor.call(join, NAME))])


@pytest.mark.rule("C10-118")
def test_a_member_tells_a_false_holder_nothing(start, address) -> None:
    with socket.create_server(address) as server:
        visitor = member(start, 2, address, SECRET)
        visitor.call(join, NAME)
        stream, _ = server.accept()
        with stream:
            stream.settimeout(5)
            kind, _, greeting = receive_frame(stream)
            assert (kind, len(greeting)) == (GREETING, HELLO_BYTES)
            assert (
                greeting[:20] == protocol.hello(FOR_A_MEETING, 1, features=protocol.FEATURES)[:20]
            )
            answer = protocol.hello(FOR_A_MEETING, 1) + os.urandom(PROOF_BYTES)
            stream.sendall(frame(GREETING, 1, answer))
            assert stream.recv(4096) == b""


@pytest.mark.rule("C10-119")
@pytest.mark.parametrize("secret", ["", SECRET], ids=["no secret", "secret"])
def test_strangers_do_not_keep_members_from_the_rendezvous(start, address, secret: str) -> None:
    holder = member(start, 1, address, secret)
    resident = resident_bytes(holder.pid)
    joined = [(holder, holder.call(join, NAME))]
    large = card("nobody's", 7) + bytes(64)
    with ExitStack() as exits:
        for number in range(600):
            stream = exits.enter_context(socket.create_connection(address, timeout=5))
            # Silent ones, ones that are not complete, and members of what nobody attends.
            words = (b"", frame(CARD, 1, bytes(100), size=160 << 10), frame(CARD, 1, large))
            try:
                stream.sendall(words[number % 3])
            except ConnectionError:
                # It is among those that had to make room.
                continue
        visitor = member(start, 2, address, secret)
        both_ready([*joined, (visitor, visitor.call(join, NAME))])
        assert resident_bytes(holder.pid) - resident < MOST_GROWTH


@contextmanager
def another_user() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.getuid() != 0, reason="capability: another user, which only root can become")
@pytest.mark.rule("C10-120")
@pytest.mark.parametrize("held", [[1], [2], [1, 2]], ids=str)
def test_another_user_holds_the_names_of_members(start, held: list[int]) -> None:
    """They meet all the same, and the client is told which process it is."""
    with ExitStack() as exits:
        for cluster_id in held:
            taken = exits.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            with another_user():
                taken.bind(b"\0" + meeting_name(NAME, cluster_id).encode())
                taken.listen(64)
        members = [member(start, cluster_id, None, "") for cluster_id in MEMBERS]
        joined = [(peer, peer.call(join, NAME)) for peer in members]
        both_ready(joined)
        for (_, (_, told)), cluster_id in zip(joined, MEMBERS):
            assert (f"process {os.getpid()} of user {NOBODY}" in told) == (cluster_id in held)
