# SPDX-License-Identifier: Apache-2.0
"""One-sided access ends when its owner says so: docs/architecture.md "Withdrawing memory"."""

from __future__ import annotations

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.testing import Geometry, check
from tests.conformance.paths import ON_DEVICE, Path
from tests.conformance.refusals import refused_by_engine
from tests.conformance.stage import OWNER, PULLER, Stage, linked
from tests.conformance.work import repeat_whatever_happens, stamps_in

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
GEOMETRY = Geometry(num_tensors=2, num_blocks=32, block_bytes=32 << 10)
ALL = list(range(GEOMETRY.num_blocks))
# What the owner puts into its memory once it is its own again.
AFTERWARDS = 99


@pytest.mark.sanitize
@pytest.mark.threads
@pytest.mark.parametrize("memory", ["kept", "unmapped", "mapped anew"])
@pytest.mark.parametrize("round_", range(3))
def test_unregistered_and_freed_while_peers_pull_and_push(
    stage: Stage, registered_path: Path, memory: str, round_: int
) -> None:
    owner = stage.engine(OWNER, registered_path, sync_timeout_ms=10000)
    # A device's memory can be given back, but comes back elsewhere.
    kind = None if memory == "kept" or ON_DEVICE else "mmap"
    source = owner.register("kv", GEOMETRY, 1, 0, memory_kind=kind)
    peers = [
        stage.engine(PULLER + i, registered_path, listen=None, sync_timeout_ms=10000)
        for i in range(2)
    ]
    for peer in peers:
        peer.register("pulled", GEOMETRY, 2)
        peer.register("pushed", GEOMETRY, 3)
        linked(peer, owner)
        registered_path.require(peer, owner, stage.process_vm_refused)
    calls = []
    for peer in peers:
        for operation, name in (("pull", "pulled"), ("push", "pushed")):
            calls.append(
                peer.start_call(repeat_whatever_happens, operation, name, KEY, ALL, operation)
            )
    for peer in peers:
        peer.wait_for("pull LLM_SUCCESS", times=1 + round_)
        peer.wait_for("push LLM_SUCCESS", times=1 + round_)

    # One call, so that not even a message passes between the withdrawal and the new contents.
    owner.call(withdraw_and_reuse, memory)

    for peer in peers:
        peer.wait_for("pull LLM_FAILED", times=5)
        peer.wait_for("push LLM_FAILED", times=5)
    for peer in peers:
        peer.set_flag("pull")
        peer.set_flag("push")
    for call in calls:
        assert set(call.result()) == {"LLM_SUCCESS", "LLM_FAILED"}
    if memory != "unmapped":
        check(source, GEOMETRY.filled(AFTERWARDS))
    for peer in peers:
        # Of the owner, the puller or a pushing peer; zeros where a transfer was cut off.
        assert peer.call(stamps_in, "pulled") <= {0, 1, 2, 3}
        with refused_by_engine("pull_blocks", S.LLM_FAILED, OWNER):
            peer.pull("pulled", KEY, [0], [0])


def withdraw_and_reuse(actor, memory: str) -> None:
    actor.unregister("kv")
    if memory != "kept":
        actor.memory_call("kv", "unmap")
    if memory == "mapped anew":
        actor.memory_call("kv", "map_again")
    if memory != "unmapped":
        actor.fill("kv", AFTERWARDS)


@pytest.mark.sanitize
def test_what_the_caller_unregisters_is_no_longer_his_cache(
    stage: Stage, registered_path: Path
) -> None:
    pair = stage.pair(registered_path)
    pair.puller.call("unregister", "kv")
    for operation in ("pull", "push"):
        with refused_by_engine(f"{operation}_blocks", S.LLM_KV_CACHE_NOT_EXIST, 1):
            getattr(pair.puller, operation)("kv", KEY, [0], [0])
    check(pair.target, pair.target.filled())


@pytest.mark.threads
@pytest.mark.parametrize("operation", ["pull", "push"])
def test_the_caller_unregisters_during_his_own_transfers(
    stage: Stage, registered_path: Path, operation: str
) -> None:
    pair = stage.pair(registered_path, GEOMETRY, sync_timeout_ms=10000)
    call = pair.puller.start_call(repeat_whatever_happens, operation, "kv", KEY, ALL, "repeat")
    pair.puller.wait_for("repeat LLM_SUCCESS", times=3)
    pair.puller.call(unregister_and_fill)
    pair.puller.wait_for("repeat LLM_KV_CACHE_NOT_EXIST", times=3)
    pair.puller.set_flag("repeat")
    assert set(call.result()) == {"LLM_SUCCESS", "LLM_KV_CACHE_NOT_EXIST"}
    check(pair.target, GEOMETRY.filled(AFTERWARDS))


def unregister_and_fill(actor) -> None:
    actor.unregister("kv")
    actor.fill("kv", AFTERWARDS)


def test_a_dead_peer_does_not_hold_up_the_owner(stage: Stage, registered_path: Path) -> None:
    pair = stage.pair(registered_path, GEOMETRY, sync_timeout_ms=20000)
    call = pair.puller.start_call(repeat_whatever_happens, "pull", "kv", KEY, ALL, "repeat")
    pair.puller.wait_for("repeat LLM_SUCCESS", times=2)
    pair.puller.kill()
    assert call.done()
    pair.owner.start_call("unregister", "kv").result(5)
    pair.owner.start_call("finalize").result(5)


def test_a_stopped_peer_in_the_memory_holds_up_the_owner_for_the_deadline_at_most(
    stage: Stage, registered_path: Path
) -> None:
    pair = stage.pair(registered_path, GEOMETRY, sync_timeout_ms=500)
    call = pair.puller.start_call(repeat_whatever_happens, "pull", "kv", KEY, ALL, "repeat")
    pair.puller.wait_for("repeat LLM_SUCCESS", times=2)
    # Wherever it was stopped, in the memory or not, the answer comes in time.
    pair.puller.stop()
    error = pair.owner.start_call("unregister", "kv").exception(5)
    assert error is None or error.status_code == S.LLM_TIMEOUT
    pair.puller.go_on()
    pair.puller.wait_for("repeat LLM_FAILED")
    pair.puller.set_flag("repeat")
    call.result()
