# SPDX-License-Identifier: Apache-2.0
"""What a case of the connector suite acts with: the connector under test, and remote prompts."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..keys import BlocksCacheKey
from ..status import LLMException
from .actor import ClusterAddress
from .commands import PeerCache
from .pattern import Geometry, Stamp, Words, describe_difference, fill, moved
from .peer import Peer
from .warm import WarmPeers

__all__ = ["Adapter", "Remote", "Scene"]

VARIABLE = "LLM_DATADIST_MOCK_TRANSPORT"

# What the connector's own cache is filled with; prompts have small stamps.
_OWN_STAMP = 0xC0
_CACHE = "kv"
_LIE = "the connector says that the blocks have arrived: they cannot"


@dataclass(frozen=True)
class Remote:
    """What a connector learns of a prompt by its metadata."""

    cluster_id: int
    address: tuple[str, int]
    model_id: int
    geometry: Geometry

    @property
    def key(self) -> BlocksCacheKey:
        """The key of its cache."""
        return BlocksCacheKey(self.cluster_id, self.model_id)


class Adapter(ABC):
    """Five methods by which the suite drives a connector, as the decoder that loads blocks.

    key is that of the connector's own cache, where prompts may push into it; None: they may not.
    failures are the exceptions by which the connector says that something failed; others are
    mistakes and fail the case.
    """

    key: BlocksCacheKey | None = None
    failures: tuple[type[Exception], ...] = (LLMException,)

    @abstractmethod
    def open(self, cluster_id: int, geometry: Geometry, timeout_ms: int) -> None:
        """Open the connector with a cache of this geometry. A transfer, and making a link, may take
        timeout_ms.
        """

    @abstractmethod
    def connect(self, remote: Remote) -> None:
        """Make a prompt known, as its metadata does; again when a prompt has new metadata.

        Raises one of failures where the connector says that this failed.
        """

    @abstractmethod
    def load(self, remote: Remote, src_blocks: Sequence[int], dst_blocks: Sequence[int]) -> bool:
        """Load blocks of a prompt into own blocks; whether they have arrived. Links again where the
        link is lost. One of failures means the same as False.
        """

    @abstractmethod
    def tensors(self) -> list[Words]:
        """Return the own cache as it lies in memory: each tensor as 8-byte words, [block, word]."""

    @abstractmethod
    def close(self) -> None:
        """Close the connector; also while another thread is in load()."""


def transports(transport: str) -> str:
    """Return what VARIABLE must be for this transport.

    The memory of a connector is its own, so those that push into it cannot map it.
    """
    return "mapped,cma" if transport == "mapped" else transport


class Prompt:
    """A remote prompt: a process with an engine and a cache."""

    def __init__(self, peer: Peer, remote: Remote, cache: PeerCache) -> None:
        self.peer = peer
        self.remote = remote
        self.cache = cache


class Scene:
    """The connector with its cache, and what the cache must contain.

    Args:
        adapter: open.
        geometry: of its cache.
        own_id: its cluster id.
        pool: gives processes for prompts.
        transport: as LLM_DATADIST_MOCK_TRANSPORT; None: what the environment says.
        deadline_s: for each call of the adapter.
        attempts: within which a connector has recovered.
    """

    def __init__(
        self,
        adapter: Adapter,
        geometry: Geometry,
        own_id: int,
        pool: WarmPeers,
        transport: str | None,
        deadline_s: float,
        attempts: int,
    ) -> None:
        self.adapter = adapter
        self.geometry = geometry
        self.own_id = own_id
        self.attempts = attempts
        self._pool = pool
        self._transport = transport
        self._deadline_s = deadline_s
        self._peers: list[Peer] = []
        self._known: Remote | None = None
        self._last: Exception | None = None
        for index, words in enumerate(adapter.tensors()):
            fill(words.reshape(-1), _OWN_STAMP, index)
        self._expected = geometry.filled(_OWN_STAMP)

    # ---- prompts ----

    def prompt(
        self,
        stamp: Stamp = 1,
        cluster_id: int = 1,
        listen: str = "127.0.0.1:0",
        geometry: Geometry | None = None,
    ) -> Prompt:
        """Start a prompt with a cache that is filled with a stamp."""
        shape = geometry or self.geometry
        peer = self.idle_peer()
        is_allocated = self._transport == "mapped"
        address = peer.init(
            cluster_id,
            listen=listen,
            # Room for a second cache that takes the place of the first.
            device_pool=2 * shape.pool_bytes() if is_allocated else 0,
            page_shift=16,
            environment=self.environment(),
        )
        assert address is not None
        cache = self.give_cache(peer, stamp, shape)
        return Prompt(peer, Remote(cluster_id, address, 0, shape), cache)

    def give_cache(self, peer: Peer, stamp: Stamp, geometry: Geometry | None = None) -> PeerCache:
        """Have a prompt make its cache."""
        make = peer.allocate if self._transport == "mapped" else peer.register
        return make(_CACHE, geometry or self.geometry, stamp, model_id=0)

    def take_cache(self, peer: Peer) -> None:
        """Have a prompt take its cache away."""
        peer.call("deallocate" if self._transport == "mapped" else "unregister", _CACHE)
        peer.call(_forget, _CACHE)

    def idle_peer(self) -> Peer:
        """Return a process without an engine."""
        peer = self._pool.take()
        self._peers.append(peer)
        return peer

    def environment(self) -> dict[str, str | None]:
        """Return the variables of this scene."""
        return {} if self._transport is None else {VARIABLE: transports(self._transport)}

    def own_address(self) -> ClusterAddress:
        """Return what prompts unlink from."""
        return ClusterAddress(self.own_id)

    def end(self) -> None:
        """Give the processes back."""
        for peer in self._peers:
            self._pool.give_back(peer)
        self._peers.clear()

    # ---- loads ----

    def attempt(self, prompt: Prompt, src: Sequence[int], dst: Sequence[int]) -> bool:
        """Load once and check what the connector says of it: blocks that it says have arrived are
        those of the prompt; no other block was written; it answers in time.
        """
        __tracebackhide__ = True
        started = time.monotonic()
        arrived, said = self._ask(prompt.remote, src, dst)
        took = time.monotonic() - started
        if took > self._deadline_s:
            raise AssertionError(f"the connector took {took:.1f} s for its answer, {said}")
        now = np.stack([words.copy() for words in self.adapter.tensors()])
        if arrived:
            source = prompt.cache.filled()
            there, here = source.shape[1], self.geometry.num_blocks
            if len(src) != len(dst) or max(src) >= there or max(dst) >= here:
                raise AssertionError(_LIE)
            self._expected = moved(self._expected, source, src, dst)
        else:
            # What became of these blocks is open.
            mine = [block for block in dst if block < self.geometry.num_blocks]
            self._expected[:, mine] = now[:, mine]
        difference = describe_difference(now, self._expected)
        if difference:
            raise AssertionError(f"the connector says {said}, but {difference}")
        return arrived

    def _ask(self, remote: Remote, src: Sequence[int], dst: Sequence[int]) -> tuple[bool, str]:
        try:
            if self._known is not remote:
                self.adapter.connect(remote)
                self._known = remote
            arrived = self.adapter.load(remote, src, dst)
        except self.adapter.failures as error:
            self._last = error
            return False, repr(error)
        self._last = None
        return bool(arrived), "that the blocks have arrived" if arrived else "that it failed"

    def succeeds(self, prompt: Prompt, src: Sequence[int], dst: Sequence[int]) -> None:
        """Require that the blocks arrive at the first attempt."""
        __tracebackhide__ = True
        if not self.attempt(prompt, src, dst):
            raise AssertionError(f"{list(src)} failed, nothing is wrong with it") from self._last

    def fails(self, prompt: Prompt, src: Sequence[int], dst: Sequence[int]) -> None:
        """Require that the connector says that the blocks have not arrived."""
        __tracebackhide__ = True
        if self.attempt(prompt, src, dst):
            raise AssertionError(_LIE)

    def recovers(self, prompt: Prompt, src: Sequence[int], dst: Sequence[int]) -> None:
        """Require that the blocks arrive within some attempts."""
        __tracebackhide__ = True
        if not any(self.attempt(prompt, src, dst) for _ in range(self.attempts)):
            text = f"no load succeeded in {self.attempts} attempts after the fault"
            raise AssertionError(text) from self._last


def _forget(actor: Any, name: str) -> None:
    del actor.caches[name]
