# SPDX-License-Identifier: Apache-2.0
"""What ends transfers that wait for a silent peer, and what waits for them: decisions 82 and 83."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from llm_datadist import BlocksCacheKey, LLMException, LLMStatusCode
from llm_datadist.introspection import LinkState
from llm_datadist.testing.actor import ClusterAddress
from llm_datadist.testing.peer import PeerCall
from tests.conformance.paths import ON_ASCEND, helped_path
from tests.conformance.refusals import check_refusal, refused
from tests.conformance.stage import OWNER, SMALL, Pair, Stage

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
# Of each transfer; what must not wait for them ends long before.
SYNC_MS = 20000
SOON_S = 5
WAITING = 4


def transfer_and_tell(actor: Any, operation: str) -> Exception | None:
    actor.announce("begins")
    try:
        getattr(actor, operation)("kv", KEY, [0], [0])
    except (LLMException, RuntimeError) as error:
        return error
    return None


def unlink_and_time(actor: Any, cluster: ClusterAddress, timeout_ms: int, force: bool):
    start = time.monotonic()
    answer = actor.unlink([cluster], timeout_ms, force)
    return time.monotonic() - start, answer.status


def hanging(stage: Stage, waits: str, operation: str) -> tuple[Pair, list[PeerCall]]:
    """A pair whose owner is stopped, and the puller's transfers: one runs, the others wait for it.

    Args:
        stage: makes the pair.
        waits: what the running one waits for: "bytes", "table", or "owner" (request mode).
        operation: "pull" or "push".
    """
    if ON_ASCEND and waits == "bytes":
        pytest.skip("capability interruptible transfers: HIXL returns at its own deadline")
    pair = stage.pair(helped_path(), SMALL, sync_timeout_ms=SYNC_MS, one_sided=waits != "owner")
    if waits == "bytes":
        getattr(pair.puller, operation)("kv", KEY, [0], [0])
    pair.owner.stop()
    calls = [pair.puller.start_call(transfer_and_tell, operation) for _ in range(WAITING)]
    pair.puller.wait_for("begins", times=WAITING)
    return pair, calls


def check_interrupted(calls: list[PeerCall], by: str, too_late: LLMStatusCode) -> None:
    """They ended soon. One that had not yet found the engine or the link may have come too late."""
    errors = [call.result(SOON_S) for call in calls]
    interrupted = 0
    for error in errors:
        if not isinstance(error, LLMException):
            assert "not initialized" in str(error)
        elif error.status_code != too_late:
            check_refusal(error, S.LLM_TIMEOUT, OWNER, f"interrupted by {by}")
            interrupted += 1
    assert interrupted > 0


WAITS = pytest.mark.parametrize(
    ("waits", "operation"),
    [("bytes", "pull"), ("bytes", "push"), ("table", "pull"), ("owner", "pull")],
)


@pytest.mark.rule("C7.2-6", "C10-83")
@WAITS
def test_a_forced_unlink_interrupts_transfers(stage: Stage, waits: str, operation: str) -> None:
    pair, calls = hanging(stage, waits, operation)
    taken, status = pair.puller.call(unlink_and_time, pair.owner.cluster(), 3000, True)
    assert status == S.LLM_SUCCESS
    assert taken < SOON_S
    check_interrupted(calls, "unlink", S.LLM_NOT_YET_LINK)
    with refused(S.LLM_NOT_YET_LINK, OWNER):
        pair.puller.pull("kv", KEY, [0], [0])
    pair.owner.go_on()


@pytest.mark.rule("C7.8-2", "C10-83")
@WAITS
def test_finalize_interrupts_transfers(stage: Stage, waits: str, operation: str) -> None:
    pair, calls = hanging(stage, waits, operation)
    start = time.monotonic()
    pair.puller.finalize()
    assert time.monotonic() - start < SOON_S
    check_interrupted(calls, "finalize", S.LLM_ENGINE_FINALIZED)
    pair.owner.go_on()


@pytest.mark.rule("C5.2-10", "C7.2-8", "C7.8-4", "C10-82")
@pytest.mark.parametrize("waits", ["table", "owner"])
def test_c7_2_8_an_unlink_without_force_waits_within_its_timeout(stage: Stage, waits: str) -> None:
    pair, calls = hanging(stage, waits, "pull")
    taken, status = pair.puller.call(unlink_and_time, pair.owner.cluster(), 600, False)
    assert status == S.LLM_TIMEOUT
    assert 0.5 < taken < 2
    # Nothing has changed, neither for the link nor for the transfers.
    assert [link.state for link in pair.puller.call("links")] == [LinkState.LIVE]
    pair.owner.go_on()
    assert [call.result() for call in calls] == [None] * WAITING
    taken, status = pair.puller.call(unlink_and_time, pair.owner.cluster(), SYNC_MS, False)
    assert status == S.LLM_SUCCESS


@pytest.mark.rule("C7.8-2", "C10-83")
def test_finalize_interrupts_linking_to_a_silent_listener(stage: Stage) -> None:
    puller = stage.engine(OWNER, listen=None)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cluster = ClusterAddress(9, silent.getsockname())
        call = puller.start_call("link", [cluster], SYNC_MS)
        accepted, _ = silent.accept()
        with accepted:
            start = time.monotonic()
            puller.finalize()
            assert time.monotonic() - start < SOON_S
            # The answer is LLM_TIMEOUT, unless the object that gives it has no engine by then.
            error = call.exception(SOON_S)
            if error is None:
                assert call.result().status == S.LLM_TIMEOUT
            else:
                assert "not initialized" in str(error)
