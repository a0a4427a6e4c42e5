# SPDX-License-Identifier: Apache-2.0
"""The peers of a test: warm processes that go from test to test, as long as each leaves them as it
found them.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from llm_datadist import LLMDataDistWarning
from llm_datadist.introspection import LinkState
from llm_datadist.testing import (
    Geometry,
    Peer,
    PeerCache,
    Resources,
    device,
    eventually,
    wait_until_given_back,
)
from llm_datadist.testing.actor import EngineSpec
from tests.conformance.paths import LISTEN, ON_DEVICE, Path

OWNER, PULLER = 7, 2**63 + 5
SMALL = Geometry()


def load_library(actor: Any) -> None:
    """What the first init of a process leaves behind for ever is no leak: have it there before
    anything is counted.
    """
    import llm_datadist

    llm_datadist.backend_info()
    if ON_DEVICE:
        # A device's driver may keep something from then on.
        actor.init(EngineSpec(OWNER, listen=LISTEN, options=device.options_of(0)))
        device.free(device.allocate(1, actor.device_id), actor.device_id)


def refuse_warnings(actor: Any) -> None:
    """A warning that no test asked for fails the command that it comes from."""
    warnings.simplefilter("error", LLMDataDistWarning)


def allow_warnings(actor: Any) -> None:
    """For a test that is about what a peer is warned of; until the peer is reset."""
    warnings.simplefilter("default", LLMDataDistWarning)


@dataclass
class WarmPeer:
    peer: Peer
    at_rest: Resources


@dataclass
class PeerPool:
    """Processes that have imported everything; starting one takes longer than most tests."""

    idle: list[WarmPeer] = field(default_factory=list)

    def take(self) -> WarmPeer:
        if self.idle:
            return self.idle.pop()
        peer = Peer.start()
        peer.wait_for("ready")
        peer.call(load_library)
        peer.call(refuse_warnings)
        return WarmPeer(peer, peer.reset())

    def give_back(self, warm: WarmPeer) -> None:
        """Whatever the test made must be gone after finalize, or the test fails."""
        try:
            warm.peer.reset()
            warm.peer.call(refuse_warnings)
            wait_until_given_back(warm.at_rest, warm.peer.resources)
        except BaseException as error:
            more = f"left something behind: {error}" if _alive(warm.peer) else "ended"
            warm.peer.kill()
            raise AssertionError(f"a finalized peer {more}") from error
        self.idle.append(warm)

    def close(self) -> None:
        while self.idle:
            self.idle.pop().peer.close()


def _alive(peer: Peer) -> bool:
    return peer.process.poll() is None


@dataclass
class Stage:
    """Makes the peers of one test."""

    pool: PeerPool
    process_vm_refused: str
    exits: ExitStack
    failed: list[bool]
    scope: str  # in which the communicators of the test meet
    numbers: Iterator[int] = field(default_factory=count)  # of its engines

    def process(self) -> Peer:
        """A process without an engine. It may be killed, but must not be changed for ever
        otherwise.
        """
        warm = self.pool.take()

        def end() -> None:
            if self.failed[0] or not _alive(warm.peer):
                warm.peer.kill()
            else:
                self.pool.give_back(warm)

        self.exits.callback(end)
        return warm.peer

    def process_of_its_own(self, **environment: str | None) -> Peer:
        """A process for this test alone, which may change it; it must end with exit code 0."""
        peer = Peer.start(environment)

        def end() -> None:
            if self.failed[0] or not _alive(peer):
                peer.kill()
            else:
                peer.close()

        self.exits.callback(end)
        peer.wait_for("ready")
        peer.call(refuse_warnings)
        return peer

    def engine(
        self,
        cluster_id: int,
        path: Path | None = None,
        listen: str | None = LISTEN,
        process: Peer | None = None,
        environment: dict[str, str | None] | None = None,
        **spec: Any,
    ) -> Peer:
        """An initialised peer that listens; with a path, only that one may be used."""
        peer = process or self.process()
        environment = {"LLM_DATADIST_SCOPE": self.scope, **(environment or {})}
        if path is not None:
            environment = {**path.environment, **environment}
            spec.setdefault("device_pool", path.device_pool)
        spec["options"] = {**device.options_of(next(self.numbers)), **spec.get("options", {})}
        peer.init(cluster_id, listen=listen, environment=environment, **spec)
        return peer

    def pair(self, path: Path, geometry: Geometry = SMALL, **spec: Any) -> Pair:
        """Two linked peers with a cache each, the owner's known as model 0."""
        owner = self.engine(OWNER, path, **spec)
        puller = self.engine(PULLER, path, listen=None, **spec)
        source = path.cache(owner, "kv", geometry, 1, 0)
        target = path.cache(puller, "kv", geometry, 2)
        linked(puller, owner)
        path.require(puller, owner, self.process_vm_refused)
        path.require(owner, puller, self.process_vm_refused)
        return Pair(path, owner, puller, source, target)


@dataclass
class Pair:
    """An owner that listens and a puller that linked to it."""

    path: Path
    owner: Peer
    puller: Peer
    source: PeerCache  # of the owner, model 0
    target: PeerCache  # of the puller, without a key


@contextmanager
def open_stage(
    pool: PeerPool, process_vm_refused: str, failed: list[bool], scope: str
) -> Iterator[Stage]:
    with ExitStack() as exits:
        yield Stage(pool, process_vm_refused, exits, failed, scope)


def linked(peer: Peer, *others: Peer) -> None:
    """Link, which must succeed."""
    answer = peer.link_to(*(other.cluster() for other in others))
    assert answer.status == 0, answer


def links_of(peer: Peer) -> dict[int, LinkState]:
    return {link.peer_cluster_id: link.state for link in peer.call("links")}


def notices(peer: Peer, cluster_id: int) -> None:
    """The peer sees, sooner or later, that the one it is linked to is gone."""
    eventually(
        lambda: (
            [link.state for link in peer.call("links") if link.peer_cluster_id == cluster_id]
            == [LinkState.PEER_GONE]
        ),
        "the closed connection is noticed",
    )


def address_of_a_word(actor: Any) -> int:
    actor.word = ctypes.c_uint64(4711)
    return ctypes.addressof(actor.word)


def read_word_of(actor: Any, pid: int, address: int) -> str:
    """Read with process_vm_readv itself; returns why it was refused, "" if it was not."""

    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]

    libc = ctypes.CDLL(None, use_errno=True)
    word = ctypes.c_uint64(0)
    local = Vector(ctypes.addressof(word), 8)
    remote = Vector(address, 8)
    if libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) == 8:
        return "" if word.value == 4711 else f"read {word.value}"
    return f"process_vm_readv: errno {ctypes.get_errno()}"


def probe_process_vm(pool: PeerPool) -> str:
    """Why one peer may not read the memory of another on this machine, found without the package;
    "": it may.
    """
    owner, reader = pool.take(), pool.take()
    try:
        address = owner.peer.call(address_of_a_word)
        return reader.peer.call(read_word_of, owner.peer.pid, address)
    finally:
        pool.give_back(owner)
        pool.give_back(reader)
