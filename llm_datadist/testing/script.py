# SPDX-License-Identifier: Apache-2.0
"""A peer that follows a list of steps, with no function of the test in its process.

    owner.play(
        Linked(2),                              # as soon as cluster 2 has linked
        Inject("close status=LLM_FAILED"),      # its runtime misbehaves,
        Unlink(2),                              # it drops the link from its side,
        Announce("dropped"),                    # tells the test,
        Flag("go on"),                          # waits for the test,
        Exit(),                                 # and dies
    )
    owner.wait_for("dropped")

The steps run one after the other on a thread of the peer's process. A step that fails ends the
script: the call that play() returns raises it, and so does the end of the test.
"""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..introspection import LinkState
from .waiting import eventually

if TYPE_CHECKING:
    from .actor import Actor

__all__ = [
    "Announce",
    "ClearFaults",
    "Do",
    "Exit",
    "Flag",
    "Inject",
    "Linked",
    "Step",
    "Stop",
    "Unlink",
    "Unlinked",
    "run",
]

_SECONDS = 30.0


class Step(ABC):
    """One step of a script."""

    @abstractmethod
    def do(self, actor: Actor) -> None:
        """Do it in the peer's process."""


@dataclass(frozen=True)
class Linked(Step):
    """Wait until a link with this cluster is there."""

    cluster_id: int
    seconds: float = _SECONDS

    def do(self, actor: Actor) -> None:
        """Wait."""
        what = f"a link with cluster {self.cluster_id}"
        eventually(lambda: _is_linked(actor, self.cluster_id), what, self.seconds)


@dataclass(frozen=True)
class Unlinked(Step):
    """Wait until no link with this cluster is there."""

    cluster_id: int
    seconds: float = _SECONDS

    def do(self, actor: Actor) -> None:
        """Wait."""
        what = f"no link with cluster {self.cluster_id}"
        eventually(lambda: not _is_linked(actor, self.cluster_id), what, self.seconds)


@dataclass(frozen=True)
class Unlink(Step):
    """Drop the link with this cluster from this side, by force: the other one is not told."""

    cluster_id: int

    def do(self, actor: Actor) -> None:
        """Unlink."""
        from .actor import ClusterAddress

        actor.unlink([ClusterAddress(self.cluster_id)], force=True)


@dataclass(frozen=True)
class Inject(Step):
    """Add fault rules (docs/faults.md), which stay until ClearFaults or the next reset."""

    rules: str

    def do(self, actor: Actor) -> None:
        """Add them."""
        actor.runtime_control("faults.add", self.rules)


@dataclass(frozen=True)
class ClearFaults(Step):
    """Take all fault rules away; calls that they hold up go on."""

    def do(self, actor: Actor) -> None:
        """Take them away."""
        actor.runtime_control("faults.clear", "")


class Do(Step):
    """A method of Actor, by its name: Do("register", "kv", Geometry(), 1, model_id=0)."""

    def __init__(self, command: str, *args: Any, **options: Any) -> None:
        self._command, self._args, self._options = command, args, options

    def __repr__(self) -> str:
        return f"Do({self._command!r}, ...)"

    def do(self, actor: Actor) -> None:
        """Call it."""
        getattr(actor, self._command)(*self._args, **self._options)


@dataclass(frozen=True)
class Announce(Step):
    """Tell the test, which waits in Peer.wait_for(text)."""

    text: str

    def do(self, actor: Actor) -> None:
        """Tell it."""
        actor.announce(self.text)


@dataclass(frozen=True)
class Flag(Step):
    """Wait until the test says Peer.set_flag(name)."""

    name: str
    seconds: float = _SECONDS

    def do(self, actor: Actor) -> None:
        """Wait."""
        if not actor.flag(self.name).wait(self.seconds):
            raise AssertionError(f"the flag {self.name!r} was not set within {self.seconds} s")


@dataclass(frozen=True)
class Stop(Step):
    """Stop the process, as a machine that hangs; Peer.go_on() lets it go on with the next step."""

    def do(self, actor: Actor) -> None:
        """Stop."""
        os.kill(os.getpid(), signal.SIGSTOP)


@dataclass(frozen=True)
class Exit(Step):
    """End the process at once, as a crash; the test's end takes that for what it should do."""

    def do(self, actor: Actor) -> None:
        """Die by SIGKILL, which the fixtures take for the test's own doing."""
        os.kill(os.getpid(), signal.SIGKILL)


def run(actor: Actor, steps: Sequence[Step]) -> None:
    """Do the steps, in the peer's process. An error names the step."""
    for number, step in enumerate(steps):
        try:
            step.do(actor)
        except Exception as error:
            raise AssertionError(f"step {number} of the script, {step}: {error}") from error


def _is_linked(actor: Actor, cluster_id: int) -> bool:
    return any(
        link.peer_cluster_id == cluster_id and link.state is LinkState.LIVE
        for link in actor.links()
    )
