# SPDX-License-Identifier: Apache-2.0
"""Transfers that are over, told one by one: of this engine and of its peers. What
CacheManager.events() returns. An extension: CANN's interface has nothing like it.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from .keys import BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex
from .status import LLMException, LLMStatusCode

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["EventStream", "TransferEvent", "TransferKind"]


class TransferKind(Enum):
    """PULL; PUSH: one layer of push_*, or of transfer_cache_async by key; TO_ADDRESSES: one layer
    of transfer_cache_async by addresses.
    """

    PULL = 1
    PUSH = 2
    TO_ADDRESSES = 3


@dataclass(frozen=True)
class TransferEvent:
    """A transfer that is over: one pull, or one layer of a push."""

    kind: TransferKind
    by_peer: bool  # the peer asked for it; its numbers are what it tells
    peer_cluster_id: int
    status: LLMStatusCode
    text: str  # of a failure, at most 240 bytes
    transfer_id: str  # 32 hexadecimal digits, the same at both ends
    link: str  # "3fa2b1c0", by which the logs of both ends call the link
    # Of the cache of the end that did not ask; None: to addresses.
    key: CacheKey | BlocksCacheKey | CacheKeyByIdAndIndex | None
    cache_id: int | None  # of the own cache, if this end asked
    blocks: list[int] = field(repr=False)  # here; [] of contiguous caches
    peer_blocks: list[int] = field(repr=False)  # there, in the same order
    has_all_blocks: bool  # False: the lists are cut, at 65536 runs or 1048576 blocks
    layer: int  # of the source; of a pull the first one
    layers: int | None  # None: all there are
    bytes: int  # asked for; 0: it failed before that was known
    bytes_moved: int
    lost: int  # events that were dropped right before this one
    time: float  # of its end, as time.time(); of a peer's, of this end hearing of it

    @property
    def ok(self) -> bool:
        """Whether it succeeded: the bytes are where they go."""
        return self.status is LLMStatusCode.LLM_SUCCESS


class Source(Protocol):
    """Where a stream takes its events from."""

    def open(self, capacity: int) -> int:
        """Begin; return a descriptor that can be read while an event waits."""

    def take(self) -> TransferEvent | None:
        """Return the oldest one that waits, if any."""

    def close(self) -> None:
        """Have no more of them."""


class EventStream:
    """Events of one engine: iterate over it, in a for or an async for; a context manager.

        with manager.events() as events:
            for event in events:
                ...

    Iteration waits for the next event and ends when the stream is closed or the engine finalized.
    One thread or task at a time may take events.
    """

    def __init__(self, source: Source, capacity: int) -> None:
        self._source = source
        # The lock guards the members below it but for _lost.
        self._lock = threading.Lock()
        self._is_closed = True
        self._waiting = 0  # threads and tasks that use the descriptors
        self._lost = 0
        self._descriptors: tuple[int, ...] = ()
        stop, self._stopper = os.pipe()
        try:
            readable = source.open(capacity)
        except BaseException:
            os.close(stop)
            os.close(self._stopper)
            raise
        self._descriptors = (stop, readable)
        self._is_closed = False

    @property
    def lost(self) -> int:
        """How many events were dropped up to the one that was taken last."""
        return self._lost

    def poll(self) -> TransferEvent | None:
        """Return the oldest event that waits; None: none waits, or there will be no more."""
        if self._is_closed:
            return None
        try:
            event = self._source.take()
        except LLMException:
            # The engine is finalized, or the stream was closed meanwhile.
            self.close()
            return None
        if event is not None:
            self._lost += event.lost
        return event

    def get(self, timeout: float | None = None) -> TransferEvent | None:
        """Wait for an event and return it.

        Args:
            timeout: seconds; None: indefinitely.

        Returns:
            None: there was none in time, or there will be no more.
        """
        end = None if timeout is None else monotonic() + timeout
        while (event := self.poll()) is None and not self._is_closed:
            left = None if end is None else end - monotonic()
            if left is not None and left <= 0:
                return None
            self._wait(left)
        return event

    @contextmanager
    def _readable(self) -> Iterator[tuple[int, ...]]:
        """Give what can be read when there is an event, or the stream is closed."""
        with self._lock:
            self._waiting += 1
        try:
            yield self._descriptors
        finally:
            with self._lock:
                self._waiting -= 1
                self._let_go()

    def _let_go(self) -> None:
        """Close the descriptors of a stream that is closed, when nobody waits for them."""
        if not self._is_closed or self._waiting:
            return
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = ()

    def _wait(self, seconds: float | None) -> None:
        with self._readable() as descriptors:
            poller = select.poll()
            for descriptor in descriptors:
                poller.register(descriptor, select.POLLIN)
            if descriptors:
                poller.poll(None if seconds is None else max(int(seconds * 1000), 1))

    def __iter__(self) -> Iterator[TransferEvent]:
        while (event := self.get()) is not None:
            yield event

    async def __aiter__(self) -> AsyncIterator[TransferEvent]:
        while True:
            event = self.poll()
            if event is not None:
                yield event
            elif self._is_closed:
                return
            else:
                await self._wait_in_loop()

    async def _wait_in_loop(self) -> None:
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        with self._readable() as descriptors:
            for descriptor in descriptors:
                loop.add_reader(descriptor, woken.set)
            try:
                if descriptors:
                    await woken.wait()
            finally:
                for descriptor in descriptors:
                    loop.remove_reader(descriptor)

    def close(self) -> None:
        """End it, from any thread; peers are told that this engine listens no more. Again: nothing
        happens.
        """
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            # Whoever waits sees the end of the pipe.
            os.close(self._stopper)
            self._let_go()
        self._source.close()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
