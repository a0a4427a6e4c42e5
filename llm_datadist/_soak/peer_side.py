# SPDX-License-Identifier: Apache-2.0
"""What the peers of the soak do: each function is a command for a peer, whose Actor it gets."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheKeyByIdAndIndex,
    CacheTask,
    LayerSynchronizer,
    LLMDataDistWarning,
    LLMException,
    LLMRole,
    LLMStatusCode,
    Placement,
    RegisterMemStatus,
    TransferConfig,
    TransferWithCacheKeyConfig,
    backend_info,
)
from llm_datadist.cache_manager import CacheManager
from llm_datadist.testing import Geometry
from llm_datadist.testing.actor import Actor, ClusterAddress, EngineSpec, HeldCache
from llm_datadist.testing.pattern import Words
from llm_datadist.testing.resources import Resources, resident_bytes
from llm_datadist.utils.log import get_logger

from . import blocks
from .blocks import Tags, WrongBlock
from .pace import FACTOR
from .plan import CACHES, MAPPED_CACHE, ROWS_CACHE, TENSORS_PER_LAYER, Transfer

if TYPE_CHECKING:
    from llm_datadist._layers import PullKeywords

SUCCESS = "LLM_SUCCESS"
# What became of a transfer whose engine was replaced before it began.
NOT_BEGUN = "not begun"
_LISTEN = "127.0.0.1:0"
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Outcome:
    """How a call ended, or the last of several equal calls."""

    status: str
    text: str
    seconds: float  # of the one that took longest, less what its thread waited for a CPU
    waited: float  # for a CPU, by that thread
    calls: int = 1

    @property
    def succeeded(self) -> bool:
        """Whether all of them did."""
        return self.status == SUCCESS


@dataclass(frozen=True)
class Opened:
    """An engine with its caches."""

    address: tuple[str, int]
    caches: dict[str, tuple[int, list[int]]]  # id, and the addresses of the tensors


@dataclass(frozen=True)
class Target:
    """What the caller of a transfer knows of the other side."""

    cluster_id: int
    cache_id: int
    layers: Sequence[Sequence[int]]  # in request mode: the addresses of its tensors


@dataclass(frozen=True)
class _Engine:
    """What transfers use of an engine, whatever becomes of it while they run."""

    incarnation: int
    manager: CacheManager
    caches: dict[str, Cache]


def prepare(actor: Actor) -> Resources:
    """Have there what the first engine of a process leaves behind, and tell what is held then."""
    # What is refused is counted; a line for each would hide what is not.
    get_logger().disabled = True
    warnings.simplefilter("ignore", LLMDataDistWarning)
    backend_info()
    return actor.reset()


def open_engine(
    actor: Actor,
    spec: EngineSpec,
    incarnation: int,
    geometry: Geometry,
    memory_kind: str,
    tags: Mapping[str, Tags],
) -> Opened:
    """Open the engine and make its caches."""
    address = actor.init(spec)
    assert address is not None
    actor.kept = _Engine(incarnation, actor.datadist.cache_manager, {})
    made = {name: add_cache(actor, name, geometry, memory_kind, tags[name]) for name in CACHES}
    return Opened(address, made)


def restart(actor: Actor) -> Outcome:
    """Finalize the engine, after which all memory is given back."""
    return _timed(actor.reset)


def add_cache(
    actor: Actor, name: str, geometry: Geometry, memory_kind: str, tags: Tags
) -> tuple[int, list[int]]:
    """Make one of CACHES and fill it; returns its id and the addresses of its tensors."""
    if name == MAPPED_CACHE:
        made = actor.allocate(name, geometry, None, CACHES[name])
    elif name == ROWS_CACHE:
        made = _add_rows(actor, geometry, memory_kind)
    else:
        made = actor.register(name, geometry, None, CACHES[name], memory_kind=memory_kind)
    actor.kept.caches[name] = actor.caches[name].cache
    everything = np.arange(geometry.num_blocks)
    for index, tensor in enumerate(_tensors(actor, name)):
        blocks.fill(tensor, everything, tags[index])
    return made


def _add_rows(actor: Actor, geometry: Geometry, memory_kind: str) -> tuple[int, list[int]]:
    """Register the contiguous cache, in which an entry of the batch is a block."""
    memories = actor.memories(geometry, Placement.DEVICE, memory_kind)
    addrs = [each.address for each in memories]
    cache = actor.datadist.cache_manager.register_cache(geometry.desc(), addrs)
    actor.caches[ROWS_CACHE] = HeldCache(cache, geometry, memories, addrs)
    return cache.cache_id, addrs


def drop_cache(actor: Actor, name: str) -> Outcome:
    """Deallocate or unregister a cache; its memory stays until release_cache."""
    return _timed(actor.deallocate if name == MAPPED_CACHE else actor.unregister, name)


def register_for_a_moment(actor: Actor) -> Outcome:
    """Register a small cache and unregister it. The latter waits until no peer is served from it,
    and so orders what was moved before with what is moved later, also for ThreadSanitizer.
    """
    return _timed(_register_for_a_moment, actor)


def _register_for_a_moment(actor: Actor) -> None:
    name = "for a moment"
    actor.register(name, Geometry(num_tensors=2, num_blocks=1), None)
    actor.unregister(name)
    release_cache(actor, name)


def release_cache(actor: Actor, name: str) -> None:
    """Give back the memory under a cache that was dropped."""
    for each in actor.caches.pop(name).memories:
        each.release()


def _tensors(actor: Actor, name: str) -> list[Words]:
    held = actor.caches[name]
    return [held.tensor(index) for index in range(held.geometry.num_tensors)]


def verify(actor: Actor, tags: Mapping[str, Tags]) -> list[WrongBlock]:
    """Look at every byte of these caches."""
    wrong = []
    for name, wanted in tags.items():
        for index, tensor in enumerate(_tensors(actor, name)):
            wrong += blocks.wrong_blocks(name, index, tensor, wanted[index])
    return wrong


def refill(
    actor: Actor,
    name: str,
    places: Sequence[int],
    fresh: Tags,
    begun: tuple[Tags, Tags] | None = None,
) -> list[WrongBlock]:
    """Fill blocks of all tensors anew.

    Args:
        actor: of this process.
        name: of the cache.
        places: the blocks.
        fresh: their new tags, [tensor, place], as the next two.
        begun: what they had before a transfer that failed, and what that was to bring; the blocks
            are looked at first.

    Returns:
        What is neither.
    """
    wrong = []
    where = np.asarray(places)
    for index, tensor in enumerate(_tensors(actor, name)):
        if begun is not None:
            before, sent = begun
            wrong += blocks.unexplained_bytes(
                name, index, tensor, where, before[index], sent[index]
            )
        blocks.fill(tensor, where, fresh[index])
    return wrong


def resident(actor: Actor) -> int:
    """Return the resident memory of this process, without what the allocator keeps back."""
    gc.collect()
    _libc.malloc_trim(0)
    return resident_bytes(os.getpid())


# ------------------------------------------------------------------------------------------ calls


def link(actor: Actor, peer: ClusterAddress, timeout_ms: int) -> Outcome:
    """Call link_clusters for one peer."""
    return _timed(_status_of, actor.link, [peer], timeout_ms)


def unlink(actor: Actor, peer: ClusterAddress, timeout_ms: int, force: bool) -> Outcome:
    """Call unlink_clusters for one peer."""
    return _timed(_status_of, actor.unlink, [peer], timeout_ms, force)


class _Refused(Exception):
    """A status that a call returned."""


def _status_of(call: Callable[..., Any], *args: Any) -> None:
    answer = call(*args)
    if answer.status != LLMStatusCode.LLM_SUCCESS:
        raise _Refused(answer.status.name, answer.details[0])


def join(actor: Actor, name: str, members: Sequence[int]) -> tuple[Outcome, int]:
    """Call link for a communicator of these clusters; its id comes with the outcome."""
    ids = [0]

    def call() -> None:
        ranks = {cluster_id: rank for rank, cluster_id in enumerate(sorted(members))}
        ids[0] = actor.datadist.link(name, ranks, "{}")

    return _timed(call), ids[0]


def is_joined(actor: Actor, comm_id: int) -> bool | None:
    """Tell whether all members are there; None: not yet."""
    state = actor.datadist.query_register_mem_status(comm_id)
    return None if state is RegisterMemStatus.PREPARING else state is RegisterMemStatus.OK


def leave(actor: Actor, comm_id: int) -> Outcome:
    """Call unlink for a communicator."""
    return _timed(actor.datadist.unlink, comm_id)


def switch_role(actor: Actor, listen: bool) -> Outcome:
    """Call switch_role."""
    options = {"llm.listenIpInfo": _LISTEN} if listen else {}
    role = LLMRole.PROMPT if listen else LLMRole.DECODER
    return _timed(actor.datadist.switch_role, role, options)


def listen_address(actor: Actor) -> tuple[str, int] | None:
    """Tell where the engine listens."""
    return actor.datadist.listen_address


def transfer(
    actor: Actor,
    what: Transfer,
    incarnation: int,
    there: Target,
) -> Outcome:
    """Make a transfer, again and again as long as it says; the first failure ends it.

    Args:
        actor: of this process.
        what: to do.
        incarnation: of the engine that is to do it; it may have been replaced meanwhile.
        there: the other peer.
    """
    engine: _Engine | None = actor.kept
    if engine is None or engine.incarnation != incarnation:
        return Outcome(NOT_BEGUN, "the engine is another one", 0.0, 0.0, 0)
    cache = engine.caches[what.own_cache]
    call = _CALLS[what.kind]
    end = time.monotonic() + what.repeat_ms / 1000 * FACTOR
    calls, seconds, waited = 0, 0.0, 0.0
    while True:
        outcome = _timed(call, engine.manager, cache, what, there)
        calls += 1
        seconds, waited = max((seconds, waited), (outcome.seconds, outcome.waited))
        if not outcome.succeeded or time.monotonic() >= end:
            return Outcome(outcome.status, outcome.text, seconds, waited, calls)


def _key(what: Transfer, there: Target) -> BlocksCacheKey:
    return BlocksCacheKey(there.cluster_id, CACHES[what.other_cache] or 0)


def _ranges(what: Transfer) -> PullKeywords:
    if what.layers is None:
        return {}
    return {"src_layer_range": what.layers, "dst_layer_range": what.layers}


def _pull(manager: CacheManager, cache: Cache, what: Transfer, there: Target) -> None:
    manager.pull_blocks(_key(what, there), cache, what.src, what.dst, **_ranges(what))


def _pull_task(manager: CacheManager, cache: Cache, what: Transfer, there: Target) -> None:
    key = _key(what, there)
    _finish(what, manager.pull_blocks_async(key, cache, what.src, what.dst, **_ranges(what)))


def _push(manager: CacheManager, cache: Cache, what: Transfer, there: Target) -> None:
    key = _key(what, there)
    manager.push_blocks(key, cache, what.src, what.dst, what.layers, what.layers)


def _push_task(manager: CacheManager, cache: Cache, what: Transfer, there: Target) -> None:
    key = _key(what, there)
    _finish(
        what, manager.push_blocks_async(key, cache, what.src, what.dst, what.layers, what.layers)
    )


def _row_pull(manager: CacheManager, cache: Cache, what: Transfer, there: Target) -> None:
    key = CacheKeyByIdAndIndex(there.cluster_id, there.cache_id, what.src[0])
    manager.pull_cache(key, cache, what.dst[0])


def _row_push(manager: CacheManager, cache: Cache, what: Transfer, there: Target) -> None:
    key = CacheKeyByIdAndIndex(there.cluster_id, there.cache_id, what.dst[0])
    manager.push_cache(key, cache, what.src[0])


def _copy(manager: CacheManager, cache: Cache, what: Transfer, _: Target) -> None:
    wanted: dict[int, list[int]] = {}
    for src, dst in zip(what.src, what.dst):
        wanted.setdefault(src, []).append(dst)
    manager.copy_blocks(cache, wanted)


class _Ready(LayerSynchronizer):
    def synchronize_layer(self, layer_index: int, timeout_in_millis: int | None) -> bool:
        return True


def _async(
    manager: CacheManager,
    cache: Cache,
    what: Transfer,
    there: Target,
) -> None:
    layers = what.layers or range(cache.cache_desc.num_tensors // TENSORS_PER_LAYER)
    config: TransferConfig | TransferWithCacheKeyConfig
    if there.layers:
        addrs = [address for layer in layers for address in there.layers[layer]]
        config = TransferConfig(there.cluster_id, addrs, layers)
    else:
        config = TransferWithCacheKeyConfig(_key(what, there), layers, layers)
    _finish(what, manager.transfer_cache_async(cache, _Ready(), [config], what.src, what.dst))


def _finish(what: Transfer, task: CacheTask) -> None:
    """Wait for a task, which is cancelled on the way if the transfer says so."""
    if what.cancel_ms >= 0 and not task.wait(what.cancel_ms * FACTOR):
        task.cancel()
    (status,) = task.get_results()
    failure = task.exception()
    if failure is not None:
        raise failure
    if status != LLMStatusCode.LLM_SUCCESS:
        raise _Refused(status.name, "")


_CALLS: dict[str, Callable[..., None]] = {
    "pull": _pull,
    "pull task": _pull_task,
    "row pull": _row_pull,
    "push": _push,
    "push task": _push_task,
    "row push": _row_push,
    "copy": _copy,
    "async": _async,
}


def _timed(call: Callable[..., Any], *args: Any) -> Outcome:
    start, waited = time.monotonic(), _waited_for_a_cpu()
    status, text = SUCCESS, ""
    try:
        call(*args)
    except LLMException as failure:
        status, text = failure.status_code.name, str(failure)
    except _Refused as refusal:
        status, text = refusal.args
    waited = _waited_for_a_cpu() - waited
    return Outcome(status, text, time.monotonic() - start - waited, waited)


def _waited_for_a_cpu() -> float:
    """Return for how many seconds this thread was ready to run and did not."""
    with open(f"/proc/self/task/{threading.get_native_id()}/schedstat") as schedstat:
        return int(schedstat.read().split()[1]) / 1e9
