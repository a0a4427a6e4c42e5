# SPDX-License-Identifier: Apache-2.0
"""The two processes of a benchmark: the owner of the caches, and the puller, which times.

Both use the package as its clients do. In each round the puller does the same work by this package,
by a copy inside itself (``ref``), and by the C loop that shows what the machine allows on this
path. The order changes from pull to pull, and each one has random blocks of its own.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    DataType,
    LLMClusterInfo,
    LLMConfig,
    LLMDataDist,
    LLMRole,
    LLMStatusCode,
    Placement,
    backend_info,
)

from .memory import Arena, address_of, attach, page_kind, words_at
from .reference import Reference
from .work import Numbers, Work

OWNER, PULLER = 1, 2
_LOCAL = "127.0.0.1"
_TIMEOUT_MS = 60000
_SEED = 20240229


@dataclass(frozen=True)
class PathPlan:
    """One path, and what it is compared with."""

    name: str  # what --path calls it
    transport: str  # of LLM_DATADIST_MOCK_TRANSPORT
    allocated: bool  # memory from the pool; else registered
    limit: str  # the reference that shows what the machine allows
    latency_target_us: float  # W3: what may be added to the limit's time

    @property
    def memory(self) -> str:
        return "allocated" if self.allocated else "registered"


PATHS = {
    path.name: path
    for path in (
        PathPlan("registered", "cma", False, "readv_t2", 2.0),
        PathPlan("allocated", "mapped", True, "nt_t2", 2.0),
        PathPlan("tcp", "tcp", False, "raw_tcp", 10.0),
    )
}


@dataclass(frozen=True)
class Spread:
    """A median over rounds, with the extremes."""

    median: float
    min: float
    max: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Result:
    """One work on one path."""

    path: str
    work: str
    bytes: int
    pages: str
    rounds: int
    pulls_per_round: int
    microseconds: dict[str, Spread]  # "llm_datadist", "ref" and the limit
    ratio: dict[str, Spread]  # speed of llm_datadist to that of each reference
    added_us: dict[str, Spread]  # time of llm_datadist less that of each reference


@dataclass(frozen=True)
class Unavailable:
    """Instead of results: this machine does not have the path."""

    path: str
    reason: str


class _Caches:
    """An engine, and one cache after the other."""

    def __init__(self, cluster_id: int, path: PathPlan, size: int) -> None:
        self._cluster_id, self._path = cluster_id, path
        self.arena = None if path.allocated else Arena(size, shared=False)
        config = LLMConfig()
        config.device_id = 0
        config.enable_cache_manager = True
        config.enable_remote_cache_accessible = True
        config.sync_kv_timeout = _TIMEOUT_MS
        config.listen_ip_info = f"{_LOCAL}:0"
        if path.allocated:
            config.mem_pool_cfg = json.dumps({"memory_size": size, "page_shift": 16})
        self.engine = LLMDataDist(LLMRole.MIX, cluster_id)
        self.engine.init(config.generate_options())
        self.manager = self.engine.cache_manager

    def make(self, work: Work) -> Cache:
        desc = CacheDesc(
            work.tensors, (work.blocks, work.block_bytes), DataType.DT_UINT8, Placement.DEVICE
        )
        key = BlocksCacheKey(self._cluster_id, 0)
        if self.arena is None:
            return self.manager.allocate_blocks_cache(desc, key)
        addrs = self.arena.addresses(work.tensors, work.tensor_bytes)
        return self.manager.register_blocks_cache(desc, addrs, key)

    def release(self, cache: Cache) -> None:
        self.manager.unregister_cache(cache.cache_id)


def _tensors(addrs: Sequence[int], work: Work) -> list[Numbers]:
    return [words_at(addr, work.tensor_bytes) for addr in addrs]


# ---- the owner ----


def own(puller: Connection, library: str, path: PathPlan, works: Sequence[Work]) -> None:
    """Be the owner: make a cache for each work in turn."""
    size = max(work.cache_bytes for work in works)
    caches = _Caches(OWNER, path, size)
    # What nt_t2 reads: shared memory of the same kind as the pool's.
    shared = Arena(size, shared=True) if path.allocated else None
    most = max(work.tensors * work.moved for work in works)
    listener = socket.create_server((_LOCAL, 0))
    server = threading.Thread(
        target=_serve_stream, args=(listener, Reference(library), most), daemon=True
    )
    server.start()
    descriptor = shared.descriptor if shared is not None else -1
    puller.send((os.getpid(), caches.engine.listen_address, listener.getsockname(), descriptor))
    for work in works:
        cache = caches.make(work)
        addrs = list(cache.tensor_addrs)
        work.fill(_tensors(addrs, work))
        if shared is not None:
            work.fill(_tensors(shared.addresses(work.tensors, work.tensor_bytes), work))
        puller.send((addrs, page_kind(addrs[0])))
        try:
            puller.recv()  # the puller is done with it, and has unlinked
        except EOFError:
            break  # it gave up, and says itself why
        caches.release(cache)
    caches.engine.finalize()


def _serve_stream(listener: socket.socket, reference: Reference, most: int) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reference.serve_stream(connection.fileno(), np.empty(most, np.uint64))


# ---- the puller ----

Pull = Callable[[Numbers, Numbers], float]  # block lists of both sides; returns microseconds


def pull(
    owner: Connection,
    report: Connection,
    library: str,
    path: PathPlan,
    works: Sequence[Work],
    rounds: int,
) -> None:
    """Be the puller: send a Result for each work and a dict about the machine, or Unavailable."""
    size = max(work.cache_bytes for work in works)
    caches = _Caches(PULLER, path, size)
    local = Arena(size, shared=path.allocated)
    reference = Reference(library)
    process, address, stream_address, descriptor = owner.recv()
    shared = attach(process, descriptor, size) if descriptor >= 0 else None
    with socket.create_connection(stream_address) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for work in works:
            addrs, owner_pages = owner.recv()
            cache = caches.make(work)
            own_addrs = list(cache.tensor_addrs)
            local_addrs = local.addresses(work.tensors, work.tensor_bytes)
            work.fill(_tensors(own_addrs, work))
            work.fill(_tensors(local_addrs, work))
            link = _link(caches.engine, address)
            obstacle = _obstacle(caches.engine, path)
            if obstacle:
                report.send(Unavailable(path.name, obstacle))
                return
            if path.limit == "readv_t2":
                limit = _readv(reference, process, work, addrs, own_addrs)
            elif path.limit == "nt_t2":
                assert shared is not None
                shared_first = address_of(shared)
                shared_addrs = [shared_first + i * work.tensor_bytes for i in range(work.tensors)]
                limit = _mapped(reference, work, shared_addrs, own_addrs)
            else:
                limit = _stream(reference, stream.fileno(), work, addrs, own_addrs)
            pulls = {
                "llm_datadist": _product(caches, cache),
                "ref": _local_copy(reference, work, local_addrs, own_addrs),
                path.limit: limit,
            }
            times = _measure(work, pulls, _tensors(own_addrs, work), rounds)
            pages = page_kind(own_addrs[0])
            if owner_pages != pages:
                pages = f"{pages} (owner: {owner_pages})"
            report.send(_result(path, work, pages, rounds, times))
            _unlink(caches.engine, link)
            caches.release(cache)
            owner.send("done")
    report.send(_machine(reference))
    caches.engine.finalize()


def _measure(
    work: Work, pulls: dict[str, Pull], tensors: list[Numbers], rounds: int
) -> dict[str, list[float]]:
    """Return for each way to pull the median time of each round."""
    random = np.random.default_rng(_SEED)
    names = list(pulls)
    for name in names:
        src, dst = work.block_list(random), work.block_list(random)
        work.clear(tensors, dst)
        pulls[name](src, dst)
        work.check(tensors, src, dst, name)
    medians: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(work.pulls):
            for name in names:
                times[name].append(pulls[name](work.block_list(random), work.block_list(random)))
            # Nobody is always the one who finds the caches as his rival left them.
            names.append(names.pop(0))
        names.append(names.pop(0))
        for name, each in times.items():
            medians[name].append(statistics.median(each))
    return medians


def _product(caches: _Caches, cache: Cache) -> Pull:
    key = BlocksCacheKey(OWNER, 0)
    pull_blocks = caches.manager.pull_blocks
    clock = time.perf_counter_ns

    def timed(src: Numbers, dst: Numbers) -> float:
        start = clock()
        pull_blocks(key, cache, src, dst)
        return (clock() - start) / 1e3

    return timed


def _local_copy(reference: Reference, work: Work, local: list[int], own: list[int]) -> Pull:
    return lambda src, dst: reference.copy_local(
        work.addresses(local, src), work.addresses(own, dst), work.block_bytes
    )


def _readv(
    reference: Reference, process: int, work: Work, theirs: list[int], own: list[int]
) -> Pull:
    return lambda src, dst: reference.pull_readv(
        process, work.addresses(theirs, src), work.addresses(own, dst), work.block_bytes
    )


def _mapped(reference: Reference, work: Work, shared: list[int], own: list[int]) -> Pull:
    return lambda src, dst: reference.pull_mapped(
        work.addresses(shared, src), work.addresses(own, dst), work.block_bytes
    )


def _stream(
    reference: Reference, stream: int, work: Work, theirs: list[int], own: list[int]
) -> Pull:
    return lambda src, dst: reference.pull_stream(
        stream, work.addresses(theirs, src), work.addresses(own, dst), work.block_bytes
    )


def _link(engine: LLMDataDist, address: tuple[str, int]) -> LLMClusterInfo:
    cluster = LLMClusterInfo()
    cluster.remote_cluster_id = OWNER
    cluster.append_local_ip_info(_LOCAL, 0)
    cluster.append_remote_ip_info(*address)
    status, _ = engine.link_clusters([cluster], _TIMEOUT_MS)
    if status != LLMStatusCode.LLM_SUCCESS:
        raise RuntimeError(f"link_clusters answered {status}")
    return cluster


def _unlink(engine: LLMDataDist, cluster: LLMClusterInfo) -> None:
    status, _ = engine.unlink_clusters([cluster], _TIMEOUT_MS)
    if status != LLMStatusCode.LLM_SUCCESS:
        raise RuntimeError(f"unlink_clusters answered {status}")


def _obstacle(engine: LLMDataDist, path: PathPlan) -> str:
    """Say why the link does not use the path that is to be measured; "": it does."""
    kind = "ALLOCATED" if path.allocated else "REGISTERED"
    for found in engine.link_paths(OWNER):
        if found.memory.name == kind:
            return "" if found.path == path.transport else f"{found.path}: {found.reason}"
    return f"the link lists no path for {path.name} memory"


def _result(
    path: PathPlan, work: Work, pages: str, rounds: int, times: dict[str, list[float]]
) -> Result:
    product = times["llm_datadist"]
    references = [name for name in times if name != "llm_datadist"]
    return Result(
        path=path.name,
        work=work.name,
        bytes=work.moved_bytes,
        pages=pages,
        rounds=rounds,
        pulls_per_round=work.pulls,
        microseconds={name: Spread.of(values) for name, values in times.items()},
        ratio={
            name: Spread.of([theirs / ours for theirs, ours in zip(times[name], product)])
            for name in references
        },
        added_us={
            name: Spread.of([ours - theirs for theirs, ours in zip(times[name], product)])
            for name in references
        },
    )


def _machine(reference: Reference) -> dict[str, Any]:
    info = backend_info()
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "runtime": f"{info.name} {info.version}",
        "kernels": reference.kernels,
    }
