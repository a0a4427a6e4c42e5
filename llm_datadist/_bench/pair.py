# SPDX-License-Identifier: Apache-2.0
"""A pair of peers, as the bench sees them: an owner of caches, and a puller."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Callable

from llm_datadist._tools.processes import Processes

from . import sides
from .sides import Begun
from .work import Work

# For one answer, in seconds: longer than any machine fills a cache, or does a round.
_PATIENCE = 600.0
_END_SECONDS = 20.0


class Pair:
    """Two fresh processes, as a context manager that ends them whatever happens.

    Args:
        module: name of the one that has the sides, Owner and Puller; it is imported over there.
        environment: what is set in addition to this process's.
        label: in front of "owner" and "puller" where a message names them.
        prepare: what both do first, a function that gets the Actor.
    """

    def __init__(
        self,
        module: str,
        environment: Mapping[str, str],
        label: str = "",
        prepare: Callable[..., None] | None = None,
    ) -> None:
        self._processes = Processes(_PATIENCE)
        self._module, self._environment, self._prepare = module, environment, prepare
        self._owner, self._puller = f"{label}owner", f"{label}puller"
        self._running: list[int] = []

    def __enter__(self) -> Pair:
        self._processes.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._processes.__exit__(kind, error, traceback)

    def open(self, setup: Any) -> Any:
        """Start both; returns the owner's info."""
        for name in (self._owner, self._puller):
            self._running.append(self._processes.start(name, self._environment))
        if self._prepare is not None:
            self._processes.ask(dict.fromkeys((self._owner, self._puller), (self._prepare,)))
        call = self._processes.call
        info = call(self._owner, sides.open_owner, self._module, setup)
        call(self._puller, sides.open_puller, self._module, setup, info)
        return info

    def begin(self, work: Work) -> Begun:
        """Have both get ready, and check that the right bytes are moved."""
        source = self._processes.call(self._owner, sides.fill, work)
        begun: Begun = self._processes.call(self._puller, sides.begin, work, source)
        return begun

    def round(self, warm_up: bool = False) -> dict[str, float]:
        """Return the microseconds of each way to pull.

        Args:
            warm_up: whether each way starts with a pull that is not timed.
        """
        times: dict[str, float] = self._processes.call(self._puller, sides.do_round, warm_up)
        return times

    def end(self) -> None:
        """Be done with the work; the puller first, which may hold on to what the owner has."""
        for name in (self._puller, self._owner):
            self._processes.call(name, sides.end)

    def finish(self) -> None:
        """Wait for the end of both. Raises PeerFailure."""
        self._processes.ask(dict.fromkeys((self._owner, self._puller), (sides.close,)))
        self._running.clear()
        self._processes.finish(_END_SECONDS)

    def running(self) -> list[int]:
        """Return the ids of both; none before ``open`` and after ``finish``."""
        return list(self._running)
