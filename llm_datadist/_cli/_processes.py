# SPDX-License-Identifier: Apache-2.0
"""Two child processes that are asked to do things, and never outlive the one who asks.

Each child has one channel. It answers each request with one message and ends when the channel
closes, so a child of a killed parent ends, too. The parent looks at all channels while it waits for
one, so that it learns of a dead child at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from multiprocessing import connection
from typing import Any, Callable

# The entry that finds this package, and not another of its name; see its own comment.
OWN_ENTRY = (
    os.path.join(
        os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
        "llm_datadist_cffi_cli.py",
    ),
)
# When one child fails, the cause is often that the other one died: how many seconds to wait for
# that news.
_GRACE = 0.5
# How long a child may take to end after it was asked to.
_END_SECONDS = 10.0


class PeerFailure(Exception):
    """A child failed, died, or did not answer in time; the text names it."""


class Peer:
    """One child process.

    Args:
        name: for messages.
        arguments: of the command; the number of the channel's descriptor is appended.
        environment: of the child.
        entry: what the interpreter runs.
    """

    def __init__(
        self,
        name: str,
        arguments: Iterable[str],
        environment: Mapping[str, str],
        entry: Iterable[str] = OWN_ENTRY,
    ) -> None:
        self.name = name
        self.channel, theirs = connection.Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, *entry, *arguments, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                # Log lines of the child go where the parent's do; stdout is the parent's result.
                stdout=2,
                pass_fds=[theirs.fileno()],
                env=dict(environment),
            )

    def end(self, deadline: float) -> None:
        """Close the channel, wait for the process until time.monotonic() is deadline, kill."""
        self.channel.close()
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def obituary(self) -> str:
        """Say how the process ended, once its channel is closed."""
        try:
            code = self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return f"the {self.name} process closed its channel"
        if code < 0:
            return f"the {self.name} process was killed by {signal.Signals(-code).name}"
        return f"the {self.name} process ended with exit status {code}"


class Peers:
    """The children, as a context manager that ends them whatever happens."""

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        # After a failure nobody waits for what a child may still be doing.
        deadline = time.monotonic() + (_END_SECONDS if kind is None else 0.0)
        for peer in self._peers.values():
            peer.end(deadline)

    def start(
        self,
        name: str,
        arguments: Iterable[str],
        environment: Mapping[str, str],
        entry: Iterable[str] = OWN_ENTRY,
    ) -> int:
        """Start a child; returns its process id. The arguments are those of Peer."""
        peer = self._peers[name] = Peer(name, arguments, environment, entry)
        return peer.process.pid

    def ask(self, requests: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Send each named child its request, and wait for all answers.

        Raises PeerFailure when a child says so, dies, or the time is over.
        """
        for name, request in requests.items():
            try:
                self._peers[name].channel.send(request)
            except OSError:
                raise PeerFailure(self._peers[name].obituary()) from None
        answers: dict[str, Any] = {}
        deadline = time.monotonic() + seconds
        while len(answers) < len(requests):
            news = self._news(deadline)
            failures = [text for failed, text in news.values() if failed]
            if failures:
                # A child that was told of the other's end is not the cause.
                later = self._news(time.monotonic() + _GRACE, without=news)
                failures += [text for failed, text in later.values() if failed]
                raise PeerFailure("; ".join(failures))
            if not news:
                silent = ", ".join(name for name in requests if name not in answers)
                raise PeerFailure(f"no answer within {seconds:g} seconds from: {silent}")
            answers.update({name: value for name, (_, value) in news.items()})
        return answers

    def finish(self, seconds: float) -> None:
        """Wait until all children have ended well. Raises PeerFailure."""
        deadline = time.monotonic() + seconds
        for peer in self._peers.values():
            peer.end(deadline)
            if peer.process.returncode != 0:
                raise PeerFailure(peer.obituary())

    def _news(self, deadline: float, without: Iterable[str] = ()) -> dict[str, tuple[bool, Any]]:
        """Wait for messages: whether a child failed, and its text or answer. None: too late."""
        listening = {
            peer.channel: peer for name, peer in self._peers.items() if name not in set(without)
        }
        ready = connection.wait(list(listening), max(0.0, deadline - time.monotonic()))
        news: dict[str, tuple[bool, Any]] = {}
        for channel in ready:
            peer = listening[channel]  # type: ignore[index]
            try:
                failed, value = peer.channel.recv()
            except (EOFError, OSError):
                failed, value = True, peer.obituary()
            else:
                if failed:
                    value = f"{peer.name}: {value}"
            news[peer.name] = (failed, value)
        return news


def serve(descriptor: int, handle: Callable[[Any], Any]) -> None:
    """Be the child: answer requests until the channel closes.

    Args:
        descriptor: of the channel.
        handle: is called with each request and returns the answer. An Exception that it raises is
            an answer, too.
    """
    # Ctrl-C in a terminal reaches parent and children; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with connection.Connection(descriptor) as channel:
        while True:
            try:
                request = channel.recv()
            except EOFError:
                return
            try:
                answer = (False, handle(request))
            except Exception as error:  # reported to the parent, which ends both
                answer = (True, f"{type(error).__name__}: {error}")
            try:
                channel.send(answer)
            except OSError:
                return  # the parent is gone
