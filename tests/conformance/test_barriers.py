# SPDX-License-Identifier: Apache-2.0
"""A pusher that was stopped within a piece: no barrier of the owner is over before it is out."""

from __future__ import annotations

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.testing import Geometry, Peer, PeerCall, check
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance.paths import Path
from tests.conformance.refusals import check_refusal
from tests.conformance.relay import relay
from tests.conformance.stage import OWNER, PULLER, Stage, notices
from tests.conformance.work import repeat_whatever_happens

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
# Large enough that a push is within a piece at almost any time while it is repeated.
GEOMETRY = Geometry(num_tensors=2, num_blocks=64, block_bytes=128 << 10)
ALL = list(range(GEOMETRY.num_blocks))
# What the owner puts into its memory once it is its own again.
AFTERWARDS = 99


def stop_within_a_piece(pusher: Peer, owner: Peer, inside: int = 1) -> PeerCall:
    """Have the pusher repeat a push, and stop it while it is inside the owner's memory, as one of
    so many.
    """
    call = pusher.start_call(repeat_whatever_happens, "push", "kv", KEY, ALL, "repeat")
    for attempt in range(100):
        pusher.wait_for("repeat LLM_SUCCESS", times=attempt + 1)
        pusher.stop()
        if f"({inside} inside)" in owner.start_call("runtime_control", "devices", "").result():
            return call
        pusher.go_on()
    pytest.fail("the pusher was outside the memory each time that it was stopped")


def end(pusher: Peer, call: PeerCall) -> None:
    pusher.set_flag("repeat")
    call.result()


def needs_a_shared_host(path: Path) -> None:
    if path.needs_the_peer:
        pytest.skip("capability one-sided writes: this path needs the owner's help")


@pytest.mark.rule("C6.6-5", "C6.6-6")
def test_unregistering_does_not_end_before_a_stopped_pusher(
    stage: Stage, registered_path: Path
) -> None:
    needs_a_shared_host(registered_path)
    pair = stage.pair(registered_path, GEOMETRY, sync_timeout_ms=500)
    call = stop_within_a_piece(pair.puller, pair.owner)
    for _ in ("the first", "a second, for which nothing has changed"):
        error = pair.owner.start_call("unregister", "kv").exception()
        check_refusal(error, S.LLM_TIMEOUT, f"pid {pair.puller.pid}")
    pair.puller.go_on()
    pair.owner.call("unregister", "kv")
    pair.owner.call("fill", "kv", AFTERWARDS)
    pair.puller.wait_for("repeat LLM_FAILED")
    check(pair.source, GEOMETRY.filled(AFTERWARDS))
    end(pair.puller, call)


@pytest.mark.rule("C6.6-5", "C6.6-6")
def test_a_forced_unlink_does_not_end_before_a_stopped_pusher(stage: Stage, path: Path) -> None:
    needs_a_shared_host(path)
    pair = stage.pair(path, GEOMETRY, sync_timeout_ms=500)
    call = stop_within_a_piece(pair.puller, pair.owner)
    for _ in ("the first", "a second, when there is no link any more"):
        answer = pair.owner.unlink_from(pair.puller.cluster(), timeout_ms=200, force=True)
        assert answer.status == S.LLM_TIMEOUT
        assert f"pid {pair.puller.pid}" in answer.details[0]
    pair.puller.go_on()
    assert pair.owner.unlink(pair.puller, force=True) == S.LLM_SUCCESS
    pair.owner.call("fill", "kv", AFTERWARDS)
    end(pair.puller, call)
    check(pair.source, GEOMETRY.filled(AFTERWARDS))


@pytest.mark.rule("C6.6-5", "C6.6-6")
def test_nor_does_a_barrier_whose_connection_to_the_pusher_broke(
    stage: Stage, registered_path: Path
) -> None:
    """Nothing but the end of the process, or of the piece, ends the wait."""
    needs_a_shared_host(registered_path)
    owner = stage.engine(OWNER, registered_path, sync_timeout_ms=500)
    pusher = stage.engine(PULLER, registered_path, listen=None, sync_timeout_ms=500)
    for stamp, peer in enumerate((owner, pusher)):
        peer.register("kv", GEOMETRY, stamp, 0)
    with relay(owner.listen_address) as between:
        linked_to = pusher.link_to(ClusterAddress(OWNER, between.address))
        assert linked_to.status == S.LLM_SUCCESS, linked_to
        registered_path.require(pusher, owner, stage.process_vm_refused)
        stop_within_a_piece(pusher, owner)
        between.cut()
        notices(owner, PULLER)
        error = owner.start_call("unregister", "kv").exception()
        check_refusal(error, S.LLM_TIMEOUT, f"pid {pusher.pid}")
        answer = owner.unlink_from(pusher.cluster(), timeout_ms=200, force=True)
        assert answer.status == S.LLM_TIMEOUT
        pusher.kill()
        owner.call("unregister", "kv")
        # The owner's memory is its own as soon as the process has ended.
        assert owner.unlink(pusher, force=True) == S.LLM_SUCCESS
