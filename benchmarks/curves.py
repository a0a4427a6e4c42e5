# SPDX-License-Identifier: Apache-2.0
"""What is measured when the number of caches, links, keys or ids grows.

Each curve has processes of its own: one that measures, and owners. They run functions of this
module and of workers.py.
"""

from __future__ import annotations

import mmap
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_datadist import (
    BlocksCacheKey,
    CacheDesc,
    CacheKey,
    DataType,
    LLMException,
    LLMStatusCode,
    Placement,
)
from llm_datadist.testing.actor import Actor

from .workers import (
    REPEATS,
    Address,
    Figures,
    engine_of,
    link,
    make_room,
    median_us,
    open_engines,
    register_cache,
    register_one_each,
    register_up_to,
    take_addresses,
    trimmed_bytes,
    unlink,
    usage,
    workers,
)

_PULLER, _OWNER = 1, 1000
_KEYS_A_CACHE = 1000
# A page of 1 KiB for each cache of a million keys, and some.
_KEYS_POOL = 2 << 20
_RANDOM = np.random.default_rng(20240229)


@dataclass(frozen=True)
class Row:
    """One point of a curve."""

    n: int
    figures: Figures


# ---- caches ----


def time_registration(actor: Actor) -> Figures:
    """Register and unregister one more cache."""
    addrs = take_addresses(actor)
    manager = engine_of(actor).cache_manager
    register, unregister = [], []
    for _ in range(REPEATS):
        start = time.perf_counter_ns()
        cache = register_cache(actor, len(actor.kept.caches), addrs)
        middle = time.perf_counter_ns()
        manager.unregister_cache(cache.cache_id)
        register.append(middle - start)
        unregister.append(time.perf_counter_ns() - middle)
    actor.kept.free += reversed(addrs)
    return {
        "register_us": statistics.median(register) / 1e3,
        "unregister_us": statistics.median(unregister) / 1e3,
    }


def time_pull(actor: Actor, cluster_id: int, caches: int) -> Figures:
    """Pull one block of a random one of the owner's caches; and the first pull of a link."""
    manager, local = engine_of(actor).cache_manager, actor.kept.caches[0]
    one = np.array([1], np.int64)
    picks = iter(_RANDOM.integers(caches, size=REPEATS * 8 + 4).tolist())

    def pull() -> None:
        manager.pull_blocks(BlocksCacheKey(cluster_id, next(picks)), local, one, one)

    first = median_us(pull, 1)
    steady = median_us(pull, REPEATS * 4)
    # Registering changes what is known of the own memory.
    addrs = take_addresses(actor)
    after = []
    for _ in range(REPEATS):
        cache = register_cache(actor, len(actor.kept.caches), addrs)
        start = time.perf_counter_ns()
        pull()
        after.append(time.perf_counter_ns() - start)
        manager.unregister_cache(cache.cache_id)
    actor.kept.free += reversed(addrs)
    return {
        "first_pull_us": first,
        "pull_us": steady,
        "pull_after_register_us": statistics.median(after) / 1e3,
    }


def registration_curve(counts: Sequence[int]) -> Iterator[Row]:
    """Register and unregister with N caches present."""
    with workers("owner") as (owner,):
        owner.call(open_engines, _OWNER, 1)
        owner.call(make_room, counts[-1] + 1)
        owner.call(time_registration)  # everything is there that is made once
        before = trimmed_bytes(owner)
        for n in counts:
            owner.call(register_up_to, n)
            resident = trimmed_bytes(owner)
            figures = owner.call(time_registration)
            figures["bytes_per_cache"] = (resident - before) / n
            yield Row(n, figures)


def pull_curve(counts: Sequence[int], one_sided: bool) -> Iterator[Row]:
    """Link and pull one block by key with N caches at each end."""
    with workers("owner", "puller") as (owner, puller):
        address = owner.call(open_engines, _OWNER, 1, one_sided)[0]
        puller.call(open_engines, _PULLER, 1, one_sided)
        for worker in (owner, puller):
            worker.call(make_room, counts[-1] + 1)
        for n in counts:
            for worker in (owner, puller):
                worker.call(register_up_to, n)
            trimmed = [trimmed_bytes(worker) for worker in (owner, puller)]
            took = puller.call(link, {_OWNER: address})
            figures = {"link_us": took, **puller.call(time_pull, _OWNER, n)}
            for name, worker, before in zip(("owner", "puller"), (owner, puller), trimmed):
                figures[f"{name}_link_bytes"] = trimmed_bytes(worker) - before
            puller.call(unlink, {_OWNER: address})
            yield Row(n, figures)


# ---- links ----


def time_pull_over_links(actor: Actor, clusters: Sequence[int]) -> Figures:
    """Pull one block over a random link, and unregister a cache that the peers know."""
    manager, local = engine_of(actor).cache_manager, actor.kept.caches[0]
    one = np.array([1], np.int64)
    for cluster_id in clusters:
        manager.pull_blocks(BlocksCacheKey(cluster_id, 0), local, one, one)
    picks = iter(_RANDOM.choice(clusters, size=REPEATS * 8).tolist())

    def pull() -> None:
        manager.pull_blocks(BlocksCacheKey(next(picks), 0), local, one, one)

    def pull_without_link() -> None:
        try:
            manager.pull_blocks(BlocksCacheKey(_PULLER + 1, 0), local, one, one)
        except LLMException as failure:
            if failure.status_code != LLMStatusCode.LLM_NOT_YET_LINK:
                raise

    return {
        "pull_us": median_us(pull, REPEATS * 8),
        "not_linked_us": median_us(pull_without_link),
        **time_registration(actor),
    }


def links_curve(counts: Sequence[int], processes: int) -> Iterator[Row]:
    """N links of one engine to engines in a few processes."""
    names = [f"owner {number}" for number in range(processes)]
    with workers("puller", *names) as (puller, *owners):
        puller.call(open_engines, _PULLER, 1)
        puller.call(make_room, 4)
        puller.call(register_up_to, 1)
        each = -(-counts[-1] // processes)
        clusters: dict[int, Address] = {}
        for index, owner in enumerate(owners):
            first = _OWNER + index * each
            addresses = owner.call(open_engines, first, each)
            owner.call(make_room, each)
            owner.call(register_one_each)
            clusters.update(zip(range(first, first + each), addresses))
        # In turn, so that all owners have links from the first step on.
        order = sorted(clusters, key=lambda cluster_id: (cluster_id - _OWNER) % each)
        own_before, owner_before = trimmed_bytes(puller), trimmed_bytes(owners[0])
        linked = 0
        for n in counts:
            new = order[linked:n]
            took = puller.call(link, {cluster_id: clusters[cluster_id] for cluster_id in new})
            linked = n
            figures = puller.call(time_pull_over_links, order[:n])
            own, theirs = puller.call(usage), owners[0].call(usage)
            yield Row(
                n,
                {
                    "link_us": took / len(new),
                    **figures,
                    "threads": own["threads"],
                    "descriptors": own["descriptors"],
                    "bytes_per_link": (trimmed_bytes(puller) - own_before) / n,
                    "owner_threads": theirs["threads"],
                    "owner_descriptors": theirs["descriptors"],
                    "owner_bytes_per_link": (trimmed_bytes(owners[0]) - owner_before)
                    / len([at for at in order[:n] if at < _OWNER + each]),
                },
            )
        gone = {cluster_id: clusters[cluster_id] for cluster_id in order[:linked]}
        took = puller.call(unlink, gone)
        yield Row(0, {"unlink_us": took / linked, **puller.call(usage)})


# ---- keys ----


def bind_up_to(actor: Actor, count: int) -> Figures:
    """Have so many request keys bound, a batch entry each; returns the time of a key."""
    manager = engine_of(actor).cache_manager
    cluster_id = engine_of(actor).cluster_id
    times = []
    while len(actor.kept.caches) * _KEYS_A_CACHE < count:
        first = len(actor.kept.caches) * _KEYS_A_CACHE
        keys = [CacheKey(cluster_id, first + i) for i in range(_KEYS_A_CACHE)]
        desc = CacheDesc(1, [_KEYS_A_CACHE, 1], DataType.DT_UINT8, Placement.DEVICE)
        start = time.perf_counter_ns()
        actor.kept.caches.append(manager.allocate_cache(desc, keys))
        times.append(time.perf_counter_ns() - start)
    return {"bind_us": statistics.median(times) / 1e3 / _KEYS_A_CACHE}


def _pick_keys(first: int, end: int, odd: int) -> Iterator[int]:
    """Draw from what was bound last: a key can be used up once. The owner removes odd ones."""
    return iter((_RANDOM.permutation((end - first) // 2)[:REPEATS] * 2 + first + odd).tolist())


def time_removal(actor: Actor, first: int, end: int) -> Figures:
    """Remove keys, and one that is not bound."""
    manager = engine_of(actor).cache_manager
    cluster_id = engine_of(actor).cluster_id
    picks = _pick_keys(first, end, 1)

    def remove() -> None:
        manager.remove_cache_key(CacheKey(cluster_id, next(picks)))

    def remove_unknown() -> None:
        manager.remove_cache_key(CacheKey(cluster_id, 1 << 62))

    return {
        "remove_us": median_us(remove),
        "remove_unknown_us": median_us(remove_unknown),
    }


def allocate_target(actor: Actor) -> None:
    """Make the cache that pulls write to."""
    desc = CacheDesc(1, [1, 1], DataType.DT_UINT8, Placement.DEVICE)
    actor.kept.caches.append(engine_of(actor).cache_manager.allocate_cache(desc))


def time_lookup(actor: Actor, cluster_id: int, first: int, end: int) -> Figures:
    """Pull by keys, which uses them up, and by one that is not bound."""
    manager, local = engine_of(actor).cache_manager, actor.kept.caches[0]
    picks = _pick_keys(first, end, 0)

    def pull() -> None:
        manager.pull_cache(CacheKey(cluster_id, next(picks)), local)

    def pull_unknown() -> None:
        try:
            manager.pull_cache(CacheKey(cluster_id, 1 << 62), local)
        except LLMException as failure:
            if failure.status_code != LLMStatusCode.LLM_KV_CACHE_NOT_EXIST:
                raise

    return {"pull_us": median_us(pull), "pull_unknown_us": median_us(pull_unknown)}


def keys_curve(counts: Sequence[int]) -> Iterator[Row]:
    """N request keys bound at the owner, in caches of a thousand batch entries."""
    with workers("owner", "puller") as (owner, puller):
        address = owner.call(open_engines, _OWNER, 1, False, _KEYS_POOL)[0]
        puller.call(open_engines, _PULLER, 1, False, 1 << 20)
        puller.call(allocate_target)
        puller.call(link, {_OWNER: address})
        before = trimmed_bytes(owner)
        for last, n in zip((0, *counts), counts):
            bound = owner.call(bind_up_to, n)
            resident = trimmed_bytes(owner)
            figures = {
                **bound,
                **puller.call(time_lookup, _OWNER, last, n),
                **owner.call(time_removal, last, n),
                "bytes_per_key": (resident - before) / n,
            }
            yield Row(n, figures)


# ---- block lists ----


def make_long_cache(actor: Actor, blocks: int, allocated: bool) -> None:
    """Have one cache with so many small blocks."""
    desc = CacheDesc(1, [blocks, 64], DataType.DT_UINT8, Placement.DEVICE)
    key = BlocksCacheKey(engine_of(actor).cluster_id, 0)
    manager = engine_of(actor).cache_manager
    if allocated:
        actor.kept.caches.append(manager.allocate_blocks_cache(desc, key))
        return
    arena = mmap.mmap(-1, blocks * 64)
    actor.kept.arenas.append(arena)
    address = np.frombuffer(arena, np.uint8).ctypes.data
    actor.kept.caches.append(manager.register_blocks_cache(desc, [address], key))


def time_lists(actor: Actor, cluster_id: int, blocks: int, count: int) -> Figures:
    """Pull with lists of so many ids; returns nanoseconds an id, and the memory that is kept."""
    manager, local = engine_of(actor).cache_manager, actor.kept.caches[0]
    key = BlocksCacheKey(cluster_id, 0)
    in_order = np.arange(count, dtype=np.int64)
    at_random = _RANDOM.permutation(blocks)[:count].astype(np.int64)
    as_list = at_random.tolist()
    repeats = 5 if count >= 10000 else REPEATS

    def per_id(src: Any, dst: Any) -> float:
        manager.pull_blocks(key, local, src, dst)
        return median_us(lambda: manager.pull_blocks(key, local, src, dst), repeats) * 1e3 / count

    return {
        "in_order_ns": per_id(in_order, in_order),
        "random_ns": per_id(at_random, in_order),
        "random_list_ns": per_id(as_list, in_order.tolist()),
    }


def lists_curve(counts: Sequence[int], allocated: bool) -> Iterator[Row]:
    """Pull with block lists of N ids, blocks of 64 bytes."""
    blocks = counts[-1]
    with workers("owner", "puller") as (owner, puller):
        pool = blocks * 64 + (1 << 20) if allocated else 0
        address = owner.call(open_engines, _OWNER, 1, True, pool)[0]
        puller.call(open_engines, _PULLER, 1, True, pool)
        for worker in (owner, puller):
            worker.call(make_long_cache, blocks, allocated)
        puller.call(link, {_OWNER: address})
        before = trimmed_bytes(puller)
        for n in counts:
            figures = puller.call(time_lists, _OWNER, blocks, n)
            yield Row(n, {**figures, "kept_bytes": trimmed_bytes(puller) - before})
