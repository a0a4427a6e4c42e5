# SPDX-License-Identifier: Apache-2.0
"""An end of the control protocol in Python, made of the bytes that csrc/engine/wire.h describes.

Two engines would agree with each other whatever they said. This end agrees with them only while
they say what is written there, and it can say what no engine says.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct
from dataclasses import dataclass, field, replace

MAGIC = b"LLDD"
VERSION = 2
# What the engine takes, without a box: reports, events.
FEATURES = 0b11
LINK, INITIATOR_ASKS, ACCEPTOR_ASKS = 1, 2, 3
NO_AUTH, HMAC_SHA256 = 0, 1
LINK_REQUEST, LINK_CONFIRM, UNLINK, TABLE, DIAL_STREAM, RESOLVE, RELEASE, LOCATE = range(1, 9)
CARD, MESSAGE, HEARTBEAT = 9, 10, 13
ANSWER = 0x8000
BY_INITIATOR, BY_ACCEPTOR = 1, 2
HELLO_BYTES, HEADER_BYTES, NONCE_BYTES = 36, 12, 16
PROOF_BYTES, ID_BYTES = 32, 8
MOST_BYTES_OF_A_STRANGER = 8 << 20
MOST_BYTES = 64 << 20
# For what comes at once; what is only closed after the engine's own time-outs comes later.
PATIENCE = 8.0


def derived(base: bytes, initiator: bytes, acceptor: bytes) -> bytes:
    """The key of a connection: of the secret, or the key of the link that a stream is for."""
    return hmac.new(base, b"lldd 2 key" + initiator + acceptor, hashlib.sha256).digest()


def proved(key: bytes, sender: int, label: bytes, message: bytes = b"") -> bytes:
    return hmac.new(key, bytes([sender]) + label + b"\0" + message, hashlib.sha256).digest()


def hello(
    cluster_id: int,
    nonce: bytes,
    purpose: int = LINK,
    auth: int = NO_AUTH,
    magic: bytes = MAGIC,
    version: int = VERSION,
    features: int = 0,
) -> bytes:
    return magic + struct.pack("<HBBIQ", version, purpose, auth, features, cluster_id) + nonce


def header(kind: int, size: int, request_id: int, reserved: int = 0) -> bytes:
    return struct.pack("<IHHI", size, kind, reserved, request_id)


def text(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def texts_of(body: bytes) -> list[bytes]:
    """The texts that a message consists of to its end."""
    found = []
    while body:
        size = struct.unpack_from("<I", body)[0]
        found.append(body[4 : 4 + size])
        body = body[4 + size :]
    return found


@dataclass(frozen=True)
class Request:
    """What a LinkRequest says, without its proof."""

    cluster_id: int
    mode: int
    link_style: int
    endpoint: bytes
    replaces: bool = False
    nonce: bytes = field(default_factory=lambda: os.urandom(NONCE_BYTES))
    group: bytes = b""

    FIXED = struct.Struct("<QIIB16s")

    def encoded(self) -> bytes:
        fixed = (self.cluster_id, self.mode, self.link_style, self.replaces, self.nonce)
        return self.FIXED.pack(*fixed) + text(self.group) + text(self.endpoint)

    @classmethod
    def spoken_in(cls, said: bytes, proves: bool = False) -> Request:
        """The request in what a client said on its connection."""
        body = frames_of(said, PROOF_BYTES if proves else 0)[0][2]
        cluster_id, mode, link_style, replaces, nonce = cls.FIXED.unpack_from(body)
        group, endpoint, *_ = texts_of(body[cls.FIXED.size :])
        return cls(cluster_id, mode, link_style, endpoint, bool(replaces), nonce, group)


def frames_of(said: bytes, proof_bytes: int = 0) -> list[tuple[int, int, bytes]]:
    """Kind, request id and body of each frame behind the greeting and what proves it."""
    frames = []
    rest = said[HELLO_BYTES + proof_bytes :]
    while len(rest) >= HEADER_BYTES:
        size, kind, _, request_id = struct.unpack_from("<IHHI", rest)
        frames.append((kind, request_id, rest[HEADER_BYTES : HEADER_BYTES + size]))
        rest = rest[HEADER_BYTES + size :]
    return frames


class Speaker:
    """The initiator's end of one connection."""

    def __init__(self, address: tuple[str, int], request: Request, secret: bytes = b"") -> None:
        self.request = request
        self.secret = secret
        self.nonce = os.urandom(NONCE_BYTES)
        self.greetings = (b"", b"")
        self._last_id = 0
        self._socket = socket.create_connection(address, timeout=PATIENCE)

    def __enter__(self) -> Speaker:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, content: bytes) -> None:
        """Send bytes, of which the other end may want to hear no more."""
        try:
            self._socket.sendall(content)
        except ConnectionError:
            # It has closed the connection, which is what hear() tells.
            return

    def receive(self, size: int) -> bytes:
        """That many bytes; fewer: the connection is closed."""
        content = b""
        while len(content) < size:
            try:
                more = self._socket.recv(size - len(content))
            except ConnectionResetError:
                return content
            if not more:
                return content
            content += more
        return content

    def is_closed(self) -> bool:
        """Wait for the end of the connection, or for more bytes, or long enough."""
        try:
            return self.receive(1) == b""
        except TimeoutError:
            return False

    def answers_until_closed(self) -> bool:
        """The same, answering the other end's runtime meanwhile, as one that has nothing to do."""
        while True:
            try:
                head = self.receive(HEADER_BYTES)
            except TimeoutError:
                return False
            if not head:
                return True
            size, kind, _, request_id = struct.unpack("<IHHI", head)
            self.receive(size)
            assert kind in (MESSAGE, HEARTBEAT)
            self.send(header(kind | ANSWER, 0, request_id))

    def greet(self, **changes: int | bytes) -> bytes:
        """Greet; the other end's greeting, or b"" if it closes instead."""
        auth = HMAC_SHA256 if self.secret else NO_AUTH
        said = {"auth": auth, **changes}
        identifier = 0 if self.secret else self.request.cluster_id
        own = hello(identifier, self.nonce, **said)  # type: ignore[arg-type]
        self.send(own)
        answer = self.receive(HELLO_BYTES)
        self.greetings = (own, answer)
        return answer

    @property
    def key(self) -> bytes:
        return derived(self.secret, *self.greetings)

    def prove(self, proof: bytes | None = None) -> bytes:
        """With a secret: hear the other end's proof, and give one; the other end's cluster id, or
        b"" if it closes instead.
        """
        assert self.receive(PROOF_BYTES) == proved(self.key, BY_ACCEPTOR, b"greeting")
        self.send(proved(self.key, BY_INITIATOR, b"greeting") if proof is None else proof)
        return self.receive(ID_BYTES)

    def say(self, kind: int, body: bytes = b"") -> None:
        self._last_id += 1
        self.send(header(kind, len(body), self._last_id) + body)

    def ask(self, kind: int, body: bytes = b"") -> bytes | None:
        """The body of the answer; None: the connection is closed without one."""
        self.say(kind, body)
        return self.hear(kind)

    def hear(self, kind: int) -> bytes | None:
        head = self.receive(HEADER_BYTES)
        if not head:
            return None
        assert len(head) == HEADER_BYTES
        size, answered, reserved, request_id = struct.unpack("<IHHI", head)
        if answered == HEARTBEAT:
            self.send(header(HEARTBEAT | ANSWER, 0, request_id))
            return self.hear(kind)
        assert (answered, reserved, request_id) == (kind | ANSWER, 0, self._last_id)
        body = self.receive(size)
        assert len(body) == size
        return body

    def asked(self) -> tuple[int, int]:
        """Kind and id of a request of the other end, which has no body."""
        size, kind, _, request_id = struct.unpack("<IHHI", self.receive(HEADER_BYTES))
        assert size == 0
        return kind, request_id

    def proof(self, message: bytes, sender: int = BY_INITIATOR) -> bytes:
        return proved(self.key, sender, b"link", message)

    def ask_for_link(self, proof: bytes | None = None, **changes: object) -> tuple[int, bytes]:
        """Send the LinkRequest; the status and the text of the reply, which must be proved."""
        asked = replace(self.request, **changes)  # type: ignore[arg-type]
        body = asked.encoded()
        if self.secret:
            body += text(self.proof(body) if proof is None else proof)
        return self.take_reply(self.ask(LINK_REQUEST, body))

    def take_reply(self, reply: bytes | None) -> tuple[int, bytes]:
        assert reply is not None, "closed without an answer"
        status = struct.unpack_from("<I", reply)[0]
        why, endpoint, *proofs = texts_of(reply[4:])
        if status == 0:
            assert endpoint
            message = struct.pack("<I", status) + text(why) + text(endpoint)
            assert proofs == ([self.proof(message, BY_ACCEPTOR)] if self.secret else [])
        return status, why

    def confirm(self) -> tuple[int, bytes]:
        """Send the LinkConfirm; the status and the text of the answer."""
        answer = self.ask(LINK_CONFIRM)
        assert answer is not None, "closed without an answer"
        (why,) = texts_of(answer[4:])
        return struct.unpack_from("<I", answer)[0], why

    def link(self) -> None:
        """Greet, request and confirm, which must succeed."""
        assert self.greet()[:4] == MAGIC
        if self.secret:
            assert self.prove() != b""
        assert self.ask_for_link() == (0, b"")
        assert self.confirm() == (0, b"")
