# SPDX-License-Identifier: Apache-2.0
"""A relay between two peers: records what they say, and breaks off while both live."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Callable


@dataclass
class Relay:
    address: tuple[str, int]
    # What the client and the server of each connection said.
    said: list[tuple[bytearray, bytearray]] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)

    def cut(self) -> None:
        """End every connection, as both ends see it."""
        for each in self.sockets:
            with ExitStack() as closing:
                closing.callback(each.close)
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    # The other side closed it first, or it was cut before.
                    continue


@contextmanager
def relay(
    target: tuple[str, int], change_first: Callable[[bytes], bytes] = bytes
) -> Iterator[Relay]:
    """Pass the connections to an address of its own on to the target; what each end says first, as
    change_first makes it.
    """
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, sink: socket.socket, record: bytearray) -> None:
        try:
            while data := source.recv(65536):
                if not record:
                    data = change_first(data)
                record += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # Either side reset the connection, which ends what there is to record.
            return

    def accept(server: socket.socket, passing: Relay) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            other = socket.create_connection(target)
            record = (bytearray(), bytearray())
            passing.said.append(record)
            passing.sockets.extend((client, other))
            for pair in ((client, other, record[0]), (other, client, record[1])):
                threads.append(threading.Thread(target=pump, args=pair))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        passing = Relay(server.getsockname())
        acceptor = threading.Thread(target=accept, args=(server, passing))
        acceptor.start()
        try:
            yield passing
        finally:
            server.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            passing.cut()
            for thread in threads:
                thread.join()
