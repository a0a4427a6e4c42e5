# SPDX-License-Identifier: Apache-2.0
"""Peers of a command: processes that are asked to do things, and never outlive the one that asks.

A command waits for the answers of some peers while it watches all of them, so that it learns at
once when one has ended, and says which one and how.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from types import TracebackType
from typing import Any, Callable

from llm_datadist.testing.peer import Peer, PeerCall, PeerGoneError

from .outcome import PeerFailure

# An interpreter with numpy and the engine's buffers, beside the cache.
PROCESS_OVERHEAD = 96 << 20

# When one peer fails, the cause is often that the other one died: how many seconds to wait for
# that news.
_GRACE = 0.5
# How long peers may take to end after they were asked to.
_END_SECONDS = 10.0

Command = tuple[Any, ...]  # what Peer.call takes: a function or its name, and arguments


class Processes:
    """The peers, as a context manager that ends them whatever happens.

    Args:
        patience: seconds, for the answers to one call.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._peers: dict[str, Peer] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After a failure the command does not wait for what a peer may still be doing.
        self._end(time.monotonic() + (_END_SECONDS if kind is None else 0.0))

    def start(self, name: str, environment: Mapping[str, str | None] | None = None) -> int:
        """Start a peer; returns its process id.

        Args:
            name: for messages.
            environment: as of Peer.start.
        """
        peer = self._peers[name] = Peer.start(environment)
        return peer.pid

    def call(self, name: str, command: str | Callable[..., Any], *args: Any) -> Any:
        """Have one peer do something, and return its answer. Raises as ask()."""
        return self.ask({name: (command, *args)})[name]

    def ask(self, commands: Mapping[str, Command]) -> dict[str, Any]:
        """Have each named peer do something, and wait for all answers.

        Raises PeerFailure when a command raises, any peer ends, or the time is over.
        """
        calls: dict[str, PeerCall] = {}
        for name, command in commands.items():
            try:
                calls[name] = self._peers[name].tell(*command)
            except PeerGoneError:
                raise PeerFailure(self._obituary(name)) from None
        deadline = time.monotonic() + self._patience
        while True:
            pending = [name for name, call in calls.items() if not call.done()]
            failures = self._failures(calls)
            if failures:
                self._wait_for_news(calls, set(self._peers) - set(failures), _GRACE)
                # A peer that was told of the other's end is not the cause.
                raise PeerFailure("; ".join({**failures, **self._failures(calls)}.values()))
            if not pending:
                return {name: call.result() for name, call in calls.items()}
            seconds = max(0.0, deadline - time.monotonic())
            if not self._wait_for_news(
                {name: calls[name] for name in pending}, self._peers, seconds
            ):
                silent = ", ".join(pending)
                raise PeerFailure(f"no answer within {self._patience:g} seconds from: {silent}")

    def _wait_for_news(
        self, calls: Mapping[str, PeerCall], names: Collection[str], seconds: float
    ) -> bool:
        """Wait until one of these peers has answered or ended; tells whether one did."""
        events: list[Future[Any]] = [self._peers[name].gone for name in names]
        events += [call.response for name, call in calls.items() if name in names]
        return bool(wait(events, seconds, return_when=FIRST_COMPLETED).done)

    def _failures(self, calls: Mapping[str, PeerCall]) -> dict[str, str]:
        """Return what each peer that failed has to say for itself."""
        failures = {}
        for name, peer in self._peers.items():
            failure = calls[name].failure() if name in calls and calls[name].done() else None
            if failure is not None:
                failures[name] = f"{name}: {failure.text}"
            elif peer.gone.done():
                failures[name] = self._obituary(name)
        return failures

    def _obituary(self, name: str) -> str:
        """Say how a peer ended whose channel is closed."""
        try:
            code = self._peers[name].process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return f"the {name} process closed its channel"
        if code < 0:
            return f"the {name} process was killed by {signal.Signals(-code).name}"
        return f"the {name} process ended with exit status {code}"

    def finish(self, seconds: float) -> None:
        """Wait until all peers have ended well. Raises PeerFailure."""
        self._end(time.monotonic() + seconds)
        for name, peer in self._peers.items():
            if peer.process.returncode != 0:
                raise PeerFailure(self._obituary(name))

    def _end(self, deadline: float) -> None:
        """Hang up, wait for the processes until time.monotonic() is deadline, kill the rest."""
        for peer in self._peers.values():
            peer.hang_up()
        for peer in self._peers.values():
            with suppress(subprocess.TimeoutExpired):
                peer.process.wait(max(0.0, deadline - time.monotonic()))
            peer.kill()
