# SPDX-License-Identifier: Apache-2.0
"""Memory that is withdrawn while peers are connected, connecting, stopped, or refused by HIXL.

HIXL lets an owner deregister what no connection knows, and tells nobody when that is.
"""

from __future__ import annotations

import time

import pytest

from llm_datadist import BlocksCacheKey, LLMException, LLMStatusCode
from llm_datadist.testing import Geometry, Peer, check, eventually, moved

S = LLMStatusCode
pytestmark = pytest.mark.versions
OWNER, PULLER = 7, 8
SMALL = Geometry()
LONG_MS = 20_000


def key(model_id: int = 0, cluster_id: int = OWNER) -> BlocksCacheKey:
    return BlocksCacheKey(cluster_id, model_id)


def linked(owner: Peer, *others: Peer) -> None:
    for other in others:
        assert other.link(owner) == S.LLM_SUCCESS


def connected_pair(peers, owner_ms: int = 1000, puller_ms: int = 1000):
    """An owner and a puller, with a cache each, that are connected from both ends."""
    owner = peers.start(OWNER, sync_timeout_ms=owner_ms)
    puller = peers.start(PULLER, listen=None, sync_timeout_ms=puller_ms)
    source = owner.register("kv", SMALL, 1, 0)
    target = puller.register("kv", SMALL, 2, 0)
    linked(owner, puller)
    puller.pull("kv", key(), [0], [0])
    # The owner's connection is made in the background, unless a transfer comes first.
    owner.register("spare", SMALL, 3)
    owner.pull("spare", key(0, PULLER), [0], [0])
    return owner, puller, source, target


def failure(call) -> LLMException:
    with pytest.raises(LLMException) as caught:
        call()
    return caught.value


def repeat(actor, operation: str, model_id: int, flag: str) -> int:
    """Until the flag is set; everything must succeed."""
    manager = actor.datadist.cache_manager
    done = 0
    while not actor.flag(flag).is_set():
        getattr(manager, f"{operation}_blocks")(
            BlocksCacheKey(OWNER, model_id), actor.caches["kv"].cache, [0], [0]
        )
        done += 1
        actor.announce(flag)
    return done


def register_again(actor, name: str, model_id: int) -> None:
    addrs = actor.caches[name].tensor_addrs
    actor.datadist.cache_manager.register_blocks_cache(SMALL.desc(), addrs, key(model_id))


def test_under_traffic(peers):
    """Of other memory, from both ends: every transfer and every withdrawal succeeds."""
    owner = peers.start(OWNER, sync_timeout_ms=LONG_MS)
    pullers = [peers.start(PULLER + i, listen=None, sync_timeout_ms=LONG_MS) for i in range(2)]
    owner.register("kv", SMALL, 1, 0)
    for model_id in range(1, 11):
        owner.register(f"taken {model_id}", SMALL, 1, model_id)
    for puller in pullers:
        puller.register("kv", SMALL, 2)
    linked(owner, *pullers)
    calls = [
        puller.start_call(repeat, operation, 0, operation)
        for puller, operation in zip(pullers, ("pull", "push"))
    ]
    for puller, operation in zip(pullers, ("pull", "push")):
        puller.wait_for(operation, times=10)
    for model_id in range(1, 11):
        owner.call("unregister", f"taken {model_id}")
        # HIXL has given it back: the same range is another registration.
        owner.call(register_again, f"taken {model_id}", 100 + model_id)
    for puller, operation in zip(pullers, ("pull", "push")):
        puller.set_flag(operation)
    for call in calls:
        assert call.result() > 10


def test_two_that_take_memory_back_from_each_other(peers):
    ends = [
        peers.start(OWNER, sync_timeout_ms=LONG_MS),
        peers.start(PULLER, listen=None, sync_timeout_ms=LONG_MS),
    ]
    for peer in ends:
        for model_id in range(10):
            peer.register(f"kv {model_id}", SMALL, 1, model_id)
    linked(*ends)
    for model_id in range(10):
        calls = [peer.start_call("unregister", f"kv {model_id}") for peer in ends]
        for call in calls:
            call.result()


def test_one_that_is_stopped_holds_nobody_else_up(peers):
    owner = peers.start(OWNER, sync_timeout_ms=LONG_MS)
    stopped, other, third = (peers.start(PULLER + i, listen=None) for i in range(3))
    owner.register("kv", SMALL, 1, 0)
    owner.register("kept", SMALL, 3, 1)
    for puller in (stopped, other, third):
        puller.register("kv", SMALL, 2)
    linked(owner, stopped, other, third)
    stopped.stop()
    call = owner.start_call(announced_unregister, "kv")
    owner.wait_for("unregister")
    # While it waits for the one: links end, are made, and move bytes.
    started = time.monotonic()
    assert third.unlink(owner) == S.LLM_SUCCESS
    assert third.link(owner) == S.LLM_SUCCESS
    for puller in (other, third):
        puller.pull("kv", key(1), [3], [4])
    # Far less than what it waits at most.
    assert time.monotonic() - started < LONG_MS / 1000 / 2
    stopped.go_on()
    call.result()


def announced_unregister(actor, name: str) -> None:
    actor.announce("unregister")
    actor.unregister(name)


def test_a_peer_that_still_connects_when_its_link_has_ended(peers, faults):
    """Nothing of it arrives in memory that the owner uses for something else."""
    owner, puller, cache, _ = connected_pair(peers, 500, LONG_MS)
    # A push of memory registered since connects anew, and that takes long.
    puller.register("late", SMALL, 5)
    faults.order("connect-ms", 3000)
    call = puller.start_call("push", "late", key(), [1], [1])
    eventually(lambda: faults.left() == 0, "it connects")
    assert owner.unlink(puller, force=True, timeout_ms=500) == S.LLM_SUCCESS
    # It has not said that it has left, and its process lives.
    error = failure(lambda: owner.call("unregister", "kv"))
    assert "its connection broke" in str(error)
    assert "must not be used yet" in str(error)
    assert call.exception().status_code == S.LLM_TIMEOUT
    check(cache, cache.filled())


def test_a_background_connect_that_takes_long_delays_no_answer(peers, faults):
    busy = peers.start(OWNER)
    owner = peers.start(PULLER, listen=None, sync_timeout_ms=1500)
    slow = peers.start(PULLER + 1, listen=None)
    owner.register("kv", SMALL, 1, 0)
    slow.register("kv", SMALL, 1)
    busy.register("kv", SMALL, 1)
    linked(busy, owner)
    # That connection is there.
    busy.pull("kv", key(0, PULLER), [0], [0])
    # The first connect is the initiator's; the second is busy's own, which nobody waits for.
    faults.path.write_text("connect-ms 1 1\nconnect-ms 3000 1\n")
    linked(busy, slow)
    eventually(lambda: faults.left() == 0, "it connects in the background")
    # It would be a timeout.
    owner.call("unregister", "kv")


def test_links_made_while_others_end(peers):
    """A link that ends late does not take the place of one to the same engine."""
    engine = peers.start(OWNER)
    puller = peers.start(PULLER, listen=None)
    source = engine.register("kv", SMALL, 1, 0)
    engine.register("other", SMALL, 1, 1)
    target = puller.register("kv", SMALL, 2, 0)
    for _ in range(20):
        linked(engine, puller)
        assert puller.unlink(engine) == S.LLM_SUCCESS
    linked(engine, puller)
    puller.pull("kv", key(), [0], [0])
    engine.pull("kv", BlocksCacheKey(PULLER, 0), [1], [1])
    # All that knows the memory is found.
    engine.call("unregister", "other")
    check(target, moved(target.filled(), source.filled(), [0], [0]))


def test_a_disconnect_that_hixl_refuses_once(peers, faults):
    owner, _, _, _ = connected_pair(peers)
    faults.order("disconnect", 103901)
    owner.call("unregister", "kv")
    assert faults.left() == 0


def test_a_disconnect_that_hixl_refuses(peers, faults):
    owner, _, _, _ = connected_pair(peers, 500)
    faults.order("disconnect", 103901, times=100_000)
    error = failure(lambda: owner.call("unregister", "kv"))
    assert error.status_code == S.LLM_TIMEOUT
    assert "must not be used yet" in str(error)
    # Nor does the second call succeed before HIXL has let go of it.
    error = failure(lambda: owner.call("unregister", "kv"))
    assert error.status_code == S.LLM_TIMEOUT
    faults.order("disconnect", 103901, times=0)
    # What is left over is given back with the next.
    owner.register("other", SMALL, 1, 1)
    owner.call("unregister", "other")
    owner.call(register_again, "kv", 9)


def test_a_transfer_that_failed_and_could_not_disconnect(peers, faults):
    _, puller, source, target = connected_pair(peers)
    faults.path.write_text("transfer 103901 1\ndisconnect 503900 1\n")
    error = failure(lambda: puller.pull("kv", key(), [1], [1]))
    assert (error.status_code, error.raw) == (S.LLM_TIMEOUT, 103901)
    assert "disconnect from HIXL engine" in str(error)
    assert faults.left() == 0
    # The next one disconnects first.
    puller.pull("kv", key(), [2], [2])
    check(target, moved(target.filled(), source.filled(), [0, 2], [0, 2]))


@pytest.mark.rule("C6.6-6")
def test_a_second_unregister_finishes_what_the_first_left(peers):
    owner, puller, _, _ = connected_pair(peers, 500)
    puller.stop()
    for _ in ("the first", "the second"):
        assert failure(lambda: owner.call("unregister", "kv")).status_code == S.LLM_TIMEOUT
    puller.go_on()
    owner.call("unregister", "kv")
    owner.call(register_again, "kv", 9)


def test_a_stopped_peer_whose_link_was_forced_down(peers):
    owner, puller, _, _ = connected_pair(peers, 500)
    puller.stop()
    assert owner.unlink(puller, force=True, timeout_ms=500) == S.LLM_SUCCESS
    for _ in ("the first", "the second"):
        error = failure(lambda: owner.call("unregister", "kv"))
    assert "must not be used yet" in str(error)
    assert "cluster 8" in str(error)
    assert "s more unless it ends" in str(error)
    # Nor registered again, until it has ended.
    assert not registered_again(owner)
    puller.kill()
    eventually(lambda: registered_again(owner), "the peer has ended")


def registered_again(owner: Peer) -> bool:
    error = owner.start_call(register_again, "kv", 9).exception()
    assert error is None or "known to HIXL from an earlier registration" in str(error)
    return error is None
