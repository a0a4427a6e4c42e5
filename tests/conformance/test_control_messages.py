# SPDX-License-Identifier: Apache-2.0
"""The control protocol byte by byte: known answers, proofs, what is served when, what is closed.

An end in Python speaks to an engine (speaker.py), so two mistakes that cancel out between engines
are seen.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Callable

import pytest

from llm_datadist import BlocksCacheKey, LLMException, LLMStatusCode
from llm_datadist.testing import eventually
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance import speaker as wire
from tests.conformance.communicators import join, unlink_member
from tests.conformance.listener import listener_that_says
from tests.conformance.paths import ON_ASCEND
from tests.conformance.relay import relay
from tests.conformance.speaker import Request, Speaker
from tests.conformance.stage import OWNER, PULLER, SMALL
from tests.conformance.together import NearPeer, NearStage

S = LLMStatusCode
STRANGER = 3
TOKEN = "s3cret"
TOKEN_OPTIONS = {"lldd.AuthToken": TOKEN}

Speak = Callable[..., Speaker]


def recorded(stage: NearStage, owner: NearPeer, **spec: object) -> tuple[bytes, bytes]:
    """What a client and the owner say to each other while they link."""
    client = stage.engine(STRANGER, listen=None, **spec)
    with relay(owner.listen_address) as passing:
        there = ClusterAddress(OWNER, passing.address)
        assert client.link_to(there).status == S.LLM_SUCCESS
        assert client.unlink_from(there).status == S.LLM_SUCCESS
    return bytes(passing.said[0][0]), bytes(passing.said[0][1])


@pytest.fixture
def owner(together: NearStage) -> NearPeer:
    return together.engine(OWNER)


@pytest.fixture
def request_of_a_client(together: NearStage, owner: NearPeer) -> Request:
    """A request with the endpoint, the mode and the style of a real client, which stays open."""
    return Request.spoken_in(recorded(together, owner)[0])


@pytest.fixture
def speak(owner: NearPeer, request_of_a_client: Request) -> Iterator[Speak]:
    with ExitStack() as open_connections:

        def connect() -> Speaker:
            return open_connections.enter_context(
                Speaker(owner.listen_address, request_of_a_client)
            )

        yield connect


# ---- known answers


def test_a_link_made_of_the_described_bytes(speak: Speak, owner: NearPeer) -> None:
    speaker = speak()
    greeting = speaker.greet()
    assert greeting[:20] == wire.hello(OWNER, b"", features=wire.FEATURES)
    assert greeting[20:] not in (b"\0" * wire.NONCE_BYTES, speaker.nonce)
    assert speaker.ask_for_link() == (0, b"")
    assert speaker.confirm() == (0, b"")
    assert [link.peer_cluster_id for link in owner.call("links")] == [STRANGER]
    # The version of a table that never had a cache, and two counts.
    assert speaker.ask(wire.TABLE) == b"\0" * 16
    assert speaker.ask(wire.UNLINK) == b""
    assert speaker.is_closed()
    assert owner.call("links") == []


def test_the_table_byte_by_byte(speak: Speak, owner: NearPeer) -> None:
    owner.register("kv", SMALL, 1, 77)
    speaker = speak()
    speaker.link()
    table = speaker.ask(wire.TABLE)
    assert table is not None
    version, num_caches = struct.unpack_from("<QI", table)
    assert version > 0
    cache = struct.unpack_from("<qIBBBIQQ", table, 12)
    cache_id, tensors, blocks, placement, accessible, _, tensor_bytes, count = cache
    assert (num_caches, tensors, blocks, accessible) == (1, SMALL.num_tensors, 1, 1)
    assert placement in (0, 1)
    assert (tensor_bytes, count) == (SMALL.num_blocks * SMALL.block_bytes, SMALL.num_blocks)
    shape = list(SMALL.desc().shape)
    dims = struct.unpack_from(f"<B{len(shape)}q", table, 12 + 35)
    assert dims == (len(shape), *shape)
    # What lies before the addresses: the head of the table and the cache up to there.
    head = 12 + 35 + 1 + 8 * len(shape)
    addresses = struct.unpack_from(f"<{tensors}Q", table, head)
    assert list(addresses) == list(owner.actor.caches["kv"].tensor_addrs)
    name = struct.unpack_from("<IQQqQ", table, head + 8 * tensors)
    assert name == (1, 2**64 - 1, 77, cache_id, 0)
    assert len(table) == head + 8 * tensors + 4 + 32


def test_addresses_are_located_to_the_byte(together: NearStage) -> None:
    """The first and the last byte of a tensor lie in it, their neighbours outside do not."""
    owner = together.engine(OWNER, one_sided=False)
    owner.register("kv", SMALL, 1)
    size = SMALL.num_blocks * SMALL.block_bytes
    starts = sorted(owner.actor.caches["kv"].tensor_addrs)
    ends = [start + size for start in starts]
    outside = [each - 1 for each in starts if each not in ends] + [
        each for each in ends if each not in starts
    ]
    assert starts[0] - 1 in outside
    assert ends[-1] in outside
    speaker = Speaker(
        owner.listen_address, Request.spoken_in(recorded(together, owner, one_sided=False)[0])
    )

    def located(addresses: list[int]) -> tuple[int, list[int]]:
        body = struct.pack(f"<I{len(addresses)}Q", len(addresses), *addresses)
        answer = speaker.ask(wire.LOCATE, body)
        assert answer is not None
        size = struct.unpack_from("<I", answer)[0]
        status = struct.unpack_from("<I", answer, 4)[0]
        count = struct.unpack_from("<I", answer, 4 + size)[0]
        places = list(struct.iter_unpack("<QI", answer[8 + size :]))
        assert len(places) == count
        assert {data_type for _, data_type in places} <= {SMALL.data_type.value}
        return status, [end for end, _ in places]

    with speaker:
        speaker.link()
        assert located([]) == (0, [])
        assert located(starts) == (0, ends)
        assert located([end - 1 for end in ends]) == (0, ends)
        for address in outside:
            assert located([starts[0], address]) == (S.LLM_PARAM_INVALID, []), hex(address)


# ---- proofs


class Secretive:
    """An owner with a token, and what a client that knows it said and heard."""

    def __init__(self, stage: NearStage) -> None:
        self.stage = stage
        self.owner = stage.engine(OWNER, options=TOKEN_OPTIONS)
        self.said, self.heard = recorded(stage, self.owner, options=TOKEN_OPTIONS)

    def speaker(self, secret: str = TOKEN) -> Speaker:
        request = Request.spoken_in(self.said, proves=True)
        return Speaker(self.owner.listen_address, request, secret.encode())


@pytest.fixture
def secretive(together: NearStage) -> Secretive:
    return Secretive(together)


@pytest.mark.rule("C10-41")
def test_c10_41_the_proof_is_the_described_hmac(secretive: Secretive) -> None:
    with secretive.speaker() as speaker:
        speaker.link()
        assert speaker.ask(wire.TABLE) is not None


@pytest.mark.rule("C10-41")
def test_c10_41_a_replayed_proof_of_a_client_is_refused(secretive: Secretive) -> None:
    """The owner's nonce is another one, so what proved something once proves nothing now."""
    with secretive.speaker() as stranger:
        stranger.send(secretive.said)
        greeting = stranger.receive(wire.HELLO_BYTES)
        assert greeting != secretive.heard[: wire.HELLO_BYTES]
        assert len(stranger.receive(wire.PROOF_BYTES)) == wire.PROOF_BYTES
        assert stranger.is_closed()
    assert secretive.owner.call("links") == []


@contextmanager
def server_that_replays(heard: bytes) -> Iterator[tuple[tuple[str, int], bytearray]]:
    """Greet one client as was done before, and record what it says until it hangs up."""
    said = bytearray()

    def serve(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            client.settimeout(wire.PATIENCE)
            said.extend(client.recv(wire.HELLO_BYTES, socket.MSG_WAITALL))
            client.sendall(heard[: wire.HELLO_BYTES + wire.PROOF_BYTES])
            while more := client.recv(4096):
                said.extend(more)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        yield server.getsockname(), said
        thread.join()


@pytest.mark.rule("C10-41", "C10-114")
def test_c10_41_a_replayed_proof_of_a_server_is_refused(secretive: Secretive) -> None:
    """And it is told nothing, not even which cluster the client is."""
    client = secretive.stage.engine(44, listen=None, options=TOKEN_OPTIONS)
    with server_that_replays(secretive.heard) as (address, said):
        answer = client.link_to(ClusterAddress(None, address), timeout_ms=5000)
    assert answer.status == S.LLM_LINK_FAILED
    assert "the peer has another auth token" in answer.details[0]
    assert client.call("links") == []
    assert said[:-16] == wire.hello(0, b"", auth=wire.HMAC_SHA256, features=wire.FEATURES)


@pytest.mark.rule("C10-41")
@pytest.mark.parametrize(
    "wrong", ["sender", "initiator's greeting", "acceptor's greeting", "label", "secret"]
)
def test_c10_41_a_proof_of_a_greeting_covers(secretive: Secretive, wrong: str) -> None:
    """The sender's end, both greetings and what it is for."""
    with secretive.speaker() as speaker:
        speaker.greet()
        greetings = list(speaker.greetings)
        if wrong.endswith("greeting"):
            changed = wrong.startswith("acceptor")
            greetings[changed] = greetings[changed][:-1] + bytes([greetings[changed][-1] ^ 1])
        key = wire.derived(b"s3creT" if wrong == "secret" else TOKEN.encode(), *greetings)
        sender = wire.BY_ACCEPTOR if wrong == "sender" else wire.BY_INITIATOR
        label = b"link" if wrong == "label" else b"greeting"
        assert speaker.prove(wire.proved(key, sender, label)) == b""
        assert speaker.is_closed()
    assert secretive.owner.call("links") == []


@pytest.mark.rule("C10-41")
@pytest.mark.parametrize("wrong", ["sender", "message", "key", "none"])
def test_c10_41_a_proof_of_a_request_covers(secretive: Secretive, wrong: str) -> None:
    """The sender's end and the message, and each of its bytes counts."""
    with secretive.speaker() as speaker:
        speaker.greet()
        assert speaker.prove() == struct.pack("<Q", OWNER)
        message = speaker.request.encoded()
        if wrong == "message":
            message = message[:-1] + bytes([message[-1] ^ 1])
        sender = wire.BY_ACCEPTOR if wrong == "sender" else wire.BY_INITIATOR
        key = bytes(32) if wrong == "key" else speaker.key
        proof = b"" if wrong == "none" else wire.proved(key, sender, b"link", message)
        status, why = speaker.ask_for_link(proof)
        assert (status, why) == (S.LLM_LINK_FAILED, b"the two ends have different auth tokens")
        assert speaker.is_closed()
    assert secretive.owner.call("links") == []


@pytest.mark.rule("C10-114")
def test_an_owner_with_a_secret_does_not_say_who_it_is(secretive: Secretive) -> None:
    with secretive.speaker() as stranger:
        assert stranger.greet()[:-16] == wire.hello(
            0, b"", auth=wire.HMAC_SHA256, features=wire.FEATURES
        )


# ---- what is served when

OF_A_LINK = {
    "unlink": (wire.UNLINK, b""),
    "table": (wire.TABLE, b""),
    "release": (wire.RELEASE, struct.pack("<QBII", 1, 0, 0, 0)),
    "locate": (wire.LOCATE, struct.pack("<I", 0)),
    "resolve": (wire.RESOLVE, struct.pack("<QIQQQqI", 1, 1, 0, 5, 2**64 - 1, 0, 0)),
}


@pytest.mark.parametrize("name", OF_A_LINK)
def test_a_complete_link_is_served(speak: Speak, name: str) -> None:
    speaker = speak()
    speaker.link()
    assert speaker.ask(*OF_A_LINK[name]) is not None


@pytest.mark.parametrize("requested", [False, True], ids=["greeted", "requested"])
@pytest.mark.parametrize("name", [*OF_A_LINK, "dial a stream"])
def test_nothing_is_served_before_the_link_is_complete(
    speak: Speak, owner: NearPeer, name: str, requested: bool
) -> None:
    speaker = speak()
    speaker.greet()
    if requested:
        assert speaker.ask_for_link() == (0, b"")
    kind, body = OF_A_LINK.get(name, (wire.DIAL_STREAM, b""))
    assert speaker.ask(kind, body) is None
    assert owner.call("links") == []


def test_no_message_of_a_runtime_before_the_request(speak: Speak) -> None:
    speaker = speak()
    speaker.greet()
    assert speaker.ask(wire.MESSAGE, struct.pack("<BQ", 5, 0)) is None


@pytest.mark.parametrize(
    "kind", [wire.LINK_REQUEST, wire.LINK_CONFIRM, wire.DIAL_STREAM, wire.CARD, 14, 0, 0x7FFF]
)
def test_a_complete_link_takes_no_other_requests(speak: Speak, owner: NearPeer, kind: int) -> None:
    """Nor is an acceptor told to dial."""
    speaker = speak()
    speaker.link()
    body = speaker.request.encoded() if kind == wire.LINK_REQUEST else b""
    assert speaker.ask(kind, body) is None
    eventually(lambda: owner.call("links")[0].state.name == "PEER_GONE", "it is noticed")
    owner.unlink_from(ClusterAddress(STRANGER), force=True)


@pytest.mark.parametrize("name", OF_A_LINK)
def test_an_initiator_serves_nothing_before_the_link_is_complete(
    together: NearStage, name: str
) -> None:
    client = together.engine(STRANGER, listen=None)
    answers = []

    def ask_instead_of_answering(connection: socket.socket) -> None:
        connection.recv(wire.HELLO_BYTES, socket.MSG_WAITALL)
        connection.sendall(wire.hello(OWNER, b"\x5a" * wire.NONCE_BYTES))
        head = connection.recv(wire.HEADER_BYTES, socket.MSG_WAITALL)
        connection.recv(struct.unpack_from("<I", head)[0], socket.MSG_WAITALL)
        kind, body = OF_A_LINK[name]
        connection.sendall(wire.header(kind, len(body), 1) + body)
        answers.append(connection.recv(wire.HEADER_BYTES))

    with listener_that_says(ask_instead_of_answering) as address:
        answer = client.link_to(ClusterAddress(OWNER, address), timeout_ms=5000)
    assert answers == [b""]
    assert answer.status == S.LLM_LINK_FAILED
    assert client.call("links") == []


# ---- what is refused is closed


def test_a_refused_request_is_answered_and_closed(speak: Speak, owner: NearPeer) -> None:
    request = speak().request
    for changes, status, why in (
        ({"mode": request.mode ^ 1}, S.LLM_PARAM_INVALID, b"both must be in one mode"),
        ({"link_style": request.link_style ^ 1}, S.LLM_PARAM_INVALID, b"transfer backends"),
        ({"cluster_id": STRANGER + 1}, S.LLM_LINK_FAILED, b"cannot be read"),
        ({"group": b"nobody's"}, S.LLM_LINK_FAILED, b'in no communicator "nobody\'s"'),
        ({"endpoint": b"nonsense"}, S.LLM_FAILED, b"endpoint"),
    ):
        speaker = speak()
        speaker.greet()
        answered, text = speaker.ask_for_link(**changes)
        assert answered == status, changes
        assert why in text
        assert speaker.is_closed(), changes
    assert owner.call("links") == []


def test_a_second_request_is_refused(speak: Speak, owner: NearPeer) -> None:
    speaker = speak()
    speaker.greet()
    assert speaker.ask_for_link() == (0, b"")
    assert speaker.ask_for_link()[0] == S.LLM_LINK_FAILED
    assert speaker.is_closed()
    assert owner.call("links") == []


def test_a_confirmation_without_a_request_is_refused(speak: Speak, owner: NearPeer) -> None:
    speaker = speak()
    speaker.greet()
    assert speaker.confirm() == (S.LLM_LINK_FAILED, b"confirmed before it was requested")
    assert speaker.is_closed()
    assert owner.call("links") == []


def test_a_request_of_any_other_length_cannot_be_read(speak: Speak) -> None:
    body = speak().request.encoded()
    for wrong in (body[:-1], body + b"\0", body[:20], b""):
        speaker = speak()
        speaker.greet()
        status, why = speaker.take_reply(speaker.ask(wire.LINK_REQUEST, wrong))
        assert (status, why) == (S.LLM_LINK_FAILED, b"the request cannot be read")
        assert speaker.is_closed()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (name, change)
        for name in OF_A_LINK
        for change in ("longer", "shorter", "another kind")
        if OF_A_LINK[name][1]
        if change != "another kind" or name == "resolve"
    ],
)
def test_a_request_of_a_link_that_cannot_be_read_ends_it(
    speak: Speak, owner: NearPeer, name: str, change: str
) -> None:
    speaker = speak()
    speaker.link()
    kind, body = OF_A_LINK[name]
    changed = {"longer": body + b"\0", "shorter": body[:-1]}.get(change)
    if changed is None:
        changed = body[:8] + struct.pack("<I", 77) + body[12:]
    assert speaker.ask(kind, changed) is None
    eventually(lambda: owner.call("links")[0].state.name == "PEER_GONE", "it is noticed")
    owner.unlink_from(ClusterAddress(STRANGER), force=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"magic": b"LLDC"},
        {"version": wire.VERSION + 1},
        {"version": 0},
        {"purpose": 0},
        {"purpose": wire.ACCEPTOR_ASKS + 1},
        {"auth": wire.HMAC_SHA256 + 1},
        {"auth": wire.HMAC_SHA256},
    ],
    ids=str,
)
def test_a_refused_greeting_is_answered_and_closed(
    speak: Speak, changes: dict[str, int | bytes]
) -> None:
    """The other end learns which version is spoken here, and whether there is a token."""
    speaker = speak()
    assert speaker.greet(**changes)[:7] == wire.MAGIC + struct.pack("<HB", wire.VERSION, wire.LINK)
    assert speaker.is_closed()


@pytest.mark.rule("C10-41")
def test_c10_41_who_has_no_token_is_told_and_closed(secretive: Secretive) -> None:
    with secretive.speaker(secret="") as stranger:
        assert stranger.greet()[7] == wire.HMAC_SHA256
        assert stranger.is_closed()


# ---- limits


@pytest.mark.parametrize(("more", "answered"), [(0, True), (1, False)])
def test_the_largest_frame_of_a_stranger(speak: Speak, more: int, answered: bool) -> None:
    speaker = speak()
    speaker.greet()
    answer = speaker.ask(wire.LINK_REQUEST, b"\0" * (wire.MOST_BYTES_OF_A_STRANGER + more))
    assert (answer is not None) == answered
    assert speaker.is_closed()


@pytest.mark.parametrize(("more", "answered"), [(0, True), (1, False)])
def test_the_largest_frame_of_a_link(speak: Speak, more: int, answered: bool) -> None:
    speaker = speak()
    speaker.link()
    assert (speaker.ask(wire.TABLE, b"\0" * (wire.MOST_BYTES + more)) is not None) == answered


def test_a_frame_with_anything_in_its_reserved_place(speak: Speak) -> None:
    speaker = speak()
    speaker.link()
    speaker.send(wire.header(wire.TABLE, 0, 1, reserved=1))
    assert speaker.is_closed()


# ---- data streams


@pytest.mark.parametrize("purpose", [wire.INITIATOR_ASKS, wire.ACCEPTOR_ASKS])
def test_a_stream_of_no_link_is_closed(speak: Speak, purpose: int) -> None:
    speak().link()
    stream = speak()
    stream.send(wire.hello(STRANGER, b"\x5a" * wire.NONCE_BYTES, purpose))
    assert stream.is_closed()


def test_a_stream_that_nobody_waits_for_is_closed(speak: Speak) -> None:
    """Such as one that comes when the transfer that wanted it has given up."""
    link = speak()
    link.link()
    stream = speak()
    stream.send(wire.hello(STRANGER, link.request.nonce, wire.ACCEPTOR_ASKS))
    assert stream.is_closed()
    assert link.ask(wire.TABLE) is not None


def pull(actor: Any) -> LLMStatusCode:
    with pytest.raises(LLMException) as caught:
        actor.pull("kv", BlocksCacheKey(STRANGER, 0), [0], [0])
    return caught.value.status_code


@pytest.mark.skipif(ON_ASCEND, reason="capability data streams: HIXL has connections of its own")
def test_a_stream_that_comes_when_its_transfer_has_given_up_is_closed(together: NearStage) -> None:
    """Bytes that come late must not be taken for those of the next transfer."""
    tcp = {"LLM_DATADIST_MOCK_TRANSPORT": "tcp"}
    owner = together.engine(OWNER, environment=tcp, sync_timeout_ms=500)
    owner.register("kv", SMALL, 1)
    client = together.engine(STRANGER, listen=None, environment=tcp)
    client.register("kv", SMALL, 2, 0)
    with relay(owner.listen_address) as passing:
        assert client.link_to(ClusterAddress(OWNER, passing.address)).status == S.LLM_SUCCESS
        owner.pull("kv", BlocksCacheKey(STRANGER, 0), [0], [0])
        said = bytes(passing.said[0][0])
        client.unlink_from(ClusterAddress(OWNER, passing.address))
    (table,) = (body for kind, _, body in wire.frames_of(said) if kind == wire.TABLE | wire.ANSWER)
    request = Request.spoken_in(said)
    with ExitStack() as open_connections:
        link, stream = (
            open_connections.enter_context(Speaker(owner.listen_address, request)) for _ in range(2)
        )
        pool = open_connections.enter_context(ThreadPoolExecutor(1))
        link.link()
        transfer = pool.submit(owner.call, pull)
        kind, request_id = link.asked()
        assert kind == wire.TABLE
        link.send(wire.header(kind | wire.ANSWER, len(table), request_id) + table)
        kind, request_id = link.asked()
        assert kind == wire.DIAL_STREAM
        assert transfer.result() == S.LLM_TIMEOUT
        stream.send(wire.hello(STRANGER, link.request.nonce, wire.ACCEPTOR_ASKS))
        assert stream.is_closed()


# ---- communicators

GROUP = "ours"


def asked_to_join(speaker: Speaker) -> tuple[int, bytes]:
    speaker.greet()
    return speaker.ask_for_link(group=GROUP.encode())


def joining(owner: NearPeer) -> int:
    return join(owner, {STRANGER: 0, OWNER: 1}, GROUP)


def test_a_communicator_left_while_a_link_of_it_is_made(speak: Speak, owner: NearPeer) -> None:
    comm_id = joining(owner)
    early, late = speak(), speak()
    assert asked_to_join(early) == (0, b"")
    owner.call(unlink_member, comm_id)
    assert early.confirm() == (S.LLM_LINK_FAILED, b"the communicator was left meanwhile")
    assert early.is_closed()
    assert asked_to_join(late)[0] == S.LLM_LINK_FAILED
    assert late.is_closed()
    assert owner.call("links") == []


def test_a_link_of_a_communicator_ends_with_it(speak: Speak, owner: NearPeer) -> None:
    comm_id = joining(owner)
    speaker, second = speak(), speak()
    assert asked_to_join(speaker) == (0, b"")
    assert speaker.confirm() == (0, b"")
    assert [link.peer_cluster_id for link in owner.call("links")] == [STRANGER]
    # It has all its links.
    assert asked_to_join(second)[0] == S.LLM_LINK_FAILED
    with ThreadPoolExecutor(1) as pool:
        closed = pool.submit(speaker.answers_until_closed)
        owner.call(unlink_member, comm_id)
    assert closed.result()
    assert owner.call("links") == []


def test_only_members_make_links_of_a_communicator(speak: Speak, owner: NearPeer) -> None:
    comm_id = join(owner, {OWNER: 0, PULLER: 1}, GROUP)
    assert asked_to_join(speak())[0] == S.LLM_LINK_FAILED
    owner.call(unlink_member, comm_id)
