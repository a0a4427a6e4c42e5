# SPDX-License-Identifier: Apache-2.0
"""The processes in which the curves are measured, and what each curve tells them to do.

A worker is a peer, which runs functions of this package; what it has is kept by its Actor.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    DataType,
    LLMDataDist,
    LLMStatusCode,
    Placement,
)
from llm_datadist._tools.engines import LISTEN
from llm_datadist._tools.processes import Processes
from llm_datadist.testing.actor import Actor, ClusterAddress, EngineSpec
from llm_datadist.testing.resources import resident_bytes

Figures = dict[str, float]
Address = tuple[str, int]

TENSORS = 8
REPEATS = 51
_BLOCKS, _BLOCK_BYTES = 8, 512
_TENSOR_BYTES = _BLOCKS * _BLOCK_BYTES
# No two tensors touch, so that each is a range of its own.
_TENSOR_STRIDE = 2 * _TENSOR_BYTES
_TIMEOUT_MS = 60000
_PATIENCE = 300.0


@dataclass
class Held:
    """What one process has: Actor.kept."""

    engines: list[LLMDataDist] = field(default_factory=list)
    caches: list[Cache] = field(default_factory=list)
    free: list[int] = field(default_factory=list)  # places for tensors of further caches
    arenas: list[Any] = field(default_factory=list)


class Worker:
    """A peer that runs functions of this module."""

    def __init__(self, processes: Processes, name: str) -> None:
        self._processes, self._name = processes, name
        processes.start(name)
        self.call(get_ready)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self._processes.call(self._name, function, *args)


@contextmanager
def workers(*names: str) -> Iterator[list[Worker]]:
    with Processes(_PATIENCE) as processes:
        yield [Worker(processes, name) for name in names]
        processes.ask(dict.fromkeys(names, (finalize,)))


# ---- what they are told ----


def get_ready(actor: Actor) -> None:
    """Have room for many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    actor.kept = Held()


def finalize(actor: Actor) -> None:
    """Finalize the engines."""
    for engine in actor.kept.engines:
        engine.finalize()


def open_engines(
    actor: Actor, first: int, count: int, one_sided: bool = True, pool: int = 0
) -> list[Address | None]:
    """Open engines with ids from first on; returns where they listen."""
    for cluster_id in range(first, first + count):
        spec = EngineSpec(
            cluster_id,
            listen=LISTEN,
            one_sided=one_sided,
            sync_timeout_ms=_TIMEOUT_MS,
            device_pool=pool,
            page_shift=10,
            several_in_a_process=True,
        )
        actor.kept.engines.append(spec.open())
    return [engine.listen_address for engine in actor.kept.engines]


def make_room(actor: Actor, caches: int) -> None:
    """Get the client's memory for so many caches, every page present."""
    size = caches * TENSORS * _TENSOR_STRIDE
    arena = mmap.mmap(-1, size)
    words = np.frombuffer(arena, np.uint8)
    words[:: mmap.PAGESIZE] = 1
    actor.kept.arenas.append(arena)
    first = words.ctypes.data
    actor.kept.free += range(first, first + size, _TENSOR_STRIDE)


def register_up_to(actor: Actor, count: int) -> None:
    """Have so many caches registered, by model id."""
    while len(actor.kept.caches) < count:
        actor.kept.caches.append(
            register_cache(actor, len(actor.kept.caches), take_addresses(actor))
        )


def register_one_each(actor: Actor) -> None:
    """Register one cache with each engine."""
    for engine in actor.kept.engines:
        actor.kept.caches.append(register_cache(actor, 0, take_addresses(actor), engine))


def take_addresses(actor: Actor) -> list[int]:
    return [actor.kept.free.pop() for _ in range(TENSORS)]


def engine_of(actor: Actor) -> LLMDataDist:
    engine: LLMDataDist = actor.kept.engines[0]
    return engine


def register_cache(
    actor: Actor, model_id: int, addrs: list[int], engine: LLMDataDist | None = None
) -> Cache:
    engine = engine or engine_of(actor)
    desc = CacheDesc(TENSORS, [_BLOCKS, _BLOCK_BYTES], DataType.DT_UINT8, Placement.DEVICE)
    key = BlocksCacheKey(engine.cluster_id, model_id)
    return engine.cache_manager.register_blocks_cache(desc, addrs, key)


def usage(actor: Actor) -> Figures:
    """Return what this process uses."""
    return {
        "threads": len(os.listdir("/proc/self/task")),
        # The listing itself has one.
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,
        "resident": resident_bytes(os.getpid()),
    }


def trim(actor: Actor) -> None:
    """Give back what malloc keeps, so that resident memory counts what is used."""
    ctypes.CDLL(None).malloc_trim(0)


def median_us(action: Callable[[], Any], repeats: int = REPEATS) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        action()
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1e3


def link(actor: Actor, clusters: dict[int, Address]) -> float:
    """Link the first engine to peers in one call; returns microseconds."""
    infos = [ClusterAddress(cluster_id, address).info() for cluster_id, address in clusters.items()]
    start = time.perf_counter_ns()
    status, _ = engine_of(actor).link_clusters(infos, _TIMEOUT_MS)
    took = (time.perf_counter_ns() - start) / 1e3
    if status != LLMStatusCode.LLM_SUCCESS:
        details = {info.link_detail for info in infos} - {""}
        raise RuntimeError(f"link_clusters answered {status}: {details}")
    return took


def unlink(actor: Actor, clusters: dict[int, Address]) -> float:
    """Unlink from peers in one call; returns microseconds."""
    infos = [ClusterAddress(cluster_id, address).info() for cluster_id, address in clusters.items()]
    start = time.perf_counter_ns()
    status, _ = engine_of(actor).unlink_clusters(infos, _TIMEOUT_MS)
    if status != LLMStatusCode.LLM_SUCCESS:
        raise RuntimeError(f"unlink_clusters answered {status}")
    return (time.perf_counter_ns() - start) / 1e3


def trimmed_bytes(worker: Worker) -> float:
    worker.call(trim)
    return float(worker.call(usage)["resident"])
