# SPDX-License-Identifier: Apache-2.0
"""A pair of processes, as seen by who asks them: an owner of caches, and a puller."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from llm_datadist._cli._processes import OWN_ENTRY, Peers

from .sides import Begin, Begun, End, Fill, OpenOwner, OpenPuller, Round
from .work import Work

# For one answer, in seconds: longer than any machine fills a cache, or does a round.
_PATIENCE = 600.0
_END_SECONDS = 20.0
_OWN_ARGUMENTS = ("bench", "--peer-channel")


class Pair:
    """Two fresh processes, as a context manager that ends them whatever happens.

    Args:
        environment: what is set in addition to this process's.
        label: in front of "owner" and "puller" where a message names them.
        entry: what the interpreter runs; default: this package's command.
        arguments: of it, to which the channel's descriptor is appended.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        label: str = "",
        entry: Sequence[str] = OWN_ENTRY,
        arguments: Sequence[str] = _OWN_ARGUMENTS,
    ) -> None:
        self._peers = Peers()
        self._environment = {**os.environ, **environment}
        self._owner, self._puller = f"{label}owner", f"{label}puller"
        self._entry, self._arguments = entry, arguments
        self._processes: list[int] = []

    def __enter__(self) -> Pair:
        self._peers.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._peers.__exit__(kind, error, traceback)

    def open(self, setup: Any) -> Any:
        """Start both; returns the owner's info."""
        for name in (self._owner, self._puller):
            self._processes.append(
                self._peers.start(name, self._arguments, self._environment, self._entry)
            )
        info = self._ask(self._owner, OpenOwner(setup))
        self._ask(self._puller, OpenPuller(setup, info))
        return info

    def begin(self, work: Work) -> Begun:
        """Have both get ready, and check that the right bytes are moved."""
        source = self._ask(self._owner, Fill(work))
        begun: Begun = self._ask(self._puller, Begin(work, source))
        return begun

    def round(self, warm_up: bool = False) -> dict[str, float]:
        """Return the microseconds of each way to pull.

        Args:
            warm_up: whether each way starts with a pull that is not timed.
        """
        times: dict[str, float] = self._ask(self._puller, Round(warm_up))
        return times

    def end(self) -> None:
        """Be done with the work; the puller first, which may hold on to what the owner has."""
        self._ask(self._puller, End())
        self._ask(self._owner, End())

    def finish(self) -> None:
        """Wait for the end of both. Raises PeerFailure."""
        self._processes.clear()
        self._peers.finish(_END_SECONDS)

    def running(self) -> list[int]:
        """Return the ids of both; none before ``open`` and after ``finish``."""
        return list(self._processes)

    def _ask(self, name: str, request: Any) -> Any:
        return self._peers.ask({name: request}, _PATIENCE)[name]
