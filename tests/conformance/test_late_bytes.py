# SPDX-License-Identifier: Apache-2.0
"""What a failed push over TCP may still do: docs/barriers.md.

A relay holds the bytes back after any of them; the owner gives the blocks to another request, and
then the relay lets go.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.testing import check, moved
from tests.conformance.paths import helped_path
from tests.conformance.refusals import check_refusal
from tests.conformance.scene import (
    ALL,
    ANOTHER,
    CONFIRMED,
    GEOMETRY,
    HEAD,
    MIB,
    UNCONFIRMED,
    WHOLE,
    Scene,
    scene,
)
from tests.conformance.stage import OWNER, Stage, notices

S = LLMStatusCode
# Bytes of a push, without its greeting, after which the network stalls.
POINTS = [
    0,
    HEAD - 1,
    HEAD,
    HEAD + 1000,
    HEAD + MIB - 1,
    HEAD + MIB,
    2 * HEAD + MIB + 7,
    WHOLE // 2,
    WHOLE - 1,
]


@pytest.fixture(params=["pusher dials", "owner dials"])
def stalled(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Scene]:
    yield from scene(stage, request.param == "pusher dials", sync_timeout_ms=300)


@pytest.mark.rule("C6.6-1")
def test_nothing_lands_once_the_end_is_confirmed(stalled: Scene) -> None:
    for after in [*POINTS, None]:
        number = stalled.stall_next_answer() if after is None else stalled.stall_next_push(after)
        check_refusal(stalled.push(ALL), S.LLM_TIMEOUT, CONFIRMED)
        stalled.give_to_another()
        stalled.release(number)
        stalled.untouched()
    # The link goes on.
    assert stalled.push([3]) is None
    ours = stalled.pusher.call("read", "kv")
    check(stalled.target, moved(GEOMETRY.filled(ANOTHER), ours, [3], [3]))


@pytest.mark.rule("C6.6-2")
@pytest.mark.parametrize("barrier", ["forced unlink", "unregister"])
def test_an_unconfirmed_end_is_said_and_a_barrier_is_one(stalled: Scene, barrier: str) -> None:
    assert stalled.push([0]) is None
    number = stalled.relay.count() - 1
    stalled.from_pusher(0).hold()
    stalled.from_pusher(number).hold(after=HEAD + MIB // 2)
    check_refusal(stalled.push(ALL), S.LLM_TIMEOUT, UNCONFIRMED)
    if barrier == "unregister":
        stalled.owner.call("unregister", "kv")
    else:
        assert stalled.owner.unlink(stalled.pusher, force=True) == S.LLM_SUCCESS
    stalled.give_to_another()
    stalled.release(number)
    stalled.untouched()


@pytest.mark.rule("C6.6-3")
def test_nothing_of_a_pusher_that_died_lands_once_the_owner_has_noticed(stalled: Scene) -> None:
    number = stalled.stall_next_push(HEAD + MIB // 2)
    push = stalled.pusher.start_call("push", "kv", stalled.key, ALL, ALL)
    stalled.from_pusher(number).wait_until_passed(HEAD + MIB // 2)
    stalled.pusher.kill()
    assert push.done()
    notices(stalled.owner, stalled.pusher.cluster_id)
    stalled.give_to_another()
    stalled.release(number)
    stalled.untouched()


@pytest.mark.rule("C6.6-3")
def test_an_owner_that_was_stopped_looks_at_the_end_before_the_bytes(stage: Stage) -> None:
    path = helped_path()
    pair = stage.pair(path, GEOMETRY, sync_timeout_ms=300)
    pair.puller.push("kv", BlocksCacheKey(OWNER, 0), [0], [0])
    before = moved(pair.source.filled(), pair.target.filled(), [0], [0])
    pair.owner.stop()
    error = pair.puller.start_call("push", "kv", BlocksCacheKey(OWNER, 0), ALL, ALL).exception()
    check_refusal(error, S.LLM_TIMEOUT, UNCONFIRMED)
    pair.owner.go_on()
    # Answered after all that lay in the connections.
    pair.puller.push("kv", BlocksCacheKey(OWNER, 0), [1], [1])
    check(pair.source, moved(before, pair.target.filled(), [1], [1]))


@pytest.mark.rule("C6.6-4")
def test_nothing_of_a_failed_pull_lands_with_the_caller(stalled: Scene) -> None:
    """The owner pulls here, and the pusher is the one that is read from."""
    if stalled.pusher_dials:
        stalled.relay.stall_next(client=MIB)
    else:
        stalled.relay.stall_next(server=MIB)
    number = stalled.relay.count()
    key = BlocksCacheKey(stalled.pusher.cluster_id, 0)
    error = stalled.owner.start_call("pull", "kv", key, ALL, ALL).exception()
    check_refusal(error, S.LLM_TIMEOUT)
    stalled.give_to_another()
    stalled.release(number)
    stalled.untouched()
