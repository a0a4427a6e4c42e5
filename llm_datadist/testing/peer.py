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
from types import TracebackType
from typing import Any, Callable

from . import script
from .channel import Channel, dumps
from .commands import Member, PeerCache, check
from .faults import FaultControl
from .peer_main import Announcement, Failure, Request, Response
from .resources import Resources
from .script import Step

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
        __tracebackhide__ = True
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


class Peer(Member):
    """A process that holds one LLMDataDist and does what the test tells it.

    Made by start(); a context manager, which ends the process: in the regular way, with exit code
    0, when the test went well, by SIGKILL otherwise.
    """

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel, stacks: int) -> None:
        super().__init__(FaultControl(self._control_runtime))
        self.process = process
        self._channel = channel
        # What faulthandler of the process writes.
        self._stacks = stacks
        self._scripts: list[PeerCall] = []
        self._is_started = False
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
        stacks = os.memfd_create("stacks of a peer")
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
                [sys.executable, _PROGRAM, str(others.fileno()), str(stacks)],
                pass_fds=[others.fileno(), stacks],
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=variables,
            )
        return cls(process, Channel(own), stacks)

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
                    self._is_started = True
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
        __tracebackhide__ = True
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

    def play(self, *steps: Step) -> PeerCall:
        """Have the peer follow a script (llm_datadist.testing.script) on a thread of its own; does
        not wait for its end.
        """
        call = self.start_call(script.run, steps)
        self._scripts.append(call)
        return call

    def script_errors(self) -> list[BaseException]:
        """Return what the scripts have raised that were played and have ended."""
        failures = [call.failure() for call in self._scripts if call.done()]
        return [AssertionError(failure.text) for failure in failures if failure is not None]

    def set_flag(self, name: str) -> None:
        """Set an event that commands of the peer wait for or look at; does not wait until it is
        set, since the command may be to end.
        """
        self.tell("set_flag", name)

    def _control_runtime(self, command: str, argument: str) -> str:
        # On a thread of its own: the main one may be in a call that a fault holds up.
        answer: str = self.start_call("runtime_control", command, argument).result()
        return answer

    def reset(self) -> Resources:
        """Go back to the state before the first command, and tell what the process holds then."""
        resources = super().reset()
        with self._lock:
            self._announced.clear()
        self._scripts.clear()
        return resources

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

    def stacks(self, seconds: float = 2.0) -> str:
        """Return the stacks of the process's threads; when it does not give them in time, what it
        has given.
        """
        if self.process.poll() is not None or self.gone.done():
            return f"it has ended with {self.process.returncode}"
        if not self._is_started:
            # The signal would end it.
            return "it has not started yet"
        before = os.fstat(self._stacks).st_size
        self.process.send_signal(signal.SIGUSR1)
        end = time.monotonic() + seconds
        size, last = before, -1
        # Nothing says that it is complete, but that nothing more comes.
        while time.monotonic() < end and (size == before or size != last):
            time.sleep(0.02)
            last, size = size, os.fstat(self._stacks).st_size
        if size == before:
            return f"it gave no stacks within {seconds:g} s: it may be stopped"
        return os.pread(self._stacks, size - before, before).decode(errors="replace")

    def dump_stacks(self) -> None:
        """Write the stacks of the process's threads to stderr."""
        if self.process.poll() is None:
            print(f"{self}:\n{self.stacks()}", file=sys.stderr)

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
        if self._stacks >= 0:
            os.close(self._stacks)
            self._stacks = -1

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
