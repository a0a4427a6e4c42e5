# SPDX-License-Identifier: Apache-2.0
"""Request mode with an owner or a puller that stops in the middle: what is pinned, for how long,
and what a timeout leaves: contract 4.4 and 5.5, docs/architecture.md "Request mode".

The owner and, where one must die, a puller are processes; the puller of most tests is an engine of
the test's own process.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDone
from typing import Any

import numpy as np
import pytest

from llm_datadist import (
    CacheDesc,
    CacheKey,
    DataType,
    LLMClusterInfo,
    LLMException,
    LLMStatusCode,
    Placement,
)
from llm_datadist.introspection import MemoryKind
from llm_datadist.testing import Geometry, Peer, eventually, memory
from llm_datadist.testing.actor import HeldCache
from tests.conformance.engines import HOST, OWNER, EngineHere, Engines, Held, by_id, tensors_of
from tests.conformance.paths import Path
from tests.conformance.refusals import GONE, check_refusal
from tests.conformance.stage import Stage

S = LLMStatusCode
ALLOCATED, REGISTERED = MemoryKind.ALLOCATED, MemoryKind.REGISTERED
ENTRIES, STRIDE, TENSORS = 2, 256, 4
PAGE = 64 << 10
SMALL_POOL = TENSORS * PAGE
KEY = CacheKey(OWNER, 1)


# ---- what runs in the processes


def allocate_entries(
    actor: Any, stride: int = STRIDE, tensors: int = TENSORS, request: int = 1
) -> tuple[int, int]:
    """Allocate entries with one key; each byte of entry e of tensor t is 16 * t + e + 1.

    Returns the cache id, or 0 when there is no room, and the address of the first tensor.
    """
    manager = actor.datadist.cache_manager
    desc = CacheDesc(tensors, [ENTRIES, stride], DataType.DT_INT8)
    try:
        cache = manager.allocate_cache(desc, [CacheKey(OWNER, request)])
    except MemoryError:
        return 0, 0
    for number, tensor in enumerate(tensors_of(cache, actor.device_id)):
        entries = np.array([content(number, entry) for entry in range(ENTRIES)], np.uint8)
        tensor[:] = np.repeat(entries[:, None], stride, axis=1)
    actor.entries = cache
    return cache.cache_id, cache.tensor_addrs[0]


def content(tensor: int, entry: int) -> int:
    return 16 * tensor + entry + 1


def release_entries(actor: Any, *requests: int) -> None:
    manager = actor.datadist.cache_manager
    for request in requests:
        manager.remove_cache_key(CacheKey(OWNER, request))
    manager.deallocate_cache(actor.entries)


def register_target(actor: Any, stride: int, tensors: int) -> None:
    geometry = Geometry(tensors, 1, stride, DataType.DT_INT8)
    memories = actor.memories(geometry, Placement.DEVICE)
    addrs = [each.address for each in memories]
    cache = actor.datadist.cache_manager.register_cache(geometry.desc(), addrs)
    copied_by = memory.copied_by(Placement.DEVICE, actor.device_id)
    actor.caches["target"] = HeldCache(cache, geometry, memories, addrs, copied_by)


def pull_entry(actor: Any, key: CacheKey) -> None:
    actor.announce("pulling")
    actor.datadist.cache_manager.pull_cache(key, actor.caches["target"].cache)


# ---- what the test makes of them


def owner_process(
    stage: Stage, path: Path | None = None, pool: int = SMALL_POOL, host_pool: int = 0
) -> Peer:
    environment = {} if path is None else path.environment
    return stage.engine(
        OWNER, one_sided=False, device_pool=pool, host_pool=host_pool, environment=environment
    )


def link_here(puller: EngineHere, owner: Peer) -> None:
    info = LLMClusterInfo()
    info.remote_cluster_id = owner.cluster_id
    info.append_local_ip_info("127.0.0.1", 0)
    info.append_remote_ip_info(*owner.listen_address)
    assert puller.datadist.link_clusters([info], 5000) == (0, [0])


def outcome(call: Any, *args: Any) -> tuple[LLMException | None, float]:
    start = time.monotonic()
    try:
        call(*args)
    except LLMException as error:
        return error, time.monotonic() - start
    return None, time.monotonic() - start


def check_entry(target: Held, entry: int = 0) -> None:
    for tensor in range(len(target.tensors)):
        assert (target.now[tensor, 0] == content(tensor, entry)).all()


# ---- timeouts


@pytest.mark.rule("C5.5-10", "C5.5-29", "C5.5-30", "C10-19", "C10-47")
@pytest.mark.parametrize("placement", [Placement.DEVICE, HOST])
def test_c5_5_10_a_silent_owner_and_the_same_link_afterwards(
    stage: Stage, engines: Engines, path: Path, placement: Placement
) -> None:
    owner = owner_process(stage, path, 2 * SMALL_POOL)
    puller = engines.open(5, path, one_sided=False, timeout_ms=400)
    owner.call(allocate_entries)
    target = puller.contiguous(1, STRIDE, placement=placement, memory=REGISTERED)
    link_here(puller, owner)
    owner.stop()
    try:
        for _ in range(2):
            error, seconds = outcome(puller.manager.pull_cache, KEY, target.cache)
            check_refusal(error, S.LLM_TIMEOUT, OWNER)
            # A host destination may take half a second longer.
            assert 0.39 < seconds < 2
    finally:
        owner.go_on()
    assert np.array_equal(target.now, target.first)
    error, seconds = outcome(puller.manager.pull_cache, KEY, target.cache)
    assert error is None, error
    check_entry(target)


@pytest.mark.rule("C5.5-10", "C5.5-24", "C5.5-30", "C10-47")
def test_c5_5_24_a_pull_that_timed_out_leaves_no_pin(stage: Stage, engines: Engines) -> None:
    owner = owner_process(stage)
    puller = engines.open(5, one_sided=False, timeout_ms=300)
    other = engines.open(6, one_sided=False, timeout_ms=3000)
    cache_id, _ = owner.call(allocate_entries)
    target, others = puller.contiguous(1, STRIDE), other.contiguous(1, STRIDE)
    link_here(puller, owner)
    link_here(other, owner)
    owner.stop()
    for key in (KEY, by_id(cache_id, 1)):
        error, _ = outcome(puller.manager.pull_cache, key, target.cache)
        check_refusal(error, S.LLM_TIMEOUT)
    owner.go_on()
    # The key was not used up, and nobody has it any more.
    error, seconds = outcome(other.manager.pull_cache, KEY, others.cache)
    assert error is None, error
    check_entry(others)
    assert seconds < 2
    # Nor is the memory kept for the pull by id.
    owner.call(release_entries)
    eventually(lambda: owner.call(allocate_entries)[0], "the owner's memory is free", 3)


@pytest.mark.rule("C5.5-10", "C10-24")
@pytest.mark.parametrize("key", [KEY, by_id(1)], ids=["by request", "by id"])
def test_c5_5_10_an_owner_that_died(stage: Stage, engines: Engines, key: Any) -> None:
    owner = owner_process(stage)
    puller = engines.open(5, one_sided=False, timeout_ms=20_000)
    owner.call(allocate_entries)
    target = puller.contiguous(1, STRIDE)
    link_here(puller, owner)
    owner.stop()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(outcome, puller.manager.pull_cache, key, target.cache)
        owner.kill()
        error, seconds = call.result(10)
    check_refusal(error, S.LLM_TIMEOUT, GONE)
    error, seconds = outcome(puller.manager.pull_cache, key, target.cache)
    check_refusal(error, S.LLM_TIMEOUT, GONE)
    assert seconds < 2
    assert len(puller.datadist.links()) == 1, "it counts as a link until it is unlinked"


@pytest.mark.rule("C4.4-2")
def test_c4_4_2_a_local_call_in_progress_keeps_its_cache(stage: Stage, engines: Engines) -> None:
    owner = owner_process(stage)
    owner.call(allocate_entries)
    puller = engines.open(5, one_sided=False, pool=SMALL_POOL, timeout_ms=500)
    target = puller.contiguous(1, STRIDE)
    link_here(puller, owner)
    outcomes: list[LLMException | None] = []

    def pull_until_it_is_gone() -> LLMException | None:
        while not outcomes or outcomes[-1].status_code == S.LLM_TIMEOUT:
            outcomes.append(outcome(puller.manager.pull_cache, by_id(1), target.cache)[0])
        return outcomes[-1]

    owner.stop()
    try:
        with ThreadPoolExecutor(1) as threads:
            pulls = threads.submit(pull_until_it_is_gone)
            # Then the next one waits for half a second.
            eventually(lambda: outcomes, "a pull is over", 5)
            puller.manager.deallocate_cache(target.cache)
            with pytest.raises(MemoryError):
                puller.contiguous(1, STRIDE)
            check_refusal(pulls.result(10), S.LLM_KV_CACHE_NOT_EXIST)
            check_refusal(outcomes[-2], S.LLM_TIMEOUT)
    finally:
        owner.go_on()
    puller.contiguous(1, STRIDE)


# ---- a puller that stops in the middle of its pull

BIG = 6 << 20  # bytes of an entry of one of 4 tensors: a pull takes some milliseconds
BIG_POOL = ENTRIES * TENSORS * BIG


class StoppedPuller:
    """A process that was stopped while it read the owner's entry 0, by its key."""

    def __init__(self, stage: Stage, owner: Peer, path: Path) -> None:
        self.peer = stage.engine(
            8,
            one_sided=False,
            listen=None,
            environment={**path.environment, "LLM_DATADIST_MOCK_THREADS": "1"},
            sync_timeout_ms=20_000,
        )
        self.peer.call(register_target, BIG, TENSORS)
        answer = self.peer.link_to(owner.cluster())
        assert answer.status == 0, answer

    def start(self, attempt: int) -> None:
        self.call = self.peer.start_call(pull_entry, CacheKey(OWNER, 1))
        self.peer.wait_for("pulling", attempt + 1)
        # A search for a moment at which it reads, whoever calls sees whether it was one.
        time.sleep(0.002 * (attempt % 5))
        self.peer.stop()


def waiting_pull(
    stage: Stage, engines: Engines, path: Path, timeout_ms: int
) -> tuple[Peer, StoppedPuller, EngineHere, Held, ThreadPoolExecutor, Future[Any]]:
    """An owner, a puller stopped while it has the key, and one of ours that waits for it."""
    owner = owner_process(stage, path, BIG_POOL)
    first = StoppedPuller(stage, owner, path)
    second = engines.open(5, path, one_sided=False, pool=0, timeout_ms=timeout_ms)
    target = second.contiguous(1, BIG, memory=REGISTERED)
    link_here(second, owner)
    threads = ThreadPoolExecutor(1)
    for attempt in range(40):
        assert owner.call(allocate_entries, BIG)[0]
        for tensor, content_at_first in zip(target.tensors, target.first):
            tensor[:] = content_at_first
        first.start(attempt)
        call = threads.submit(outcome, second.manager.pull_cache, KEY, target.cache)
        try:
            error, _ = call.result(0.25)
        except NotDone:
            return owner, first, second, target, threads, call
        # Too early: this one got it. Too late: the first had it. Neither waits.
        assert error is None or error.status_code == S.LLM_KV_CACHE_NOT_EXIST, error
        first.peer.go_on()
        other = first.call.exception()
        assert (other is None) != (error is None), "one of them, and only one, gets it"
        owner.call(release_entries)
    raise AssertionError("the puller was never stopped in the middle of a pull")


@pytest.fixture
def pool_path() -> Path:
    """Consumable keys are those of allocated caches; over TCP a pull lasts longest."""
    return Path("tcp", REGISTERED, asked_for=True)


@pytest.mark.rule("C5.5-22", "C5.5-24", "C4.4-3")
def test_c5_5_24_a_closed_link_unpins_and_uses_nothing_up(
    stage: Stage, engines: Engines, pool_path: Path
) -> None:
    _, first, _, target, threads, call = waiting_pull(stage, engines, pool_path, 20_000)
    with threads:
        assert not call.done()
        first.peer.kill()
        error, _ = call.result(15)
    assert error is None, error
    check_entry(target)


@pytest.mark.rule("C5.5-22", "C5.5-23")
def test_c5_5_22_the_second_of_two_pulls_finds_the_key_gone(
    stage: Stage, engines: Engines, pool_path: Path
) -> None:
    _, first, _, target, threads, call = waiting_pull(stage, engines, pool_path, 20_000)
    with threads:
        assert not call.done()
        first.peer.go_on()
        error, _ = call.result(15)
    assert first.call.exception() is None
    check_refusal(error, S.LLM_KV_CACHE_NOT_EXIST, OWNER)
    assert np.array_equal(target.now, target.first)


@pytest.mark.rule("C5.5-22", "C5.5-24", "C10-47")
def test_c5_5_24_a_waiting_pull_that_timed_out_leaves_no_pin(
    stage: Stage, engines: Engines, pool_path: Path
) -> None:
    owner, first, second, target, threads, call = waiting_pull(stage, engines, pool_path, 1000)
    with threads:
        error, _ = call.result(15)
        check_refusal(error, S.LLM_TIMEOUT, OWNER)
    # The key is free now, for whoever comes, and for the one that gave up as well.
    first.peer.kill()
    third = engines.open(6, pool_path, one_sided=False, pool=0, timeout_ms=3000)
    thirds = third.contiguous(1, BIG, memory=REGISTERED)
    link_here(third, owner)
    for puller, own in ((third, thirds), (second, target)):
        if puller is second:
            assert owner.call(allocate_entries, BIG)[0], "the memory of the first cache is free"
        error, _ = outcome(puller.manager.pull_cache, KEY, own.cache)
        assert error is None, error
        check_entry(own)
        owner.call(release_entries)


@pytest.mark.rule("C4.4-3")
def test_c4_4_3_memory_that_a_peer_reads_is_not_used_again(
    stage: Stage, engines: Engines, pool_path: Path
) -> None:
    owner = owner_process(stage, pool_path, BIG_POOL)
    first = StoppedPuller(stage, owner, pool_path)
    for attempt in range(40):
        cache_id, _ = owner.call(allocate_entries, BIG)
        assert cache_id
        first.start(attempt)
        # All the owner can let go of, it lets go of.
        owner.call(release_entries, 1)
        if not owner.call(allocate_entries, BIG)[0]:
            break
        # Not yet or not any more in the middle: either way the memory was free.
        first.peer.go_on()
        first.call.exception()
        owner.call(release_entries, 1)
    else:
        raise AssertionError("the puller was never stopped in the middle of a pull")
    first.peer.go_on()
    assert first.call.exception() is None
    assert first.peer.call(target_contents) == [[content(t, 0)] for t in range(TENSORS)]
    # Released when the pull returned.
    assert owner.call(allocate_entries, BIG)[0]


def target_contents(actor: Any) -> list[list[int]]:
    held = actor.caches["target"]
    return [np.unique(held.tensor(index).view(np.uint8)).tolist() for index in range(TENSORS)]
