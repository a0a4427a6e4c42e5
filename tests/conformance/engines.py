# SPDX-License-Identifier: Apache-2.0
"""Engines of the test's own process, for the rules that need no second one: made in a moment, and
their bytes are at hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    CacheKey,
    CacheKeyByIdAndIndex,
    DataType,
    LLMClusterInfo,
    LLMDataDist,
    Placement,
)
from llm_datadist.cache_manager import CacheManager
from llm_datadist.introspection import MemoryKind
from llm_datadist.testing import device
from llm_datadist.testing import memory as memories
from llm_datadist.testing.actor import EngineSpec
from llm_datadist.testing.memory import Memory
from tests.conformance.paths import LISTEN, Path
from tests.conformance.stage import OWNER, PULLER

Bytes = NDArray[np.uint8]

UNSET = 2**64 - 1
POOL = 8 << 20
HOST, DEVICE = Placement.HOST, Placement.DEVICE
PLACEHOLDER = CacheKey(0, UNSET)

_seeds = count(1)


def by_request(req_id: int, model_id: int = 0) -> CacheKey:
    """A key of the owner."""
    return CacheKey(OWNER, req_id, model_id)


def by_prefix(prefix_id: int, model_id: int = 0) -> CacheKey:
    """A key of the owner for its prefix map."""
    return CacheKey(OWNER, UNSET, model_id, prefix_id)


def by_id(held: Held | int, batch_index: int = 0) -> CacheKeyByIdAndIndex:
    """An entry of a cache of the owner."""
    cache_id = held if isinstance(held, int) else held.id
    return CacheKeyByIdAndIndex(OWNER, cache_id, batch_index)


def blocks_of(model_id: int = 0) -> BlocksCacheKey:
    """The paged cache of a model at the owner."""
    return BlocksCacheKey(OWNER, model_id)


@dataclass
class Tensor:
    """The bytes of one tensor, [entry, byte], wherever they are."""

    address: int
    shape: tuple[int, int]
    device_id: int | None  # which has to copy them in and out

    def __getitem__(self, index: Any) -> Bytes:
        entries, stride = self.shape
        flat = memories.read(self.address, entries * stride, self.device_id)
        return flat.reshape(self.shape)[index]

    def __setitem__(self, index: Any, content: Any) -> None:
        whole = self[:]
        whole[index] = content
        if self.device_id is not None:
            memories.write(self.address, whole, self.device_id)


@dataclass
class Held:
    """A cache, its bytes as they are, and what they were at first: [tensor, entry, byte]."""

    cache: Cache
    device_id: int = 0
    first: Bytes = field(init=False)

    def __post_init__(self) -> None:
        # Bytes that no other cache has anywhere, so a misplaced one is seen.
        self.tensors = tensors_of(self.cache, self.device_id)
        shape = (len(self.tensors), *self.tensors[0].shape)
        self.first = np.random.default_rng(next(_seeds)).integers(0, 256, shape, np.uint8)
        for tensor, content in zip(self.tensors, self.first):
            tensor[:] = content

    @property
    def id(self) -> int:
        return self.cache.cache_id

    @property
    def now(self) -> Bytes:
        return np.stack([tensor[:] for tensor in self.tensors])


@dataclass
class EngineHere:
    """One LLMDataDist with caches of the kind of memory that its path serves."""

    datadist: LLMDataDist
    memory: MemoryKind
    # Peers may read it for as long as the engine lives, whatever the test does with its caches.
    registered: list[Memory] = field(default_factory=list)
    device_id: int = 0

    @property
    def manager(self) -> CacheManager:
        return self.datadist.cache_manager

    def contiguous(
        self,
        entries: int = 4,
        stride: int = 256,
        keys: Sequence[CacheKey] = (),
        tensors: int = 4,
        placement: Placement = DEVICE,
        memory: MemoryKind | None = None,
        remote_accessible: bool | None = None,
    ) -> Held:
        """A filled cache of entries of stride bytes."""
        desc = CacheDesc(tensors, [entries, stride], DataType.DT_INT8, placement)
        if (memory or self.memory) is MemoryKind.ALLOCATED:
            return self.held(self.manager.allocate_cache(desc, keys))
        addrs = self.addresses(desc)
        return self.held(self.manager.register_cache(desc, addrs, keys, remote_accessible))

    def paged(
        self,
        blocks: int = 16,
        block_bytes: int = 64,
        model_id: int | None = None,
        tensors: int = 4,
        placement: Placement = DEVICE,
        memory: MemoryKind | None = None,
        remote_accessible: bool | None = None,
    ) -> Held:
        """A filled cache of blocks of block_bytes."""
        desc = CacheDesc(tensors, [blocks, block_bytes], DataType.DT_INT8, placement)
        key = None if model_id is None else BlocksCacheKey(self.datadist.cluster_id, model_id)
        if (memory or self.memory) is MemoryKind.ALLOCATED:
            return self.held(self.manager.allocate_blocks_cache(desc, key))
        addrs = self.addresses(desc)
        return self.held(self.manager.register_blocks_cache(desc, addrs, key, remote_accessible))

    def held(self, cache: Cache) -> Held:
        """Fill a cache."""
        return Held(cache, self.device_id)

    def addresses(self, desc: CacheDesc) -> list[int]:
        """Zeroed memory to register as such a cache."""
        own = [
            memories.of_client(desc.size, desc.placement, self.device_id)
            for _ in range(desc.num_tensors)
        ]
        self.registered += own
        copied_by = memories.copied_by(desc.placement, self.device_id)
        for each in own:
            memories.write(each.address, np.zeros(desc.size, np.uint8), copied_by)
        return [each.address for each in own]


def tensors_of(cache: Cache, device_id: int = 0) -> list[Tensor]:
    """The bytes of a cache; nothing keeps them alive."""
    desc = cache.cache_desc
    copied_by = memories.copied_by(desc.placement, device_id)
    shape = desc.shape[0], desc.size // desc.shape[0]
    return [Tensor(addr, shape, copied_by) for addr in cache.tensor_addrs]


@dataclass
class Engines:
    """Makes the engines of one test, on a path if it is about bytes."""

    monkeypatch: pytest.MonkeyPatch
    made: list[EngineHere] = field(default_factory=list)

    def open(
        self,
        cluster_id: int,
        path: Path | None = None,
        one_sided: bool = True,
        pool: int = POOL,
        host_pool: int = 0,
        page_shift: int | None = None,
        timeout_ms: int | None = None,
    ) -> EngineHere:
        """An engine that listens. Pools in bytes; 0 is none."""
        if path is not None:
            for name, value in path.environment.items():
                self.monkeypatch.setenv(name, value)
        spec = EngineSpec(
            cluster_id,
            listen=LISTEN,
            one_sided=one_sided,
            sync_timeout_ms=timeout_ms,
            device_pool=pool,
            host_pool=host_pool,
            page_shift=page_shift,
            several_in_a_process=True,
            options=device.options_of(device.half() + len(self.made)),
        )
        datadist = spec.open()
        memory = MemoryKind.ALLOCATED if path is None else path.memory
        self.made.append(EngineHere(datadist, memory, device_id=device.id_of(spec.options)))
        return self.made[-1]

    def two(
        self, path: Path | None = None, one_sided: bool = True, **config: int | None
    ) -> tuple[EngineHere, EngineHere]:
        """An owner and a puller, not linked: in one-sided mode memory is registered before."""
        owner = self.open(OWNER, path, one_sided, **config)
        return owner, self.open(PULLER, path, one_sided, **config)

    def link(self, puller: EngineHere, owner: EngineHere) -> None:
        """Link, which must succeed."""
        answer = puller.datadist.link_clusters([cluster_of(owner)], 5000)
        assert answer == (0, [0])

    def unlink(self, puller: EngineHere, owner: EngineHere) -> None:
        """Unlink both ends, which must succeed."""
        answer = puller.datadist.unlink_clusters([cluster_of(owner)], 5000)
        assert answer == (0, [0])


def cluster_of(engine: EngineHere) -> LLMClusterInfo:
    """What others link to this engine with."""
    info = LLMClusterInfo()
    info.remote_cluster_id = engine.datadist.cluster_id
    info.append_local_ip_info("127.0.0.1", 0)
    info.append_remote_ip_info(*engine.datadist.listen_address)
    return info


def pool_config(size: int, page_shift: int | None = None) -> str:
    """The JSON of a pool."""
    shift = {} if page_shift is None else {"page_shift": page_shift}
    return json.dumps({"memory_size": size, **shift})


@contextmanager
def open_engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engines]:
    engines = Engines(monkeypatch)
    yield engines
    # The puller first, as a client would.
    for engine in reversed(engines.made):
        engine.datadist.finalize()
    for engine in engines.made:
        for each in engine.registered:
            each.release()
