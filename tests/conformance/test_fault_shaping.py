# SPDX-License-Identifier: Apache-2.0
"""Links that are made slow: latency, jitter, bandwidth, and calls that are held up until a test
lets them go. Deadlines hold all the same.
"""

from __future__ import annotations

import time

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.testing import Geometry, Injection, check, eventually, moved
from tests.conformance.paths import Path
from tests.conformance.refusals import GONE, check_refusal
from tests.conformance.stage import OWNER, PULLER, Pair, Stage, linked
from tests.conformance.work import seconds_of

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
# What a busy machine adds to a call that is told how long to take.
SLACK = 2.0


def pull(pair: Pair, blocks: list[int]) -> float:
    """Pull, which must succeed; how long it took over there."""
    taken, error = pair.puller.call(seconds_of, "pull", "kv", KEY, blocks, blocks)
    assert error is None
    return taken


def held_up(injection: Injection) -> None:
    """A rule has fired, and its call waits by now or soon."""
    eventually(lambda: injection.fired, "a call is held up")


@pytest.mark.sanitize
def test_latency_and_jitter(pair: Pair) -> None:
    with pair.puller.faults.inject("read delay=60ms"):
        assert 0.06 <= pull(pair, [0, 1]) < 0.06 + SLACK
    with pair.puller.faults.inject("read delay=40ms jitter=20ms; read delay=20ms"):
        assert 0.06 <= pull(pair, [2, 3]) < 0.08 + SLACK
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), range(4), range(4)))


def test_bandwidth_counts_the_bytes(stage: Stage, path: Path) -> None:
    geometry = Geometry(num_tensors=2, num_blocks=16, block_bytes=16 << 10)
    pair = stage.pair(path, geometry, sync_timeout_ms=20000)
    with pair.puller.faults.inject("read bandwidth=2MiB/s"):
        for blocks in (2, 8):
            expected = 2 * blocks * (16 << 10) / (2 << 20)
            assert expected <= pull(pair, list(range(blocks))) < expected + SLACK
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), range(8), range(8)))


def test_a_port_is_shared_by_the_links_of_the_process(stage: Stage, path: Path) -> None:
    near, far = stage.engine(OWNER, path), stage.engine(OWNER + 1, path)
    puller = stage.engine(PULLER, path, listen=None, sync_timeout_ms=20000)
    geometry = Geometry(num_tensors=1, num_blocks=16, block_bytes=16 << 10)
    for owner in (near, far):
        path.cache(owner, "kv", geometry, 1, 0)
    path.cache(puller, "kv", geometry, 2)
    linked(puller, near, far)

    def together() -> float:
        keys = KEY, BlocksCacheKey(OWNER + 1, 0)
        halves = [0, 1, 2, 3], [8, 9, 10, 11]
        begin = time.monotonic()
        calls = [
            puller.start_call(seconds_of, "pull", "kv", key, blocks, blocks)
            for key, blocks in zip(keys, halves)
        ]
        assert [call.result()[1] for call in calls] == [None, None]
        return time.monotonic() - begin

    alone = 4 * (16 << 10) / 512e3
    with puller.faults.inject("read bandwidth=512KB/s nic=roce0"):
        # However they overlap, the port lets all bytes through one after the other.
        assert 2 * alone <= together() < 2 * alone + SLACK
    with puller.faults.inject(
        f"read bandwidth=512KB/s nic=a peer={OWNER}; read bandwidth=512KB/s nic=b"
    ):
        assert together() < 2 * alone + SLACK


def test_only_the_link_to_the_named_peer(stage: Stage, path: Path) -> None:
    near, far = stage.engine(OWNER, path), stage.engine(OWNER + 1, path)
    puller = stage.engine(PULLER, path, listen=None)
    for owner in (near, far):
        path.cache(owner, "kv", Geometry(), 1, 0)
    path.cache(puller, "kv", Geometry(), 2)
    linked(puller, near, far)
    with puller.faults.inject(f"read status=LLM_SUSPECT_REMOTE_ERROR peer={OWNER + 1}"):
        puller.pull("kv", KEY, [0], [0])
        error = puller.start_call("pull", "kv", BlocksCacheKey(OWNER + 1, 0), [0], [0]).exception()
        check_refusal(error, S.LLM_SUSPECT_REMOTE_ERROR, OWNER + 1)
        puller.pull("kv", KEY, [0], [0])


@pytest.mark.parametrize("rule", ["delay=20s", "jitter=60s seed=3", "bandwidth=1B/s"])
@pytest.mark.parametrize(("operation", "point"), [("pull", "read"), ("push", "write")])
def test_a_hold_up_beyond_the_deadline_is_a_timeout_at_the_deadline(
    stage: Stage, path: Path, operation: str, point: str, rule: str
) -> None:
    pair = stage.pair(path, sync_timeout_ms=150)
    # The table is read; one link does for all the rules.
    getattr(pair.puller, operation)("kv", KEY, [0], [0])
    with pair.puller.faults.inject(f"{point} {rule}"):
        taken, error = pair.puller.call(seconds_of, operation, "kv", KEY, [1], [1])
        check_refusal(error, S.LLM_TIMEOUT, OWNER)
        assert "held up by the fault rule" in str(error)
        assert 0.15 <= taken < 0.15 + SLACK
    counted = pair.puller.call("counters")
    assert (counted.timeouts, counted.failures) == (1, 1)
    getattr(pair.puller, operation)("kv", KEY, [2], [2])


def test_linking_and_unregistering_keep_their_deadlines(stage: Stage) -> None:
    owner = stage.engine(OWNER)
    puller = stage.engine(PULLER, listen=None, sync_timeout_ms=100)
    puller.register("kv", Geometry(), 1)
    with puller.faults.inject("connect,unregister delay=20s"):
        start = time.monotonic()
        assert puller.link_to(owner.cluster(), timeout_ms=100).status == S.LLM_TIMEOUT
        assert time.monotonic() - start < 0.1 + SLACK
        taken, error = puller.call(seconds_of, "unregister", "kv")
        check_refusal(error, S.LLM_TIMEOUT)
        assert 0.1 <= taken < 0.2 + SLACK
    linked(puller, owner)


def test_a_call_is_held_up_until_its_rule_goes(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, sync_timeout_ms=60000)
    with pair.puller.faults.inject("read delay=60s") as injection:
        call = pair.puller.start_call("pull", "kv", KEY, [3], [4])
        held_up(injection)
        assert not call.done()
    call.result()
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), [3], [4]))


def test_a_peer_that_dies_while_a_call_is_held_up(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, sync_timeout_ms=25000)
    with pair.puller.faults.inject("read delay=20s") as injection:
        call = pair.puller.start_call("pull", "kv", KEY, [0], [0])
        held_up(injection)
        pair.owner.kill()
        error = call.exception(10)
    check_refusal(error, S.LLM_TIMEOUT, OWNER)
    assert GONE in str(error)
