# SPDX-License-Identifier: Apache-2.0
"""A member in the process of the test: no process to start, and a debugger sees everything."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any, Callable

from . import faults
from .actor import Actor
from .commands import Member

__all__ = ["LocalPeer"]


class LocalPeer(Member):
    """One LLMDataDist of the test's own process, with the commands of a Peer.

    Fault rules hold for all members of the process. The environment that init() is given is that of
    the test until reset().
    """

    _shares_its_process = True

    def __init__(self) -> None:
        super().__init__(faults.here)
        self._announced = threading.Condition()
        self._texts: list[str] = []
        self._actor = Actor(self._announce)

    def __repr__(self) -> str:
        return f"LocalPeer(cluster_id={self.cluster_id})"

    def _announce(self, text: str) -> None:
        with self._announced:
            self._texts.append(text)
            self._announced.notify_all()

    def call(self, command: str | Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run a method of Actor, or a function that gets the actor, on this thread."""
        run = getattr(self._actor, command) if isinstance(command, str) else command
        if isinstance(command, str):
            return run(*args, **options)
        return run(self._actor, *args, **options)

    def start_call(
        self, command: str | Callable[..., Any], *args: Any, **options: Any
    ) -> Future[Any]:
        """The same on a thread of its own; result() waits for it."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(self.call(command, *args, **options))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name=f"call of {self}", daemon=True).start()
        return future

    def set_flag(self, name: str) -> None:
        """Set an event that commands of the member wait for or look at."""
        self._actor.set_flag(name)

    def wait_for(self, text: str, times: int = 1, seconds: float = 10.0) -> None:
        """Wait until commands of the member have announced this text this many times.

        Raises AssertionError when they do not in time.
        """
        with self._announced:
            if not self._announced.wait_for(lambda: self._texts.count(text) >= times, seconds):
                raise AssertionError(f"{self}: did not announce {text!r} within {seconds} s")
