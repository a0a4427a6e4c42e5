# SPDX-License-Identifier: Apache-2.0
"""Somebody who sees all that two ends with a secret say, and has no secret (decision 77)."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.testing import Geometry, Peer, PeerCache, check, moved
from llm_datadist.testing.actor import ClusterAddress
from tests.attacks import protocol
from tests.attacks.conftest import SECRET, Victim
from tests.attacks.protocol import CHANNEL, HELLO_BYTES, PROOF_BYTES
from tests.conformance.relay import Relay, relay

OWNER, CLIENT = 1, 2
GEOMETRY = Geometry(2, 16, 4096)
TCP = {"LLM_DATADIST_MOCK_TRANSPORT": "tcp"}
INITIATOR_ASKS, ACCEPTOR_ASKS = 2, 3
READ, WRITE = 1, 2


@dataclass
class Seen:
    """What passed by the attacker while an owner and its client linked and moved bytes."""

    owner: Victim
    client: Peer
    source: PeerCache
    target: PeerCache
    passing: Relay

    def control(self) -> tuple[bytes, bytes]:
        """What client and owner said on the control connection."""
        return bytes(self.passing.said[0][0]), bytes(self.passing.said[0][1])

    def stream(self) -> bytes:
        """What the client said on a data stream."""
        return bytes(self.passing.said[1][0])

    def unharmed(self) -> None:
        """Their memory is as the two have left it, and their link still serves."""
        check(self.source, self.source.filled())
        self.client.pull("kv", BlocksCacheKey(OWNER, 0), [5], [5])
        pulled = moved(self.target.filled(), self.source.filled(), [1, 5], [0, 5])
        check(self.target, pulled)

    def nonce(self) -> bytes:
        """Name the link: it is in each greeting of a stream."""
        return self.stream()[20:HELLO_BYTES]

    def region(self) -> tuple[int, int, int]:
        """Slot, generation and address of memory of the owner, from its endpoint."""
        reply = self.control()[1][HELLO_BYTES + PROOF_BYTES + 8 + 12 :]
        endpoint = reply[12:]
        count = struct.unpack_from("<Q", endpoint, 64)[0]
        assert count > 0
        slot, generation, addr = struct.unpack_from("<IIQ", endpoint, 72)
        return slot, generation, addr


def request(operation: int, region: tuple[int, int, int], number: int = 7) -> bytes:
    """Ask for 16 bytes of memory, or overwrite them."""
    head = struct.pack("<IIIIQIIQQ", 0x51524D4C, operation, number, 1, 16, *region, 16)
    return head + (b"\x66" * 16 if operation == WRITE else b"")


@pytest.fixture
def seen(start) -> Iterator[Seen]:
    """The owner's memory is reached by TCP; all of it has passed by."""
    options = {"lldd.AuthToken": SECRET}
    owner = Victim(start(TCP), options=options)
    client: Peer = start(TCP)
    client.init(CLIENT, options=options)
    source = owner.peer.register("kv", GEOMETRY, 1, 0)
    target = client.register("kv", GEOMETRY, 2, 0)
    with relay(owner.peer.listen_address) as passing:
        there = ClusterAddress(OWNER, passing.address)
        assert client.link_to(there).status == LLMStatusCode.LLM_SUCCESS
        client.pull("kv", BlocksCacheKey(OWNER, 0), [1], [0])
        yield Seen(owner, client, source, target, passing)
        client.unlink_from(there)


def said_to(port: int, words: bytes) -> bytes:
    """Say something to the owner and hear it out."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
        heard = b""
        try:
            stream.sendall(words)
            while more := stream.recv(4096):
                heard += more
        except ConnectionResetError:
            # It has hung up before it had read everything.
            return heard
        return heard


@pytest.mark.rule("C10-115")
@pytest.mark.parametrize("purpose", [INITIATOR_ASKS, ACCEPTOR_ASKS])
def test_what_was_seen_opens_no_stream(seen: Seen, purpose: int) -> None:
    """Nor does it take the stream that is there from the two."""
    greeted = HELLO_BYTES + PROOF_BYTES
    asked = request(READ, seen.region()) + request(WRITE, seen.region())
    name = (purpose, 1, CLIENT, seen.nonce())
    assert said_to(seen.owner.port, protocol.hello(purpose, 0, CLIENT, seen.nonce()) + asked) == b""
    # It proves itself, and hears a proof that is worth nothing for this connection.
    wrong = os.urandom(PROOF_BYTES)
    assert len(said_to(seen.owner.port, protocol.hello(*name) + wrong + asked)) == greeted
    recorded = seen.stream()[:greeted]
    assert len(said_to(seen.owner.port, recorded + asked)) == greeted
    seen.unharmed()


@pytest.mark.rule("C10-115")
def test_an_old_nonce_opens_no_stream(seen: Seen) -> None:
    assert seen.client.unlink_from(ClusterAddress(OWNER, seen.passing.address)).status == 0
    for auth in (0, 1):
        words = protocol.hello(INITIATOR_ASKS, auth, CLIENT, seen.nonce())
        assert said_to(seen.owner.port, words + request(READ, seen.region())) == b""


@pytest.mark.rule("C10-115")
def test_the_whole_handshake_again(seen: Seen) -> None:
    """The owner proves itself, for nothing, and says nothing more."""
    heard = said_to(seen.owner.port, seen.control()[0])
    assert len(heard) == HELLO_BYTES + PROOF_BYTES
    assert heard[:20] == protocol.hello(1, 1, 0, features=protocol.FEATURES)[:20]
    seen.unharmed()


def visit(channel: bytes, nonce: bytes, key: bytes) -> tuple[bytes, int]:
    """Visit the same-host channel with that key; the last answer, and how many descriptors came."""
    room = socket.CMSG_SPACE(66 * 4)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as visitor:
        visitor.settimeout(5)
        visitor.connect(b"\0lldd-" + channel.hex().encode())
        challenge = os.urandom(16)
        visitor.sendall(struct.pack("<II", *CHANNEL) + nonce + challenge)
        challenges = nonce + challenge + visitor.recv(4096)[8:24]
        proof = protocol.proof(key, 1, b"channel", challenges)
        page, table = protocol.sealed_memory(4096), protocol.sealed_memory(4 << 20)
        message = struct.pack("<II32sIIII", *CHANNEL, proof, 1, 0, 0, 0) + bytes(16 * 64)
        socket.send_fds(visitor, [message], [page, table])
        answer, ancillary, _, _ = visitor.recvmsg(4096, room)
        return answer, len(ancillary)


@pytest.mark.rule("C10-116")
def test_a_sniffed_nonce_is_given_nothing_by_the_channel(start) -> None:
    victim = Victim(start(), options={"lldd.AuthToken": SECRET})
    peer = protocol.Attacker(victim.port, 5, secret=SECRET.encode(), confirm=False)
    for key in (bytes(32), os.urandom(32), protocol.derived(b"", *peer.greetings)):
        assert visit(peer.channel, peer.nonce, key) == (b"", 0)
    # The peer itself is served, though others have named its link before.
    assert peer.give(protocol.Gift.proper([])) != b""
    peer.confirm()
    peer.close()


class Impostor:
    """Holds the name of the channel in the place of the peer, and keeps what it is sent."""

    def __init__(self, answer: bytes) -> None:
        self.name = os.urandom(16)
        self.heard: list[bytes] = []
        self.descriptors = 0
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(b"\0lldd-" + self.name.hex().encode())
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        visitor, _ = self._socket.accept()
        with visitor:
            while True:
                message, descriptors, _, _ = socket.recv_fds(visitor, 4096, 66)
                if not message:
                    return
                self.heard.append(message)
                self.descriptors += len(descriptors)
                if self._answer:
                    visitor.sendall(self._answer)

    def end(self) -> None:
        """Wait until the visitor has gone."""
        self._thread.join()
        self._socket.close()


@contextmanager
def endpoint_with(channel: bytes, port: int) -> Iterator[tuple[str, int]]:
    """Pass a connection on, with another name of the channel in what the server answers: as if the
    server were on another host, where nobody can reach its channel.
    """

    def pump(source: socket.socket, sink: socket.socket, change: bool) -> None:
        while data := source.recv(65536):
            # The frame of the LinkReply: its header, a status, two lengths, the endpoint.
            if change and data[4:6] == struct.pack("<H", 0x8000 | protocol.LINK):
                place = 12 + 12 + 48
                data = data[:place] + channel + data[place + 16 :]
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def serve(server: socket.socket) -> None:
        client, _ = server.accept()
        with client, socket.create_connection(("127.0.0.1", port)) as other:
            back = threading.Thread(target=pump, args=(other, client, True))
            back.start()
            pump(client, other, False)
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        yield server.getsockname()
        thread.join()


@pytest.mark.rule("C10-117")
@pytest.mark.parametrize(
    "answer", [b"", struct.pack("<II", *CHANNEL) + bytes(48)], ids=["", "wrong"]
)
def test_who_holds_the_name_of_the_channel_gets_nothing(
    victim: Victim, start, answer: bytes
) -> None:
    """No descriptor of the client, and the link is made all the same, over TCP, which says why."""
    client: Peer = start()
    client.init(CLIENT, device_pool=1 << 20)
    impostor = Impostor(answer)
    with endpoint_with(impostor.name, victim.port) as address:
        there = ClusterAddress(OWNER, address)
        assert client.link_to(there, timeout_ms=2000).status == LLMStatusCode.LLM_SUCCESS
        paths = client.call("link_paths", OWNER)
        assert client.unlink_from(there).status == LLMStatusCode.LLM_SUCCESS
    impostor.end()
    assert (len(impostor.heard), impostor.descriptors) == (1, 0)
    assert {path.path for path in paths} == {"tcp"}
    said = "is not the peer" if answer else "does not answer"
    holder = f"process {os.getpid()} of user {os.getuid()}, which holds the name"
    assert all(holder in path.reason and said in path.reason for path in paths)
