# SPDX-License-Identifier: Apache-2.0
"""A relay between two peers: records what they say, and breaks off while both live.

It does so when it is told to, or by itself as soon as certain words have been passed on.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Callable

# What the client and the server of a connection have said.
Said = tuple[bytearray, bytearray]


@dataclass
class Relay:
    address: tuple[str, int]
    # For each connection.
    said: list[Said] = field(default_factory=list)
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
    target: tuple[str, int],
    cut_after: Callable[[Said], bool] = lambda _: False,
    change_first: Callable[[bytes], bytes] = bytes,
) -> Iterator[Relay]:
    """Pass the connections to an address of its own on to the target, until cut_after is true; what
    each end says first is passed on as change_first makes it.
    """
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, sink: socket.socket, said: Said, record: bytearray) -> None:
        try:
            while data := source.recv(65536):
                if not record:
                    data = change_first(data)
                record += data
                sink.sendall(data)
                if cut_after(said):
                    passing.cut()
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
            for pair in ((client, other, record, record[0]), (other, client, record, record[1])):
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
