# SPDX-License-Identifier: Apache-2.0
"""A peer as the test sees it: a child process that is told what to do and answers."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Callable

from .. import LLMRole, LLMStatusCode, Placement
from .actor import ClusterAddress, EngineSpec, LinkAnswer
from .channel import Channel, dumps
from .faults import FaultControl
from .pattern import Geometry, Stamp, Words, describe_difference
from .peer_main import Announcement, Failure, Request, Response
from .resources import Resources

__all__ = ["DeadlineError", "Peer", "PeerCache", "PeerCall", "PeerGoneError", "check"]

# A command that has no deadline of its own is stuck after this many seconds.
PATIENCE = float(os.environ.get("LLM_DATADIST_TEST_PATIENCE", "30"))

_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")


class DeadlineError(AssertionError):
    """A peer did not do in time what it was told to."""


class PeerGoneError(AssertionError):
    """A peer's process ended while an answer was expected."""


class _RemoteTrace(Exception):
    """Shows, as the cause of an exception, where it was raised in the peer's process."""

    def __init__(self, trace: str) -> None:
        super().__init__(trace)

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class PeerCall:
    """A command under way in a peer; result() waits for its answer."""

    def __init__(self, peer: Peer, what: str) -> None:
        self._peer = peer
        self._what = what
        # None: there will be no answer, because the process is gone.
        self.response: Future[Response | None] = Future()

    def done(self) -> bool:
        """Tell whether there is an answer."""
        return self.response.done()

    def failure(self) -> Failure | None:
        """Return the exception of a command that is done, as it travelled; None: there is none."""
        response = self.response.result(0)
        return None if response is None else response.failure

    def result(self, seconds: float = PATIENCE) -> Any:
        """Wait for the answer and return the value, or raise the exception that the command raised.

        Raises:
            DeadlineError: no answer in time; the peer has written the stacks of its threads to
                stderr by then.
            PeerGoneError: the process ended first.
        """
        if not wait([self.response], seconds).done:
            self._peer.dump_stacks()
            raise DeadlineError(f"{self._peer}: no answer to {self._what} within {seconds} s")
        response = self.response.result()
        if response is None:
            raise PeerGoneError(f"{self._peer}: gone before it answered {self._what}")
        failure = response.failure
        if failure is None:
            return response.value
        cause = _RemoteTrace(failure.trace)
        if failure.pickled is None:
            raise AssertionError(f"{self._peer}: {self._what} raised {failure.text}") from cause
        raise pickle.loads(failure.pickled) from cause

    def exception(self, seconds: float = PATIENCE) -> BaseException | None:
        """Wait for the answer and return the exception that the command raised, or None."""
        try:
            self.result(seconds)
        except (DeadlineError, PeerGoneError):
            raise
        except Exception as error:
            return error
        return None


@dataclass(frozen=True)
class PeerCache:
    """A cache that a peer holds, and what was written into it at first."""

    peer: Peer
    name: str
    geometry: Geometry
    stamp: Stamp | None
    cache_id: int
    tensor_addrs: tuple[int, ...]

    def filled(self) -> Words:
        """Return what the cache contained at first: [tensor, block, word]."""
        if self.stamp is None:
            raise ValueError(f"{self.name} was not filled")
        return self.geometry.filled(self.stamp)

    def read(self) -> Words:
        """Return what the cache contains now: [tensor, block, word]."""
        words: Words = self.peer.call("read", self.name)
        return words


def check(cache: PeerCache, expected: Words) -> None:
    """Raise AssertionError unless the cache contains exactly what is expected; names the first
    wrong word's origin.
    """
    difference = describe_difference(cache.read(), expected)
    if difference:
        raise AssertionError(f"{cache.name} of {cache.peer}: {difference}")


class Peer:
    """A process that holds one LLMDataDist and does what the test tells it.

    Made by start(); a context manager, which ends the process: in the regular way, with exit code
    0, when the test went well, by SIGKILL otherwise.
    """

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.process = process
        self.cluster_id: int | None = None
        self.listen_address: tuple[str, int] | None = None
        self.faults = FaultControl(self._control_runtime)
        self._channel = channel
        self._lock = threading.Condition()
        self._calls: dict[int, PeerCall] = {}
        self._announced: Counter[str] = Counter()
        self._last_number = 0
        # Done when the process has closed its end.
        self.gone: Future[None] = Future()
        self._reader = threading.Thread(target=self._read, name="peer reader", daemon=True)
        self._reader.start()

    @classmethod
    def start(cls, environment: Mapping[str, str | None] | None = None) -> Peer:
        """Start a process, with additional environment variables (None takes one away); does not
        wait for it.

        What it writes to stdout goes to stderr of this process.
        """
        own, others = socket.socketpair()
        variables = dict(os.environ)
        for name, value in (environment or {}).items():
            variables.pop(name, None)
            if value is not None:
                variables[name] = value
        # Functions of the test are sent by name, so the peer must find the modules that the test
        # finds.
        variables["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        with others:
            process = subprocess.Popen(
                [sys.executable, _PROGRAM, str(others.fileno())],
                pass_fds=[others.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=variables,
            )
        return cls(process, Channel(own))

    def __repr__(self) -> str:
        return f"Peer(cluster_id={self.cluster_id}, pid={self.pid})"

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    # -------------------------------------------------------------------------------------- command

    def _read(self) -> None:
        while True:
            try:
                message = self._channel.receive()
            except EOFError:
                break
            with self._lock:
                if isinstance(message, Announcement):
                    self._announced[message.text] += 1
                    self._lock.notify_all()
                    continue
                call = self._calls.pop(message.number)
            call.response.set_result(message)
        with self._lock:
            self.gone.set_result(None)
            lost = list(self._calls.values())
            self._calls.clear()
            self._lock.notify_all()
        for call in lost:
            call.response.set_result(None)

    def _send(
        self,
        command: str | Callable[..., Any],
        args: tuple[Any, ...],
        options: dict[str, Any],
        on_own_thread: bool,
    ) -> PeerCall:
        name = command if isinstance(command, str) else command.__name__
        call = PeerCall(self, name)
        pickled = dumps((command, args, options))
        with self._lock:
            if self.gone.done():
                raise PeerGoneError(f"{self}: gone before it was told to {name}")
            self._last_number += 1
            number = self._last_number
            self._calls[number] = call
        try:
            self._channel.send(Request(number, pickled, on_own_thread))
        except OSError as error:
            raise PeerGoneError(f"{self}: gone before it was told to {name}") from error
        return call

    def call(self, command: str | Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Have the peer's main thread run a method of Actor, or a function that gets the actor;
        return its answer.

        Functions must be importable by name in another process, so they are of the top level of a
        module that is not __main__. Raises PicklingError, AttributeError or TypeError for others,
        and as PeerCall.result() does.
        """
        return self.tell(command, *args, **options).result()

    def tell(self, command: str | Callable[..., Any], *args: Any, **options: Any) -> PeerCall:
        """The same without waiting."""
        return self._send(command, args, options, on_own_thread=False)

    def start_call(self, command: str | Callable[..., Any], *args: Any, **options: Any) -> PeerCall:
        """The same on a thread of its own in the peer."""
        return self._send(command, args, options, on_own_thread=True)

    def wait_for(self, text: str, times: int = 1, seconds: float = PATIENCE) -> None:
        """Wait until commands of the peer have announced this text this many times. Raises
        DeadlineError, PeerGoneError.
        """
        end = time.monotonic() + seconds
        with self._lock:
            while self._announced[text] < times:
                if self.gone.done():
                    raise PeerGoneError(f"{self}: gone before it announced {text!r}")
                if not self._lock.wait(max(0.0, end - time.monotonic())):
                    raise DeadlineError(f"{self}: did not announce {text!r} within {seconds} s")

    def set_flag(self, name: str) -> None:
        """Set an event that commands of the peer wait for or look at."""
        self.call("set_flag", name)

    def _control_runtime(self, command: str, argument: str) -> str:
        # On a thread of its own: the main one may be in a call that a fault holds up.
        answer: str = self.start_call("runtime_control", command, argument).result()
        return answer

    # --------------------------------------------------------------------------- what most tests do

    def init(
        self,
        cluster_id: int,
        *,
        role: LLMRole = LLMRole.MIX,
        listen: str | None = None,
        one_sided: bool = True,
        sync_timeout_ms: int | None = None,
        device_pool: int = 0,
        host_pool: int = 0,
        page_shift: int | None = None,
        environment: Mapping[str, str | None] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> tuple[str, int] | None:
        """Initialise an LLMDataDist; arguments as in EngineSpec. Returns its address."""
        spec = EngineSpec(
            cluster_id,
            role,
            listen,
            one_sided,
            sync_timeout_ms,
            device_pool,
            host_pool,
            page_shift,
            environment=environment or {},
            options=options or {},
        )
        address: tuple[str, int] | None = self.call("init", spec)
        self.cluster_id, self.listen_address = cluster_id, address
        return address

    def allocate(
        self,
        name: str,
        geometry: Geometry,
        stamp: Stamp | None,
        model_id: int | None = None,
        placement: Placement = Placement.DEVICE,
    ) -> PeerCache:
        """Allocate a blocks cache and fill it, unless there is no stamp."""
        cache_id, addrs = self.call("allocate", name, geometry, stamp, model_id, placement)
        return PeerCache(self, name, geometry, stamp, cache_id, tuple(addrs))

    def register(
        self,
        name: str,
        geometry: Geometry,
        stamp: Stamp | None,
        model_id: int | None = None,
        **options: Any,
    ) -> PeerCache:
        """Register a blocks cache over memory of the peer's own and fill it; options as of
        Actor.register.
        """
        cache_id, addrs = self.call("register", name, geometry, stamp, model_id, **options)
        return PeerCache(self, name, geometry, stamp, cache_id, tuple(addrs))

    def cluster(self) -> ClusterAddress:
        """Return what others link to this peer with."""
        return ClusterAddress(self.cluster_id, self.listen_address)

    def link(self, *others: Peer, timeout_ms: int | None = None) -> LLMStatusCode:
        """Link to other peers and return the overall status."""
        return self.link_to(*(other.cluster() for other in others), timeout_ms=timeout_ms).status

    def link_to(self, *clusters: ClusterAddress, timeout_ms: int | None = None) -> LinkAnswer:
        """Call link_clusters."""
        answer: LinkAnswer = self.call("link", clusters, timeout_ms)
        return answer

    def unlink(
        self, *others: Peer, timeout_ms: int | None = None, force: bool = False
    ) -> LLMStatusCode:
        """Unlink from other peers and return the overall status."""
        clusters = [other.cluster() for other in others]
        return self.unlink_from(*clusters, timeout_ms=timeout_ms, force=force).status

    def unlink_from(
        self, *clusters: ClusterAddress, timeout_ms: int | None = None, force: bool = False
    ) -> LinkAnswer:
        """Call unlink_clusters."""
        answer: LinkAnswer = self.call("unlink", clusters, timeout_ms, force)
        return answer

    def pull(self, name: str, key: Any, src: Any, dst: Any, **options: Any) -> None:
        """Call pull_blocks into a cache of the peer."""
        self.call("pull", name, key, src, dst, **options)

    def push(self, name: str, key: Any, src: Any, dst: Any, **options: Any) -> None:
        """Call push_blocks from a cache of the peer."""
        self.call("push", name, key, src, dst, **options)

    def reset(self) -> Resources:
        """Go back to the state before the first command, and tell what the process holds then."""
        resources: Resources = self.call("reset")
        with self._lock:
            self._announced.clear()
        self.cluster_id = self.listen_address = None
        return resources

    def finalize(self) -> None:
        """Finalise the peer's LLMDataDist."""
        self.call("finalize")

    # --------------------------------------------------------------------------------------- proces

    def resources(self) -> Resources:
        """Tell what the peer's process holds."""
        return Resources.of(self.pid)

    def stop(self) -> None:
        """Stop the process, and wait until it is stopped."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """Let a stopped process go on."""
        self.process.send_signal(signal.SIGCONT)

    def dump_stacks(self) -> None:
        """Have the process write the stacks of its threads to stderr."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGUSR1)

    def hang_up(self) -> None:
        """Tell the process to end; does not wait."""
        self._channel.hang_up()

    def close(self, seconds: float = PATIENCE) -> None:
        """End the process in the regular way. Raises AssertionError when it does not end, or with
        another code than 0.
        """
        self.hang_up()
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.dump_stacks()
            raise DeadlineError(f"{self}: did not end within {seconds} s") from None
        finally:
            self.kill()
        if code != 0:
            raise AssertionError(f"{self}: ended with {code}")

    def kill(self) -> None:
        """End the process by SIGKILL, if there still is one, and wait for it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._channel.hang_up()
        self._reader.join()
        self._channel.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None or self.process.poll() is not None:
            self.kill()
        else:
            self.close()
