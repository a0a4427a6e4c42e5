# SPDX-License-Identifier: Apache-2.0
"""Pulls and pushes that return a task: contract 6.7."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest

from llm_datadist import (
    BlocksCacheKey,
    CacheKeyByIdAndIndex,
    CacheTask,
    LLMException,
    LLMStatusCode,
    TransferWithCacheKeyConfig,
)
from llm_datadist.testing import check, eventually, moved
from tests.conformance.layers import Ready
from tests.conformance.paths import ON_ASCEND, Path, helped_path
from tests.conformance.refusals import check_refusal
from tests.conformance.stage import OWNER, PULLER, SMALL, Pair, Stage, linked
from tests.conformance.together import NearPeer, NearStage

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
# What is not interrupted lasts so long; what is, ends soon.
SYNC_MS = 20000
SOON_S = 1.5
SOON_MS = 1500
OTHER = 8

EXITS = """
import sys, time
from llm_datadist import BlocksCacheKey
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance.stage import OWNER, SMALL
from tests.conformance.together import NearPeer

peer = NearPeer()
peer.init(2, sync_timeout_ms=300)
peer.register("kv", SMALL, 2)
peer.call("link", [ClusterAddress(OWNER, (sys.argv[1], int(sys.argv[2])))], 5000)
pull = peer.manager.pull_blocks_async
assert pull(BlocksCacheKey(OWNER, 0), peer.cache("kv"), [0], [0]).synchronize() == 0
print("pulled", flush=True)
sys.stdin.readline()
for _ in range(5):
    pull(BlocksCacheKey(OWNER, 0), peer.cache("kv"), [0], [0])
"""


# ---- functions that run in peers ----


def transfer(actor: Any, operation: str) -> LLMStatusCode:
    manager, cache = actor.datadist.cache_manager, actor.caches["kv"].cache
    blocks = np.array([3], np.int64), np.array([4], np.uint64)
    task = getattr(manager, operation)(KEY, cache, *blocks)
    assert isinstance(task, CacheTask)
    for array in blocks:
        array[0] = 2**62  # it was copied
    status = task.synchronize(SYNC_MS)
    assert task.done()
    assert not task.cancelled()
    assert not task.cancel()
    assert task.get_results() == [status]
    return status


def timed(actor: Any, body: Any) -> float:
    start = time.monotonic()
    body(actor)
    return time.monotonic() - start


def check_cancelled(task: CacheTask, by: str = "cancel") -> None:
    """It is over soon, as one that failed."""
    assert task.wait(SOON_MS)
    assert task.get_results() == [S.LLM_TIMEOUT]
    check_refusal(task.exception(), S.LLM_TIMEOUT, f"interrupted by {by}")


def cancel_a_running_and_a_waiting_one(actor: Any) -> None:
    manager, cache = actor.datadist.cache_manager, actor.caches["kv"].cache
    first, second = (manager.pull_blocks_async(KEY, cache, [0], [0]) for _ in range(2))
    assert first.synchronize(50) == S.LLM_TIMEOUT
    assert not first.done()
    # The second waits for the first, but its end does not.
    assert second.cancel()
    check_cancelled(second)
    assert not first.done()
    assert first.cancel()
    check_cancelled(first)
    assert first.cancelled()


def cancel_from_asyncio(actor: Any, operation: str) -> None:
    manager, cache = actor.datadist.cache_manager, actor.caches["kv"].cache
    task = getattr(manager, operation)(KEY, cache, [0], [0])

    async def wait_a_moment() -> None:
        await asyncio.wait_for(task, 0.1)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(wait_a_moment())
    # It was over before the error came.
    assert task.done()
    check_cancelled(task)


def cancel_layers_from_asyncio(actor: Any) -> None:
    manager, cache = actor.datadist.cache_manager, actor.caches["kv"].cache
    config = TransferWithCacheKeyConfig(KEY, range(1), range(1))
    task = manager.transfer_cache_async(cache, Ready(), [config], [0], [0])

    async def cancel_it() -> None:
        waits = asyncio.ensure_future(task)
        await asyncio.sleep(0)
        waits.cancel()
        await waits

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel_it())
    check_cancelled(task)


def finalize_under_way(actor: Any) -> None:
    manager, cache = actor.datadist.cache_manager, actor.caches["kv"].cache
    tasks = [manager.pull_blocks_async(KEY, cache, [0], [0]) for _ in range(4)]
    assert not tasks[0].wait(50)
    actor.datadist.finalize()
    assert all(task.done() for task in tasks)
    for task in tasks:
        check_cancelled(task, "finalize")
    with pytest.raises(LLMException) as caught:
        manager.pull_blocks_async(KEY, cache, [0], [0])
    assert caught.value.status_code == S.LLM_ENGINE_FINALIZED


def tasks_end_after_one_timeout(actor: Any) -> None:
    """Their deadlines begin with their calls."""
    manager, cache = actor.datadist.cache_manager, actor.caches["kv"].cache
    tasks = [manager.pull_blocks_async(KEY, cache, [0], [0]) for _ in range(16)]
    for task in tasks:
        assert task.wait(SOON_MS)
        assert task.synchronize() == S.LLM_TIMEOUT


def silent(stage: Stage, **spec: Any) -> Pair:
    pair = stage.pair(helped_path(), SMALL, **{"sync_timeout_ms": SYNC_MS, **spec})
    pair.owner.stop()
    return pair


def needs_interruptible_transfers() -> None:
    if ON_ASCEND:
        pytest.skip("capability interruptible transfers: HIXL returns at its own deadline")


# ---- what a task is ----


@pytest.mark.rule("C6.7-1", "C6.7-2", "C6.7-3")
def test_a_pull_and_a_push_are_done(stage: Stage, path: Path) -> None:
    pair = stage.pair(path)
    assert pair.puller.call(transfer, "pull_blocks_async") == S.LLM_SUCCESS
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), [3], [4]))
    pair.puller.call("fill", "kv", 2)
    assert pair.puller.call(transfer, "push_blocks_async") == S.LLM_SUCCESS
    check(pair.source, moved(pair.source.filled(), pair.target.filled(), [3], [4]))


@pytest.mark.rule("C6.7-1", "C6.7-2", "C6.7-4")
def test_contiguous_caches_and_what_is_raised_where(together: NearStage) -> None:
    owner, puller = together.engine(OWNER), together.engine(PULLER, listen=None)
    for peer in (owner, puller):
        peer.contiguous("kv", SMALL, 1, allocated=False, remote_accessible=True)
    linked(puller, owner)
    manager, cache = puller.manager, puller.cache("kv")
    key = CacheKeyByIdAndIndex(OWNER, owner.cache("kv").cache_id, 1)

    async def both() -> None:
        await manager.pull_cache_async(key, cache, 1)
        await asyncio.gather(
            manager.push_cache_async(key, cache), manager.pull_cache_async(key, cache)
        )

    asyncio.run(both())
    # What the own side can tell is told at once.
    with pytest.raises(TypeError, match="batch_index"):
        manager.pull_cache_async(key, cache, "1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"dst_blocks\[1\]"):
        manager.pull_blocks_async(KEY, cache, [0, 0], np.array([0, -1]))
    # The rest is of the task, and is raised where it is awaited.
    nowhere = CacheKeyByIdAndIndex(OWNER, 99)
    task = manager.pull_cache_async(nowhere, cache)
    assert task.synchronize(SYNC_MS) == S.LLM_KV_CACHE_NOT_EXIST

    async def fails() -> None:
        await task

    with pytest.raises(LLMException) as caught:
        asyncio.run(fails())
    assert caught.value is task.exception()
    with pytest.raises(TypeError):
        task.wait(0.5)  # type: ignore[arg-type]


@pytest.mark.rule("C6.7-5")
def test_tasks_with_one_peer_keep_their_order(together: NearStage) -> None:
    owners = [together.engine(each) for each in (OWNER, OTHER)]
    puller: NearPeer = together.engine(PULLER, listen=None)
    for peer in (*owners, puller):
        peer.register("kv", SMALL, peer.cluster_id, 0)
    linked(puller, *owners)
    manager, cache = puller.manager, puller.cache("kv")
    tasks = [
        manager.pull_blocks_async(BlocksCacheKey(peer, 0), cache, [n % 8], [block])
        for n in range(64)
        for peer, block in ((OWNER, 0), (OTHER, 1))
    ]
    assert {task.synchronize(SYNC_MS) for task in tasks} == {S.LLM_SUCCESS}
    # The last one of each came last.
    for owner, block in zip(owners, (0, 1)):
        assert (puller.call("read", "kv")[:, block] == owner.call("read", "kv")[:, 7]).all()
    names = [each.name for each in threading.enumerate() if "llm_datadist task" in each.name]
    assert 1 <= len(names) <= 2
    puller.finalize()
    assert not [each for each in threading.enumerate() if "llm_datadist task" in each.name]


# ---- ending early ----


@pytest.mark.rule("C6.7-6", "C6.7-7")
def test_they_are_cancelled_soon(stage: Stage) -> None:
    pair = silent(stage)
    assert pair.puller.call(timed, cancel_a_running_and_a_waiting_one) < 2 * SOON_S
    assert pair.puller.call(cancel_from_asyncio, "pull_blocks_async") is None
    assert pair.puller.call(cancel_from_asyncio, "push_blocks_async") is None
    pair.puller.call(cancel_layers_from_asyncio)
    pair.owner.go_on()
    # The link is as good as before.
    pair.puller.pull("kv", KEY, [0], [0])


@pytest.mark.rule("C6.7-8")
def test_finalize_ends_them(stage: Stage) -> None:
    pair = silent(stage)
    assert pair.puller.call(timed, finalize_under_way) < 2 * SOON_S
    pair.owner.go_on()


@pytest.mark.rule("C6.7-3", "C10-82")
def test_their_time_begins_with_the_call(stage: Stage) -> None:
    needs_interruptible_transfers()
    pair = silent(stage, sync_timeout_ms=300)
    pair.puller.call(tasks_end_after_one_timeout)
    pair.owner.go_on()


@pytest.mark.rule("C6.7-9")
def test_dropped_tasks_neither_stay_nor_hold_up_the_exit(stage: Stage) -> None:
    needs_interruptible_transfers()
    owner = stage.engine(OWNER)
    owner.register("kv", SMALL, 1, 0)
    assert owner.listen_address is not None
    with subprocess.Popen(
        [sys.executable, "-c", EXITS, *map(str, owner.listen_address)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "pulled\n"
        owner.stop()
        start = time.monotonic()
        _, errors = child.communicate("\n", timeout=SYNC_MS / 1000)
        assert time.monotonic() - start < 0.3 + 2 * SOON_S
        assert (child.returncode, errors) == (0, "")
    owner.go_on()


@pytest.mark.rule("C6.7-9")
def test_a_task_that_is_over_keeps_nothing(together: NearStage) -> None:
    owner, puller = together.engine(OWNER), together.engine(PULLER, listen=None)
    for peer in (owner, puller):
        peer.register("kv", SMALL, 1, 0)
    linked(puller, owner)
    task = puller.manager.pull_blocks_async(KEY, puller.cache("kv"), [0], [0])
    assert task.wait(SYNC_MS)
    gone = weakref.ref(task)
    del task

    def collected() -> bool:
        gc.collect()
        return gone() is None

    eventually(collected, "nothing keeps the task")


@pytest.mark.rule("C6.7-10")
def test_a_forked_child_has_no_tasks(together: NearStage) -> None:
    owner, puller = together.engine(OWNER), together.engine(PULLER, listen=None)
    for peer in (owner, puller):
        peer.register("kv", SMALL, 1, 0)
    linked(puller, owner)
    manager, cache = puller.manager, puller.cache("kv")
    assert manager.pull_blocks_async(KEY, cache, [0], [0]).wait(SYNC_MS)
    pid = os.fork()
    if pid == 0:
        status = manager.pull_blocks_async(KEY, cache, [0], [0]).synchronize()
        os._exit(0 if status == S.LLM_FAILED else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
