# SPDX-License-Identifier: Apache-2.0
"""Python objects as length-prefixed pickles over a socket pair between a test and its peer."""

from __future__ import annotations

import io
import pickle
import socket
import struct
import threading
from typing import Any

__all__ = ["Channel", "dumps"]

_HEADER = struct.Struct("<Q")


class _Pickler(pickle.Pickler):
    """Refuses what the other process cannot find: functions and classes of the program itself."""

    def reducer_override(self, obj: Any) -> Any:
        if getattr(obj, "__module__", None) == "__main__":
            name = getattr(obj, "__qualname__", None) or type(obj).__qualname__
            raise pickle.PicklingError(
                f"{name} is defined in __main__, the program that runs, which a peer's process "
                "does not have: move it into a module that can be imported, such as a test file"
            )
        return NotImplemented


def dumps(message: Any) -> bytes:
    """Pickle something for another process. Raises PicklingError for what it cannot find there."""
    body = io.BytesIO()
    _Pickler(body, protocol=pickle.HIGHEST_PROTOCOL).dump(message)
    return body.getvalue()


class Channel:
    """One end of the socket pair; any thread may send, one receives.

    Only processes that a test started are at the other end, so pickles are what they are: trusted.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = threading.Lock()

    def send(self, message: Any) -> None:
        """Send one object. Raises OSError when the other end is gone."""
        body = dumps(message)
        with self._sending:
            self._socket.sendall(_HEADER.pack(len(body)))
            self._socket.sendall(body)

    def receive(self) -> Any:
        """Wait for one object. Raises EOFError when the other end is gone."""
        (size,) = _HEADER.unpack(self._exactly(_HEADER.size))
        return pickle.loads(self._exactly(size))

    def _exactly(self, size: int) -> bytearray:
        body = bytearray(size)
        view = memoryview(body)
        while view:
            try:
                received = self._socket.recv_into(view)
            except ConnectionResetError:
                received = 0
            if received == 0:
                raise EOFError("the other end of the channel is gone")
            view = view[received:]
        return body

    def hang_up(self) -> None:
        """Wake the receiving threads of both ends, which see the end of the channel."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            # The other end went first; that is the state asked for.
            return

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
