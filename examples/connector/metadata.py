# SPDX-License-Identifier: Apache-2.0
"""Metadata over the network: each rank serves its own, and fetches that of others.

Over ZMQ where pyzmq is installed (requirements.txt), and over a plain TCP socket otherwise; both
ends must use the same. Anybody who reaches the port can read it and may answer in its place: it
belongs into the network of the cluster.
"""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

from kv_connector import Metadata

try:
    import zmq
except ImportError:  # The example then runs without it.
    zmq = None

MOST_BYTES = 4096


class MetadataServer:
    """Answers each visitor with the metadata of one rank, on a thread, until close()."""

    def __init__(self, metadata: Metadata, ip: str = "127.0.0.1") -> None:
        self._answer = json.dumps(metadata.as_json()).encode()
        self._socket = socket.create_server((ip, 0))
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._thread = threading.Thread(target=self._serve, name="metadata")
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:
                return  # close()
            with visitor:
                visitor.sendall(self._answer)

    def close(self) -> None:
        """End."""
        # Wakes the thread, which close() alone does not.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


def fetch(address: tuple[str, int], seconds: float = 1.0) -> Metadata:
    """Ask a rank for its metadata. Raises OSError or ValueError when it has none to give."""
    with socket.create_connection(address, seconds) as visitor:
        parts: list[bytes] = []
        while part := visitor.recv(MOST_BYTES):
            parts.append(part)
            if sum(map(len, parts)) > MOST_BYTES:
                raise ValueError(f"{address} sends more than {MOST_BYTES} bytes of metadata")
    return parse(b"".join(parts))


def parse(text: bytes) -> Metadata:
    """Read metadata. Raises ValueError for what is none."""
    try:
        fields: dict[str, Any] = json.loads(text)
        return Metadata(**fields)
    except (TypeError, ValueError) as cause:
        raise ValueError(f"{text[:80]!r} is no metadata: {cause}") from cause


if zmq is not None:

    class ZmqMetadataServer:
        """The same over ZMQ."""

        def __init__(self, metadata: Metadata, ip: str = "127.0.0.1") -> None:
            self._answer = json.dumps(metadata.as_json()).encode()
            self._context = zmq.Context()
            self._socket = self._context.socket(zmq.REP)
            self.address = (ip, self._socket.bind_to_random_port(f"tcp://{ip}"))
            self._thread = threading.Thread(target=self._serve, name="metadata")
            self._thread.start()

        def _serve(self) -> None:
            while True:
                if self._socket.recv() == b"end":
                    self._socket.close(0)
                    return
                self._socket.send(self._answer)

        def close(self) -> None:
            """End."""
            visitor = self._context.socket(zmq.REQ)
            visitor.connect("tcp://{}:{}".format(*self.address))
            visitor.send(b"end")
            self._thread.join()
            visitor.close(0)
            self._context.term()

    def fetch_by_zmq(address: tuple[str, int], seconds: float = 1.0) -> Metadata:
        """The same over ZMQ. Raises TimeoutError when nobody answers."""
        with zmq.Context() as context, context.socket(zmq.REQ) as visitor:
            visitor.linger = 0
            visitor.connect("tcp://{}:{}".format(*address))
            visitor.send(b"metadata")
            if not visitor.poll(int(seconds * 1000)):
                raise TimeoutError(f"{address} does not answer within {seconds} s")
            return parse(visitor.recv())
