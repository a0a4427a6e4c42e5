# SPDX-License-Identifier: Apache-2.0
"""The two sides that use this package as its clients do, and the references beside it.

In each round the puller does the same work by this package, by a copy inside itself (``ref``), and
by the C loop that shows what the machine allows on this path.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm_datadist import BlocksCacheKey, Cache
from llm_datadist._tools import engines
from llm_datadist.testing.actor import Actor, ClusterAddress, EngineSpec
from llm_datadist.testing.pattern import Blocks

from . import sides
from .memory import Arena, address_of, attach, consecutive, page_kind, tensors_at
from .reference import Reference
from .results import PACKAGE, PathPlan
from .sides import OWNER, PULLER, Begun, Pull
from .work import Work

_TIMEOUT_MS = 60000


@dataclass(frozen=True)
class Setup:
    """What both sides must know."""

    path: PathPlan
    works: Sequence[Work]  # that will come
    library: str  # of the references; "": there are none

    @property
    def cache_bytes(self) -> int:
        """Bytes of the largest cache."""
        return max(work.cache_bytes for work in self.works)

    @property
    def arenas(self) -> int:
        """How many times ``cache_bytes`` of memory both processes need together."""
        references = (2 if self.path.limit == "nt_t2" else 1) if self.library else 0
        return 2 + references


@dataclass(frozen=True)
class OwnerInfo:
    """Where the owner's things are."""

    process: int
    address: tuple[str, int]  # of the engine
    stream: tuple[str, int] | None  # of the reference raw_tcp
    descriptor: int  # of the memory that the reference nt_t2 reads; -1: none
    runtime: str


@dataclass(frozen=True)
class Source:
    """A cache of the owner."""

    addrs: list[int]
    pages: str


class _Caches:
    """An engine, and one cache after the other."""

    def __init__(self, actor: Actor, cluster_id: int, setup: Setup) -> None:
        self._cluster_id = cluster_id
        size = setup.cache_bytes
        self._arena = None if setup.path.allocated else Arena(size, shared=False)
        spec = EngineSpec(
            cluster_id,
            listen=engines.LISTEN,
            sync_timeout_ms=_TIMEOUT_MS,
            device_pool=size if setup.path.allocated else 0,
        )
        self.opened = engines.open_engine(actor, spec)
        self.manager = actor.datadist.cache_manager

    def make(self, work: Work) -> Cache:
        desc = work.geometry.desc()
        key = BlocksCacheKey(self._cluster_id, 0)
        if self._arena is None:
            return self.manager.allocate_blocks_cache(desc, key)
        return self.manager.register_blocks_cache(desc, self._arena.addresses(work), key)

    def release(self, cache: Cache) -> None:
        self.manager.unregister_cache(cache.cache_id)


class Owner(sides.Owner):
    """Has a cache for each work in turn, and what the references read."""

    def __init__(self, actor: Actor, setup: Setup) -> None:
        self._actor, self._setup = actor, setup
        self._caches = _Caches(actor, OWNER, setup)
        self._shared: Arena | None = None
        self._stream: tuple[str, int] | None = None
        if setup.library and setup.path.limit == "nt_t2":
            # Shared memory of the same kind as the pool's.
            self._shared = Arena(setup.cache_bytes, shared=True)
        if setup.library and setup.path.limit == "raw_tcp":
            self._stream = self._serve_stream()

    def _serve_stream(self) -> tuple[str, int]:
        reference = Reference(self._setup.library)
        room = np.empty(max(work.tensors * work.moved for work in self._setup.works), np.uint64)
        listener = socket.create_server((engines.LOCAL, 0))

        def serve() -> None:
            with listener:
                connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                reference.serve_stream(connection.fileno(), room)

        threading.Thread(target=serve, daemon=True).start()
        host, port = listener.getsockname()
        return host, port

    def info(self) -> OwnerInfo:
        """Return where things are."""
        return OwnerInfo(
            os.getpid(),
            self._caches.opened.address,
            self._stream,
            -1 if self._shared is None else self._shared.descriptor,
            self._caches.opened.runtime,
        )

    def fill(self, work: Work) -> Source:
        """Make the cache of a work."""
        self._cache = self._caches.make(work)
        addrs = list(self._cache.tensor_addrs)
        work.fill(tensors_at(addrs, work), OWNER)
        if self._shared is not None:
            work.fill(tensors_at(self._shared.addresses(work), work), OWNER)
        return Source(addrs, page_kind(addrs[0]))

    def end(self) -> None:
        """Release the cache."""
        self._caches.release(self._cache)

    def close(self) -> None:
        """Finalize the engine."""
        self._actor.finalize()


class Puller(sides.Puller):
    """Pulls by this package and by the references."""

    def __init__(self, actor: Actor, setup: Setup, owner: OwnerInfo) -> None:
        self._actor, self._path, self._owner = actor, setup.path, owner
        self._peer = ClusterAddress(OWNER, owner.address)
        self._caches = _Caches(actor, PULLER, setup)
        self._reference = Reference(setup.library) if setup.library else None
        if self._reference is None:
            return
        self._local = Arena(setup.cache_bytes, shared=setup.path.allocated)
        if owner.descriptor >= 0:
            self._mapping = attach(owner.process, owner.descriptor, setup.cache_bytes)
        if owner.stream is not None:
            self._stream = socket.create_connection(owner.stream)
            self._stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def begin(self, work: Work, source: Source) -> Begun:
        """Make a cache, link, and see whether the link uses the path that is to be measured."""
        self._cache = self._caches.make(work)
        engines.link(self._actor, self._peer, _TIMEOUT_MS)
        found = engines.path_to(self._actor, OWNER, self._path.allocated)
        if found.path != self._path.transport:
            return Begun(obstacle=f"{found.path}: {found.reason}")
        own = list(self._cache.tensor_addrs)
        pulls = {PACKAGE: self._by_this_package()}
        if self._reference is not None:
            pulls.update(self._by_references(self._reference, work, source.addrs, own))
        self.begin_rounds(work, pulls, own)
        pages = page_kind(own[0])
        return Begun(pages if pages == source.pages else f"{pages} (owner: {source.pages})")

    def _by_this_package(self) -> Pull:
        key, cache = BlocksCacheKey(OWNER, 0), self._cache
        pull_blocks = self._caches.manager.pull_blocks
        clock = time.perf_counter_ns

        def timed(src: Blocks, dst: Blocks) -> float:
            start = clock()
            pull_blocks(key, cache, src, dst)
            return (clock() - start) / 1e3

        return timed

    def _by_references(
        self, reference: Reference, work: Work, theirs: list[int], own: list[int]
    ) -> dict[str, Pull]:
        size, at = work.block_bytes, work.addresses
        local = self._local.addresses(work)
        work.fill(tensors_at(local, work), OWNER)

        def ref(src: Blocks, dst: Blocks) -> float:
            return reference.copy_local(at(local, src), at(own, dst), size)

        def readv(src: Blocks, dst: Blocks) -> float:
            return reference.pull_readv(self._owner.process, at(theirs, src), at(own, dst), size)

        def mapped(src: Blocks, dst: Blocks) -> float:
            shared = consecutive(address_of(self._mapping), work)
            return reference.pull_mapped(at(shared, src), at(own, dst), size)

        def stream(src: Blocks, dst: Blocks) -> float:
            return reference.pull_stream(self._stream.fileno(), at(theirs, src), at(own, dst), size)

        limits: dict[str, Pull] = {"readv_t2": readv, "nt_t2": mapped, "raw_tcp": stream}
        return {"ref": ref, self._path.limit: limits[self._path.limit]}

    def end(self) -> None:
        """Unlink, release the cache."""
        engines.unlink(self._actor, self._peer, _TIMEOUT_MS)
        self._caches.release(self._cache)

    def close(self) -> None:
        """Finalize the engine."""
        self._actor.finalize()
