# SPDX-License-Identifier: Apache-2.0
"""Transfers that the caller does not wait for: their tasks, and the threads that run them (contract
6.7).
"""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Callable

from . import tracing
from ._checks import check_uint32
from .status import LLMException, LLMStatusCode, error
from .utils.log import get_logger

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from ._native.engine import Engine
    from ._native.tokens import Token

# As many peers are served at a time.
_MOST_THREADS = 32
# Those of this process that are not over.
_running: weakref.WeakSet[CacheTask] = weakref.WeakSet()


class CacheTask(ABC):
    """A transfer that runs on a thread of its own; made by CacheManager.

    It can be waited for (wait, synchronize, get_results), polled (done), cancelled, and awaited:

        task = manager.pull_blocks_async(key, cache, [0, 1], [4, 5])
        await asyncio.wait_for(task, 0.5)

    Awaiting returns None, or raises what exception() returns. When the asyncio task that awaits is
    cancelled, by wait_for or otherwise, the transfer is cancelled, and CancelledError comes once it
    is over: what a failed transfer leaves behind (contract 6.6) then holds. Several may await one
    task.
    """

    def __init__(self, token: Token) -> None:
        self._token = token
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._when_done: list[Callable[[], None]] = []
        self._exception: BaseException | None = None
        self._cancelled = False
        _running.add(self)

    @abstractmethod
    def _statuses(self) -> list[LLMStatusCode]:
        """Return a status for each config, once the transfer is over."""

    @abstractmethod
    def _count(self) -> int:
        """Return the number of configs."""

    # ---- waiting and polling ----

    def done(self) -> bool:
        """Whether the transfer is over, in whatever way."""
        return self._done.is_set()

    def wait(self, timeout_in_millis: int | None = None) -> bool:
        """Wait for the end of the transfer.

        Args:
            timeout_in_millis: uint32; None waits for ever.

        Returns:
            Whether it is over.

        Raises:
            TypeError: an argument has another type.
            ValueError: a number is out of its range.
        """
        if timeout_in_millis is not None:
            check_uint32("timeout_in_millis", timeout_in_millis)
        return self._done.wait(None if timeout_in_millis is None else timeout_in_millis / 1000)

    def synchronize(self, timeout_in_millis: int | None = None) -> LLMStatusCode:
        """Wait for the end of the transfer.

        Args:
            timeout_in_millis: uint32; None waits for ever.

        Returns:
            LLM_TIMEOUT while it runs (it goes on), else the first status of a config that failed
            before its end, LLM_FAILED when configs were left unfinished alone (decision 17), or
            LLM_SUCCESS. A transfer may itself end with LLM_TIMEOUT: see done().

        Raises:
            TypeError: an argument has another type.
            ValueError: a number is out of its range.
        """
        results = self.get_results(timeout_in_millis)
        failures = [result for result in results if result != LLMStatusCode.LLM_SUCCESS]
        told = [result for result in failures if result != LLMStatusCode.LLM_FAILED]
        return next(iter(told or failures), LLMStatusCode.LLM_SUCCESS)

    def get_results(self, timeout_in_millis: int | None = None) -> list[LLMStatusCode]:
        """Wait for the end of the transfer.

        Args:
            timeout_in_millis: uint32; None waits for ever.

        Returns:
            A status for each config of transfer_cache_async, one for a pull or a push: LLM_TIMEOUT
            for all while it runs, LLM_FAILED for one that was not finished (decision 17).

        Raises as wait.
        """
        if not self.wait(timeout_in_millis):
            return [LLMStatusCode.LLM_TIMEOUT] * self._count()
        return self._statuses()

    def exception(self) -> BaseException | None:
        """Return the exception that ended the transfer early, None where there is none (yet)."""
        return self._exception

    # ---- cancelling ----

    def cancel(self) -> bool:
        """End the transfer early, wherever it is; returns without waiting for the end.

        The transfer ends with LLM_TIMEOUT ("interrupted by cancel"), within 0.2 s unless a device
        or a LayerSynchronizer of the client has it. What it leaves behind is what a failed one does
        (contract 6.6).

        Returns:
            False if it was over already.
        """
        with self._lock:
            if self._done.is_set():
                return False
            self._cancelled = True
        self._token.cancel()
        return True

    def cancelled(self) -> bool:
        """Whether cancel() was called before the end."""
        return self._cancelled

    # ---- awaiting ----

    def __await__(self) -> Generator[object, None, None]:
        """Wait in asyncio: see the class."""
        return self._until_over().__await__()

    async def _until_over(self) -> None:
        import asyncio  # which importing the package must not cost

        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            # A loop that was closed has nobody who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(over.set_result, None)

        self._call_when_done(tell)
        cancelled: asyncio.CancelledError | None = None
        while not over.done():
            try:
                # Unlike awaiting it, this does not cancel the future.
                await asyncio.wait([over])
            except asyncio.CancelledError as cause:
                cancelled = cause
                self.cancel()
        if cancelled is not None:
            raise cancelled
        if self._exception is not None:
            raise self._exception
        status = self.synchronize()
        if status != LLMStatusCode.LLM_SUCCESS:
            raise error("the transfer has failed, see get_results()", status)

    def _call_when_done(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if not self._done.is_set():
                self._when_done.append(callback)
                return
        callback()

    # ---- for those that run it ----

    def _end(self) -> None:
        """Tell everybody that it is over."""
        with self._lock:
            self._done.set()
            callbacks, self._when_done = self._when_done, []
        _running.discard(self)
        for callback in callbacks:
            callback()

    def _end_in_child(self) -> None:
        """In a forked child, where the thread that would end it does not exist."""
        self._lock, self._done, self._when_done = threading.Lock(), threading.Event(), []
        self._exception = error(
            "the transfer belongs to the parent of this forked process", LLMStatusCode.LLM_FAILED
        )
        self._done.set()


class TransferTask(CacheTask):
    """One pull or push.

    Args:
        threads: that run it.
        name: of the operation, for logs.
        peer: the cluster id of the other end.
        token: ends it early.
        transfer: does it; raises what went wrong.
    """

    def __init__(
        self,
        threads: TaskThreads,
        name: str,
        peer: int,
        token: Token,
        transfer: Callable[[], None],
    ) -> None:
        super().__init__(token)
        self.peer = peer
        self.begun = False  # or ended before; guarded by the threads
        self._threads = threads
        self._name = name
        self._transfer: Callable[[], None] | None = transfer

    def cancel(self) -> bool:
        """End the transfer early: see CacheTask.cancel."""
        if not super().cancel():
            return False
        # One that has not begun need not wait for those before it.
        if self._threads.claim(self):
            self.end_unbegun("cancel")
        return True

    def run(self) -> None:
        """Do the transfer."""
        assert self._transfer is not None
        try:
            self._transfer()
        except BaseException as cause:  # nowhere else could it surface
            self._fail(cause)
        self._transfer = None
        self._end()

    def end_unbegun(self, by: str) -> None:
        """End it without a transfer."""
        text = f"{self._name} to or from cluster {self.peer}: interrupted by {by}"
        self._fail(error(text, LLMStatusCode.LLM_TIMEOUT))
        self._transfer = None
        self._end()

    def _fail(self, cause: BaseException) -> None:
        # Nobody may ever ask the task.
        log = get_logger().info if self.cancelled() else get_logger().error
        log("%s: %s", self._name, cause)
        self._exception = cause

    def _statuses(self) -> list[LLMStatusCode]:
        if self._exception is None:
            return [LLMStatusCode.LLM_SUCCESS]
        if isinstance(self._exception, LLMException):
            return [self._exception.status_code]
        return [LLMStatusCode.LLM_FAILED]

    def _count(self) -> int:
        return 1


class TaskThreads:
    """The threads that run the tasks of one engine, made when they are needed.

    Tasks with one peer run one after the other, as they were made, those with different peers at
    the same time. The threads are no daemons: at its exit the interpreter waits for the tasks that
    it finds, each until its own deadline.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        # Tasks that wait, by peer; a peer is here while a thread serves it.
        self._waiting: dict[int, deque[TransferTask]] = {}
        self._own: set[int] = set()  # idents of threads that are running tasks
        self._stopped = False

    def add(self, task: TransferTask) -> None:
        """Have the task run."""
        if os.getpid() != self._pid:
            # The library says why it cannot be done.
            task.run()
            return
        from concurrent.futures import ThreadPoolExecutor  # as asyncio above

        with self._lock:
            if self._stopped:
                begins = False
            elif task.peer in self._waiting:
                self._waiting[task.peer].append(task)
                return
            else:
                begins = True
                if self._executor is None:
                    self._executor = ThreadPoolExecutor(
                        _MOST_THREADS, thread_name_prefix="llm_datadist task"
                    )
                # At the interpreter's exit it raises: then there is nothing to be undone.
                self._executor.submit(self._serve, task)
                self._waiting[task.peer] = deque()
        if not begins:
            task.end_unbegun("finalize")

    def claim(self, task: TransferTask) -> bool:
        """Whether the task had not begun: then it is the caller's to run or to end."""
        with self._lock:
            if task.begun:
                return False
            task.begun = True
            waiting = self._waiting.get(task.peer)
            if waiting is not None and task in waiting:
                waiting.remove(task)
            return True

    def _serve(self, task: TransferTask) -> None:
        """Run the task, and those with the same peer that have come meanwhile."""
        ident = threading.get_ident()
        with self._lock:
            self._own.add(ident)
        peer = task.peer
        following: TransferTask | None = task
        while following is not None:
            if self.claim(following):
                if self._stopped:
                    following.end_unbegun("finalize")
                else:
                    following.run()
            with self._lock:
                waiting = self._waiting[peer]
                following = waiting.popleft() if waiting else None
                if following is None:
                    del self._waiting[peer]
                    self._own.discard(ident)

    def stop(self) -> None:
        """End the tasks that have not begun, and begin no more."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._stopped = True
            unbegun = [task for waiting in self._waiting.values() for task in waiting]
            for task in unbegun:
                task.begun = True
            for waiting in self._waiting.values():
                waiting.clear()
        for task in unbegun:
            task.end_unbegun("finalize")

    def join(self) -> None:
        """Wait until the threads have ended; after stop()."""
        if self._executor is None or os.getpid() != self._pid:
            return
        # A callback of asyncio, or a destructor, may run on one of them.
        self._executor.shutdown(wait=threading.get_ident() not in self._own)
        self._executor = None


def start(engine: Engine, name: str, peer: int, transfer: Callable[[Token], None]) -> TransferTask:
    """Have a transfer with a peer run on a thread of the engine, and return its task."""
    token = engine.token()
    run = tracing.kept(partial(transfer, token))
    task = TransferTask(engine.tasks, name, peer, token, run)
    engine.tasks.add(task)
    return task


def _end_in_child() -> None:
    for task in list(_running):
        task._end_in_child()
    _running.clear()


os.register_at_fork(after_in_child=_end_in_child)
