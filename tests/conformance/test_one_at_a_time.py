# SPDX-License-Identifier: Apache-2.0
"""What queues and what runs in parallel in one engine: contract 7.8, decisions 23 and 40."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from llm_datadist import (
    BlocksCacheKey,
    LLMException,
    LLMStatusCode,
    TransferWithCacheKeyConfig,
)
from llm_datadist.testing import Peer
from tests.conformance.layers import WAIT_MS, Ready
from tests.conformance.refusals import check_refusal, refused
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked
from tests.conformance.together import NearStage

S = LLMStatusCode
TCP = {"LLM_DATADIST_MOCK_TRANSPORT": "tcp"}
STOPPED, FREE = 8, 9
DEADLINE_S = 2.0


class Hanging:
    """An engine of this process, linked to a peer that is stopped and to one that is free."""

    def __init__(self, stage: Stage, together: NearStage) -> None:
        self.engine = together.engine(
            PULLER, listen=None, environment=TCP, sync_timeout_ms=int(1000 * DEADLINE_S)
        )
        self.engine.register("kv", SMALL, 2)
        self.stopped, self.free = (self._owner(stage, each) for each in (STOPPED, FREE))
        for cluster_id in (STOPPED, FREE):
            self.engine.push("kv", BlocksCacheKey(cluster_id, 0), [0], [0])
        self.stopped.stop()

    def _owner(self, stage: Stage, cluster_id: int) -> Peer:
        owner = stage.engine(cluster_id, environment=TCP)
        owner.register("kv", SMALL, 1, 0)
        linked(self.engine, owner)
        return owner

    def call(self, operation: str, cluster_id: int) -> None:
        if operation == "transfer_cache_async":
            config = TransferWithCacheKeyConfig(BlocksCacheKey(cluster_id, 0), range(1), range(1))
            task = self.engine.manager.transfer_cache_async(
                self.engine.cache("kv"), Ready(), [config], [0], [0]
            )
            task.synchronize(WAIT_MS)
            if task.exception() is not None:
                raise task.exception()
        else:
            key = BlocksCacheKey(cluster_id, 0)
            # Blocks of its own: what one call writes, another must not read meanwhile.
            getattr(self.engine.actor, operation)("kv", key, [cluster_id], [cluster_id])

    def seconds_beside(self, first: str, second: str) -> float:
        """The longest that the second operation takes to the free peer, as long as the first one
        hangs.
        """
        failures: list[LLMException] = []
        begun = threading.Event()

        def run() -> None:
            begun.set()
            try:
                self.call(first, STOPPED)
            except LLMException as failure:
                failures.append(failure)

        hanging = threading.Thread(target=run)
        hanging.start()
        assert begun.wait(WAIT_MS / 1000)
        times = []
        while not times or hanging.is_alive():
            start = time.monotonic()
            self.call(second, FREE)
            times.append(time.monotonic() - start)
        (failure,) = failures
        check_refusal(failure, S.LLM_TIMEOUT, STOPPED)
        return max(times)


@pytest.fixture
def hanging(stage: Stage, together: NearStage) -> Iterator[Hanging]:
    made = Hanging(stage, together)
    yield made
    made.stopped.go_on()


@pytest.mark.rule("C10-40")
@pytest.mark.parametrize("second", ["push", "transfer_cache_async"])
@pytest.mark.parametrize("first", ["push", "transfer_cache_async"])
def test_c10_40_pushes_to_a_silent_peer_do_not_hold_up_those_to_others(
    hanging: Hanging, first: str, second: str
) -> None:
    assert hanging.seconds_beside(first, second) < DEADLINE_S / 2


@pytest.mark.rule("C7.8-1", "C7.8-3", "C7.8-6")
@pytest.mark.parametrize(
    ("first", "second"), [("pull", "pull"), ("pull", "push"), ("push", "pull")]
)
def test_c7_8_6_everything_else_over_different_links_runs_in_parallel(
    hanging: Hanging, first: str, second: str
) -> None:
    # The calls are made by threads of one interpreter, so they have released the GIL, too.
    assert hanging.seconds_beside(first, second) < DEADLINE_S / 2


@pytest.mark.rule("C7.8-9")
def test_c7_8_9_caches_made_and_removed_from_many_threads(
    small_addresses: list[int], together: NearStage
) -> None:
    manager = together.engine(OWNER, device_pool=8 << 20).manager
    desc = SMALL.desc()

    def work(number: int) -> list[int]:
        ids = []
        for round_ in range(20):
            key = BlocksCacheKey(OWNER, 1000 * number + round_)
            registered = manager.register_blocks_cache(desc, small_addresses, key)
            allocated = manager.allocate_blocks_cache(desc)
            ids += [registered.cache_id, allocated.cache_id]
            manager.unregister_cache(registered.cache_id)
            manager.deallocate_blocks_cache(allocated)
        return ids

    with ThreadPoolExecutor(8) as threads:
        ids = [each for made in threads.map(work, range(8)) for each in made]
    assert sorted(ids) == list(range(1, 8 * 40 + 1))


@pytest.mark.rule("C7.8-10", "C10-23")
def test_c7_8_10_one_engine_a_process_unless_more_are_allowed(together: NearStage) -> None:
    together.engine(OWNER)
    plain = together.process()
    with refused(S.LLM_FAILED, OWNER, "allow_multiple_instances"):
        plain.init(PULLER)
    together.engine(PULLER)


@pytest.mark.rule("C7.8-12")
@pytest.mark.parametrize("devices", ["0;1", "0,1", "all", "-1", ""])
def test_c7_8_12_one_device_an_engine(together: NearStage, devices: str) -> None:
    with refused(S.LLM_PARAM_INVALID):
        together.engine(OWNER, options={"ge.exec.deviceId": devices})
    together.engine(OWNER, options={"ge.exec.deviceId": "1"})
