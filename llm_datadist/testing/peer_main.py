# SPDX-License-Identifier: Apache-2.0
"""The process of a peer: takes commands from the test that started it, until that hangs up.

Commands run on the main thread, one after the other, or each on a thread of its own, as the test
asked.
"""

from __future__ import annotations

import faulthandler
import pickle
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Callable

from .channel import Channel

__all__ = ["Announcement", "Failure", "Request", "Response", "main"]


@dataclass(frozen=True)
class Request:
    """A command: the name of a method of Actor, or a function that gets the actor.

    Pickled apart, so that one that cannot be found here has an answer.
    """

    number: int
    pickled: bytes  # command, args, options
    on_own_thread: bool


@dataclass(frozen=True)
class Failure:
    """An exception on its way to the test, where it is raised again."""

    pickled: bytes | None  # None: the exception cannot travel
    text: str  # its class, and what it says
    trace: str


@dataclass(frozen=True)
class Response:
    """What became of a request: a value, or a failure."""

    number: int
    value: Any = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Announcement:
    """Something that a command tells while it runs."""

    text: str


def _failure(error: BaseException) -> Failure:
    text = f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception as unpicklable:
        return Failure(None, text, f"{trace}(it cannot be pickled: {unpicklable})")
    return Failure(pickled, text, trace)


def _serve(channel: Channel) -> Callable[[], Any] | None:
    """Run commands until the test hangs up; in a forked child return what it must do."""
    from .actor import Actor, InForkedChildError

    def send(message: Response | Announcement) -> None:
        # The test may be gone, which the next receive() tells.
        with suppress(OSError):
            channel.send(message)

    actor = Actor(lambda text: send(Announcement(text)))

    def run(request: Request) -> None:
        try:
            command, args, options = pickle.loads(request.pickled)
            if isinstance(command, str):
                value = getattr(actor, command)(*args, **options)
            else:
                value = command(actor, *args, **options)
            response = Response(request.number, value)
        except Exception as error:
            response = Response(request.number, failure=_failure(error))
        send(response)

    send(Announcement("ready"))
    while True:
        try:
            request: Request = channel.receive()
        except EOFError:
            return None
        if request.on_own_thread:
            # Daemons: a test that gave up on a command must be able to end the process in the
            # regular way.
            threading.Thread(target=run, args=(request,), daemon=True).start()
            continue
        try:
            run(request)
        except InForkedChildError as forked:
            return forked.work


def main() -> None:
    """Serve the test at the other end of the descriptor that the command line names; the second one
    is where the stacks of this process go.
    """
    faulthandler.register(signal.SIGUSR1, file=int(sys.argv[2]), all_threads=True)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    work = _serve(channel)
    channel.close()
    if work is not None:
        work()
