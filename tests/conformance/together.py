# SPDX-License-Identifier: Apache-2.0
"""Peers that are engines of the test's own process, for rules that have nothing to do with
processes: a test takes milliseconds, and may look at a peer's objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, Callable

from llm_datadist import Cache, CacheKey, LLMDataDist, Placement
from llm_datadist.cache_manager import CacheManager
from llm_datadist.testing import Geometry, Peer, PeerCache, Resources, device, memory
from llm_datadist.testing.actor import Actor, HeldCache
from tests.conformance.paths import Path
from tests.conformance.stage import OWNER, PULLER, Stage, linked


class NearPeer(Peer):
    """A peer without a process of its own; commands run in the calling thread."""

    def __init__(self) -> None:
        self.actor = Actor(lambda text: None)
        self.cluster_id: int | None = None
        self.listen_address: tuple[str, int] | None = None

    def __repr__(self) -> str:
        return f"NearPeer(cluster_id={self.cluster_id})"

    @property
    def datadist(self) -> LLMDataDist:
        return self.actor.datadist

    @property
    def manager(self) -> CacheManager:
        return self.actor.datadist.cache_manager

    def call(self, command: str | Callable[..., Any], *args: Any, **options: Any) -> Any:
        if isinstance(command, str):
            return getattr(self.actor, command)(*args, **options)
        return command(self.actor, *args, **options)

    def cache(self, name: str) -> Cache:
        return self.actor.caches[name].cache

    def reset(self) -> Resources:
        self.cluster_id = self.listen_address = None
        return self.actor.reset()

    def contiguous(
        self,
        name: str,
        geometry: Geometry,
        stamp: int,
        keys: Sequence[CacheKey] = (),
        placement: Placement = Placement.DEVICE,
        allocated: bool = True,
        remote_accessible: bool | None = None,
    ) -> PeerCache:
        """A filled contiguous cache: the blocks of the geometry are its batch entries."""
        if allocated:
            memories = []
            cache = self.manager.allocate_cache(geometry.desc(placement), keys)
        else:
            memories = self.actor.memories(geometry, placement)
            addrs = [each.address for each in memories]
            cache = self.manager.register_cache(
                geometry.desc(placement), addrs, keys, remote_accessible
            )
        copied_by = memory.copied_by(placement, self.actor.device_id)
        held = HeldCache(cache, geometry, memories, list(cache.tensor_addrs), copied_by)
        self.actor.caches[name] = held
        self.actor.fill(name, stamp)
        return PeerCache(self, name, geometry, stamp, cache.cache_id, tuple(cache.tensor_addrs))


class NearStage(Stage):
    """Makes near peers."""

    def process(self) -> NearPeer:
        peer = NearPeer()
        self.exits.callback(peer.reset)
        return peer

    def engine(self, cluster_id: int, path: Path | None = None, **spec: Any) -> NearPeer:
        spec["options"] = {"lldd.AllowMultipleInstances": "1", **spec.get("options", {})}
        return super().engine(cluster_id, path, **spec)

    def contiguous(
        self, peer: NearPeer, path: Path, name: str, geometry: Geometry, stamp: int, **options: Any
    ) -> PeerCache:
        """A contiguous cache of the kind of memory that the path serves."""
        allocated = path.device_pool != 0
        return peer.contiguous(name, geometry, stamp, allocated=allocated, **options)

    def two(self, path: Path, **spec: Any) -> tuple[NearPeer, NearPeer]:
        """An owner that listens and another that linked to it; without caches."""
        owner = self.engine(OWNER, path, **spec)
        puller = self.engine(PULLER, path, listen=None, **spec)
        linked(puller, owner)
        path.require(puller, owner, self.process_vm_refused)
        path.require(owner, puller, self.process_vm_refused)
        return owner, puller


@contextmanager
def open_together(process_vm_refused: str, scope: str) -> Iterator[NearStage]:
    with ExitStack() as exits:
        numbers = count(device.half())
        yield NearStage(None, process_vm_refused, exits, [False], scope, numbers)
