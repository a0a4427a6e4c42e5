# SPDX-License-Identifier: Apache-2.0
"""A relay between two peers that holds back what they say, after any byte, until it is let go."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PATIENCE = 30


class Flow:
    """One direction of a connection: how many bytes may pass, and how many have."""

    def __init__(self, room: int | None = None) -> None:
        self._changed = threading.Condition()
        self._room = room  # None: all of them
        self.passed = 0

    def take(self, most: int) -> int:
        """Wait until bytes may pass, and tell how many."""
        with self._changed:
            self._changed.wait_for(lambda: self._room != 0)
            count = most if self._room is None else min(most, self._room)
            if self._room is not None:
                self._room -= count
            self.passed += count
            self._changed.notify_all()
            return count

    def hold(self, after: int = 0) -> None:
        """Let only so many bytes more pass."""
        with self._changed:
            self._room = after
            self._changed.notify_all()

    def release(self) -> None:
        """Let everything pass."""
        with self._changed:
            self._room = None
            self._changed.notify_all()

    def wait_until_passed(self, count: int) -> None:
        """Wait until so many bytes have passed."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.passed >= count, PATIENCE), self.passed


class Passage:
    """One connection through the relay."""

    def __init__(self, client: socket.socket, server: socket.socket, flows: tuple[Flow, Flow]):
        self.from_client, self.from_server = flows
        self._sockets = (client, server)
        self._threads = [
            threading.Thread(target=self._pump, args=args)
            for args in ((client, server, self.from_client), (server, client, self.from_server))
        ]
        for thread in self._threads:
            thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, flow: Flow) -> None:
        try:
            while data := source.recv(65536):
                while data:
                    count = flow.take(len(data))
                    sink.sendall(data[:count])
                    data = data[count:]
            flow.take(1)  # the end of the stream is held back as well
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # One side has gone, so the other one is told.
            self.cut()

    def cut(self) -> None:
        """End the connection, as both ends see it."""
        for each in self._sockets:
            with suppress(OSError):  # it has ended already
                each.shutdown(socket.SHUT_RDWR)

    def wait_for_the_end(self) -> None:
        """Wait until both ends have closed it: what came over it has been taken or refused."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "an end of the connection stays open"

    def close(self) -> None:
        self.cut()
        self.from_client.release()
        self.from_server.release()
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()


class StallingRelay:
    """Passes the connections to an address of its own on to the target."""

    def __init__(self, server: socket.socket, target: tuple[str, int]) -> None:
        self.address: tuple[str, int] = server.getsockname()
        self._server, self._target = server, target
        self._arrived = threading.Condition()
        self._passages: list[Passage] = []
        self._next = (Flow(), Flow())
        self._held = False
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def stall_next(self, client: int | None = None, server: int | None = None) -> None:
        """Hold the next connection back when its ends have said so many bytes (None: never)."""
        self._next = (Flow(client), Flow(server))

    def hold(self) -> None:
        """Let nothing pass any more, of no connection."""
        with self._arrived:
            self._held = True
            for flow in self._flows():
                flow.hold()

    def release(self) -> None:
        """Let everything pass."""
        with self._arrived:
            self._held = False
            for flow in self._flows():
                flow.release()

    def _flows(self) -> list[Flow]:
        return [f for each in self._passages for f in (each.from_client, each.from_server)]

    def passage(self, number: int) -> Passage:
        """The connection with this number, of those that were made; waits for it."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self._passages) > number, PATIENCE)
            return self._passages[number]

    def count(self) -> int:
        """Tell how many connections were made, one over which bytes just passed included."""
        with self._arrived:
            return len(self._passages)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            flows, self._next = self._next, (Flow(), Flow())
            if self._held:
                flows = (Flow(0), Flow(0))
            onward = socket.create_connection(self._target)
            # Bytes pass from here on: nobody counts before the connection is among the others.
            with self._arrived:
                self._passages.append(Passage(client, onward, flows))
                self._arrived.notify_all()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for passage in self._passages:
            passage.close()


@contextmanager
def stalling_relay(target: tuple[str, int]) -> Iterator[StallingRelay]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        between = StallingRelay(server, target)
        try:
            yield between
        finally:
            between.close()
