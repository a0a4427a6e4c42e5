# SPDX-License-Identifier: Apache-2.0
"""A listener that is no engine: a test says what it says to whoever comes."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

LONGEST_SECONDS = 10


@contextmanager
def listener_that_says(greet: Callable[[socket.socket], object]) -> Iterator[tuple[str, int]]:
    """Greets whoever comes, and then reads until he hangs up, which he must do in time."""

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(LONGEST_SECONDS)
                try:
                    greet(connection)
                    while connection.recv(65536):
                        continue
                except ConnectionError:
                    # He reset it before he had read everything, as one may who refuses.
                    continue
                except OSError as error:
                    # Before there was anything to shut down.
                    if error.errno != errno.ENOTCONN:
                        raise

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            yield server.getsockname()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
