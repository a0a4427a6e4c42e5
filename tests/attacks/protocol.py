# SPDX-License-Identifier: Apache-2.0
"""The control protocol, the endpoint and the channel of the mock runtime, spoken by hand: what an
attacker can say, and no engine would.
"""

from __future__ import annotations

import array
import fcntl
import hashlib
import hmac
import os
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import Callable

HELLO_BYTES, PROOF_BYTES = 36, 32
CHANNEL = (0x48434D4C, 2)
LINK, CONFIRM, TABLE = 1, 2, 4
HEARTBEAT = 13
# What the engine takes, without a box: reports, events.
FEATURES = 0b11
ANSWER = 0x8000
NO_POOL = 0xFFFFFFFF
SEALED = 0x1 | 0x2 | 0x4  # seal, shrink, grow
_F_ADD_SEALS = 1033
_MOST_POOLS = 64


def hello(
    purpose: int = 1, auth: int = 0, identifier: int = 0, nonce: bytes = b"", features: int = 0
) -> bytes:
    """Greet: for a link (purpose 1), or for a stream."""
    nonce = nonce or os.urandom(16)
    return struct.pack("<IHBBIQ16s", 0x44444C4C, 2, purpose, auth, features, identifier, nonce)


def derived(base: bytes, initiator: bytes, acceptor: bytes) -> bytes:
    """Derive the key of a connection from the secret, or that of a link, and both greetings."""
    if not base:
        initiator, acceptor = (each[:8] + bytes(4) + each[12:] for each in (initiator, acceptor))
    return hmac.new(base, b"lldd 2 key" + initiator + acceptor, hashlib.sha256).digest()


def proof(key: bytes, sender: int, label: bytes, message: bytes = b"") -> bytes:
    """Prove that one has the key; sender: 1 the initiator, 2 the acceptor."""
    return hmac.new(key, bytes([sender]) + label + b"\0" + message, hashlib.sha256).digest()


def frame(kind: int, request_id: int, body: bytes = b"", size: int | None = None) -> bytes:
    """Make one message; size: what its header says, if that is not the truth."""
    return struct.pack("<IHHI", len(body) if size is None else size, kind, 0, request_id) + body


def sized(data: bytes) -> bytes:
    """Put the length in front."""
    return struct.pack("<I", len(data)) + data


@dataclass(frozen=True)
class Region:
    """One of an endpoint."""

    addr: int
    size: int
    pool: int = NO_POOL
    slot: int = 0


def endpoint(transports: int = 7, regions: list[Region] | None = None) -> bytes:
    """Describe a process: this one, and memory that it need not have."""
    regions = regions or []
    head = struct.pack(
        "<IIIIIIQ16s16sQ",
        *(0x50454D4C, 2, transports, os.getpid(), os.getuid(), 1),
        *(0, b"c" * 16, bytes(16), len(regions)),
    )
    return head + b"".join(
        struct.pack("<IIQQII", each.slot, 1, each.addr, each.size, each.pool, 0) for each in regions
    )


def receive(stream: socket.socket, count: int) -> bytes:
    """Receive so many bytes. Raises EOFError when the other end hangs up before."""
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            raise EOFError(f"{len(data)} of {count} bytes")
        data += more
    return data


def receive_frame(stream: socket.socket) -> tuple[int, int, bytes]:
    """Receive one message: its kind, its number, its body."""
    size, kind, _, request_id = struct.unpack("<IHHI", receive(stream, 12))
    return kind, request_id, receive(stream, size)


def sealed_memory(size: int, name: str = "evil", flags: int = 0, seals: int = SEALED) -> int:
    """Make shared memory; returns its descriptor."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, _F_ADD_SEALS, seals)
    return descriptor


@dataclass
class Gift:
    """What an initiator hands over by the channel; pools are (number, size, descriptor)."""

    link_page: int
    region_table: int
    pools: list[tuple[int, int, int]] = field(default_factory=list)

    @classmethod
    def proper(cls, pools: list[tuple[int, int, int]]) -> Gift:
        """Make one in which only the pools are strange."""
        page, table = sealed_memory(4096), sealed_memory(4 << 20)
        for descriptor in (page, table):
            os.pwrite(descriptor, struct.pack("<I", 1), 0)
        return cls(page, table, pools)


class Attacker:
    """An initiator's end of a link."""

    def __init__(
        self,
        port: int,
        cluster_id: int,
        *,
        secret: bytes = b"",
        group: bytes = b"",
        mode: int = 1,
        regions: list[Region] | None = None,
        transports: int = 7,
        gift: Gift | None = None,
        confirm: bool = True,
    ) -> None:
        self.nonce = os.urandom(16)
        self.stream = socket.create_connection(("127.0.0.1", port), timeout=10)
        try:
            self._link(cluster_id, secret, group, mode, regions, transports)
            # What the victim answers over the channel; nothing when it refuses the gift.
            self.given = b"" if gift is None else self.give(gift)
            if confirm:
                self.confirm()
        except BaseException:
            self.stream.close()
            raise

    def _link(
        self,
        cluster_id: int,
        secret: bytes,
        group: bytes,
        mode: int,
        regions: list[Region] | None,
        transports: int,
    ) -> None:
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        greeting = hello(auth=1 if secret else 0, identifier=0 if secret else cluster_id)
        self.stream.sendall(greeting)
        answered = receive(self.stream, HELLO_BYTES)
        self.greetings = (greeting, answered)
        self.key = derived(secret, *self.greetings)
        if secret:
            assert receive(self.stream, PROOF_BYTES) == proof(self.key, 2, b"greeting")
            self.stream.sendall(proof(self.key, 1, b"greeting"))
            receive(self.stream, 8)
        request = struct.pack("<QIIB16s", cluster_id, mode, 0, 0, self.nonce)
        request += sized(group) + sized(endpoint(transports, regions))
        if secret:
            request += sized(proof(self.key, 1, b"link", request))
        self.number = 1
        reply = self.ask(LINK, request)
        (status,) = struct.unpack_from("<I", reply)
        if status:
            raise ConnectionRefusedError(f"{status:#x} {reply[8:]!r}")
        text_bytes = struct.unpack_from("<I", reply, 4)[0]
        self.channel = reply[12 + text_bytes :][48:64]

    def ask(self, kind: int, body: bytes = b"") -> bytes:
        """Send a request and wait for its answer."""
        self.number += 1
        self.stream.sendall(frame(kind, self.number, body))
        answer, number, reply = receive_frame(self.stream)
        while answer == HEARTBEAT:
            self.stream.sendall(frame(answer | ANSWER, number))
            answer, number, reply = receive_frame(self.stream)
        assert (answer, number) == (kind | ANSWER, self.number)
        return reply

    def confirm(self) -> None:
        """Complete the link."""
        reply = self.ask(CONFIRM)
        (status,) = struct.unpack_from("<I", reply)
        if status:
            raise ConnectionRefusedError(f"confirm: {status:#x} {reply[8:]!r}")

    def give(self, gift: Gift) -> bytes:
        """Dial the channel and hand the descriptors over; returns the answer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
            channel.settimeout(5)
            channel.connect(b"\0lldd-" + self.channel.hex().encode())
            challenge = os.urandom(16)
            channel.sendall(struct.pack("<II", *CHANNEL) + self.nonce + challenge)
            answer = channel.recv(4096)
            if not answer:
                return answer
            challenges = self.nonce + challenge + answer[8:24]
            assert answer[24:] == proof(self.key, 2, b"channel", challenges)
            own_proof = proof(self.key, 1, b"channel", challenges)
            numbers = struct.pack("<II32sIIII", *CHANNEL, own_proof, 1, len(gift.pools), 0, 0)
            pools = b"".join(struct.pack("<QII", size, each, 0) for each, size, _ in gift.pools)
            rest = bytes(16 * (_MOST_POOLS - len(gift.pools)))
            descriptors = [gift.link_page, gift.region_table, *(fd for *_, fd in gift.pools)]
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
            channel.sendmsg([numbers + pools + rest], [rights])
            room = socket.CMSG_SPACE((2 + _MOST_POOLS) * 4)
            answer, ancillary, _, _ = channel.recvmsg(4096, room)
            for _, _, data in ancillary:
                received = array.array("i")
                received.frombytes(data[: len(data) - len(data) % 4])
                for descriptor in received:
                    os.close(descriptor)
            return answer

    def serve_table(self, table: bytes) -> threading.Thread:
        """Answer requests until the victim hangs up: for the table with this one, others with
        nothing.
        """
        return serve(self.stream, lambda kind: table if kind == TABLE else b"")

    def close(self) -> None:
        """Hang up."""
        self.stream.close()


def serve(stream: socket.socket, answer: Callable[[int], bytes]) -> threading.Thread:
    """Answer each request of the other end in a thread, until it hangs up."""

    def run() -> None:
        stream.settimeout(None)
        try:
            while True:
                kind, number, _ = receive_frame(stream)
                stream.sendall(frame(kind | ANSWER, number, answer(kind)))
        except (EOFError, OSError):
            return

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def table_of_one(addr: int, stride: int, count: int) -> bytes:
    """Describe one cache with blocks, model 0, with one tensor of FLOAT16."""
    cache = struct.pack("<qIBBBIQQ", 1, 1, 1, 0, 1, 1, stride * count, count)
    cache += struct.pack("<BqqQ", 2, count, stride // 2, addr)
    name = struct.pack("<QQqQ", 2**64 - 1, 0, 1, 0)
    return struct.pack("<QI", 1, 1) + cache + struct.pack("<I", 1) + name
