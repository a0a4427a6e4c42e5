# SPDX-License-Identifier: Apache-2.0
"""Peers that are stopped or killed, and calls from which HIXL does not return: every call of the
client ends by its deadline, and nobody else is held up.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from llm_datadist import BlocksCacheKey, LLMException, LLMStatusCode
from llm_datadist._native.control import runtime_control
from llm_datadist.testing import Geometry, Peer, check, eventually, moved
from llm_datadist.testing.actor import EngineSpec

S = LLMStatusCode
pytestmark = pytest.mark.versions
OWNER, PULLER, OTHER = 7, 8, 9
SMALL = Geometry()
DEADLINE_MS = 1000
# What a call may take beyond its deadline.
MORE_S = 1.0
DEVICE = "ge.exec.deviceId"


def key(cluster_id: int = OWNER, model_id: int = 0) -> BlocksCacheKey:
    return BlocksCacheKey(cluster_id, model_id)


def three(peers) -> tuple[Peer, Peer, Peer]:
    """An owner, and two that are connected to it, as it is to them."""
    ends = [peers.start(cluster_id, sync_timeout_ms=DEADLINE_MS) for cluster_id in (7, 8, 9)]
    for peer in ends:
        peer.register("kv", SMALL, peer.cluster_id, 0)
        peer.register("spare", SMALL, peer.cluster_id, 1)
    owner, *pullers = ends
    for puller in pullers:
        assert puller.link(owner) == S.LLM_SUCCESS
        puller.pull("spare", key(), [0], [0])
        owner.pull("spare", key(puller.cluster_id), [0], [0])
    return owner, pullers[0], pullers[1]


def seconds_of(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def unregister_in_time(peer: Peer, name: str = "kv") -> str:
    """Unregister, which may only time out; the text of that, or ""."""
    text = ""

    def call() -> None:
        nonlocal text
        error = peer.start_call("unregister", name).exception()
        if error is not None:
            assert error.status_code == S.LLM_TIMEOUT
            text = str(error)

    assert seconds_of(call) < DEADLINE_MS / 1000 + MORE_S
    return text


def register_again(actor: Any, name: str) -> None:
    addrs = actor.caches[name].tensor_addrs
    actor.datadist.cache_manager.register_blocks_cache(SMALL.desc(), addrs, key())


def test_a_stopped_peer(peers) -> None:
    owner, stopped, other = three(peers)
    stopped.stop()
    assert "must not be used yet" in unregister_in_time(owner)
    assert unregister_in_time(other) == ""
    # Nor does HIXL get a call that it would not return from.
    error = owner.start_call("pull", "spare", key(PULLER), [1], [1]).exception()
    assert error.status_code == S.LLM_TIMEOUT
    other.pull("spare", key(OWNER, 1), [2], [2])
    assert "under way 0" in owner.call(calls)
    assert seconds_of(lambda: owner.call("finalize")) < 10
    stopped.go_on()


def test_a_stopped_peer_that_is_not_connected(peers) -> None:
    """HIXL would give the memory back: the peer's own word is needed as well."""
    owner, stopped, _ = three(peers)
    # Ends the connections of all peers, which connect again with their next transfer.
    assert unregister_in_time(owner) == ""
    stopped.stop()
    assert f"cluster {PULLER}" in unregister_in_time(owner, "spare")
    stopped.go_on()


def test_a_killed_peer(peers) -> None:
    """Its process has ended, so nobody is in the memory: it is given back at once, and the range
    may be registered again, though HIXL keeps it until it has missed the heartbeat for long.
    """
    owner, killed, other = three(peers)
    killed.kill()
    eventually(lambda: states(owner)[PULLER] == "PEER_GONE", "the owner has noticed it")
    began = time.monotonic()
    assert unregister_in_time(owner) == ""
    assert time.monotonic() - began < DEADLINE_MS / 1000
    owner.call(register_again, "kv")
    assert unregister_in_time(other) == ""
    other.pull("spare", key(OWNER, 1), [3], [3])


def states(peer: Peer) -> dict[int, str]:
    return {link.peer_cluster_id: link.state.name for link in peer.call("links")}


def occupy_descriptors(actor: Any) -> None:
    """Everything that is closed from now on, and opened again, is one of these."""
    actor.files = [os.open("/dev/null", os.O_RDONLY) for _ in range(200)]


def descriptors_are_there(actor: Any) -> bool:
    return all(os.fstat(fd) for fd in actor.files)


def test_no_foreign_descriptor_is_touched(peers) -> None:
    """HIXL closes a number once more when it disconnects from a peer that is gone."""
    owner, killed, _ = three(peers)
    killed.kill()
    eventually(lambda: states(owner)[PULLER] == "PEER_GONE", "the owner has noticed it")
    owner.call(occupy_descriptors)
    unregister_in_time(owner)
    assert owner.unlink(killed, force=True, timeout_ms=500) == S.LLM_SUCCESS
    owner.call("finalize")
    assert owner.call(descriptors_are_there)


def calls(actor: Any) -> str:
    return runtime_control("calls")


HANG_MS = 4000


@pytest.mark.parametrize("point", ["disconnect", "deregister", "transfer"])
def test_a_call_that_does_not_return(peers, faults, point: str) -> None:
    owner, puller, other = three(peers)
    faults.order(f"{point}-hang", HANG_MS)
    if point == "transfer":
        error = owner.start_call("pull", "spare", key(PULLER), [1], [1]).exception()
        assert error.status_code == S.LLM_TIMEOUT
        assert "HIXL has not returned" in str(error)
    assert unregister_in_time(owner) != ""
    assert faults.left() == 0

    # Of the process that had the call: each of the three disconnects.
    def described() -> str:
        return "".join(peer.call(calls) for peer in (owner, puller, other))

    assert "HIXL has not returned for" in described()
    eventually(lambda: "late calls of HIXL 1" in described(), "it is counted", 5)
    assert unregister_in_time(other) == ""
    other.pull("spare", key(OWNER, 1), [2], [2])
    eventually(
        lambda: all("under way 0" in peer.call(calls) for peer in (owner, puller, other)),
        "HIXL has returned",
        10,
    )
    puller.pull("spare", key(OWNER, 1), [3], [3])


def finalize_and_open_again(actor: Any, device: str) -> tuple[float, list[str], str]:
    """How long it took, what was warned of, and why the device is refused."""
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        actor.datadist.finalize()
    took = time.monotonic() - began
    try:
        EngineSpec(5, listen="127.0.0.1:0", options={DEVICE: device}).open().finalize()
    except LLMException as error:
        return took, [str(each.message) for each in caught], str(error)
    return took, [str(each.message) for each in caught], ""


def open_again(actor: Any, device: str) -> bool:
    try:
        EngineSpec(5, listen="127.0.0.1:0", options={DEVICE: device}).open().finalize()
    except LLMException:
        return False
    return True


def test_finalize_does_not_wait_for_ever(peers, faults) -> None:
    peer = peers.start(OWNER, options={"lldd.FinalizeTimeout": "300", DEVICE: "3"})
    faults.order("finalize-hang", HANG_MS // 2)
    took, warned, refused = peer.call(finalize_and_open_again, "3")
    assert took < 0.3 + MORE_S
    assert [text for text in warned if "device 3 and the memory of its pools stay taken" in text]
    assert "HIXL has not returned" in refused
    assert "device 3 is still taken by an engine of this process" in refused
    # When HIXL has returned, the device is free.
    eventually(lambda: peer.call(open_again, "3"), "the device is free again", 10)


def test_pulls_go_on_when_the_other_end_connected_anew(old_peers) -> None:
    """HIXL 8.5.0 then forgets the segments of both directions, which only staging looks at."""
    owner, puller, _ = three(old_peers)
    source, target = puller.register("more", SMALL, 5, 2), owner.register("more", SMALL, 6, 2)
    # The owner's connection is made anew, since it has younger memory.
    owner.push("more", key(PULLER), [1], [1])
    puller.pull("spare", key(OWNER, 1), [3], [3])
    assert source.stamp != target.stamp


def test_moved_bytes_are_right_on_the_oldest(old_peers) -> None:
    owner = old_peers.start(OWNER)
    puller = old_peers.start(PULLER, listen=None)
    source, target = owner.register("kv", SMALL, 1, 0), puller.register("kv", SMALL, 2)
    assert puller.link(owner) == S.LLM_SUCCESS
    puller.pull("kv", key(), [0], [1])
    check(target, moved(target.filled(), source.filled(), [0], [1]))
