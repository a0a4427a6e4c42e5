# SPDX-License-Identifier: Apache-2.0
"""Every number of HIXL and ACL arrives as its documented status, with the number, and the link
serves the next transfer: contract 2.1, decision 29.
"""

from __future__ import annotations

import pytest

from llm_datadist import BlocksCacheKey, LLMException, LLMStatusCode
from llm_datadist.testing import Geometry, check, eventually, moved

S = LLMStatusCode
OWNER, PULLER = 7, 8
KEY = BlocksCacheKey(OWNER, 0)
SMALL = Geometry()

OF_HIXL = [
    pytest.param(103900, S.LLM_PARAM_INVALID, "parameter invalid", id="parameter"),
    pytest.param(103901, S.LLM_TIMEOUT, "timeout", id="timeout"),
    pytest.param(103902, S.LLM_NOT_YET_LINK, "not connected", id="not-connected"),
    pytest.param(103905, S.LLM_FEATURE_NOT_ENABLED, "unsupported", id="unsupported"),
    pytest.param(203900, S.LLM_FAILED, "resources exhausted", id="resources"),
    pytest.param(503900, S.LLM_FAILED, "failed", id="failed"),
    pytest.param(507053, S.LLM_DEVICE_MEM_ERROR, "", id="device-memory"),
    pytest.param(507057, S.LLM_SUSPECT_REMOTE_ERROR, "", id="suspect-remote"),
    pytest.param(424242, S.LLM_FAILED, "", id="unknown"),
]
OF_ACL = [
    pytest.param(507046, S.LLM_TIMEOUT, id="stream-timeout"),
    pytest.param(507053, S.LLM_DEVICE_MEM_ERROR, id="device-memory"),
    pytest.param(507057, S.LLM_SUSPECT_REMOTE_ERROR, id="suspect-remote"),
    pytest.param(424242, S.LLM_FAILED, id="unknown"),
]


def linked_pair(peers):
    owner = peers.start(OWNER)
    puller = peers.start(PULLER, listen=None, device_pool=8 << 20)
    source = owner.register("kv", SMALL, 1, 0)
    target = puller.register("kv", SMALL, 2)
    assert puller.link(owner) == S.LLM_SUCCESS
    return owner, puller, source, target


def failure(call) -> LLMException:
    with pytest.raises(LLMException) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(("number", "status", "name"), OF_HIXL)
@pytest.mark.parametrize("operation", ["pull", "push"])
def test_a_transfer(peers, faults, operation, number, status, name):
    _, puller, source, target = linked_pair(peers)
    before = source.filled()
    for _ in range(2):
        faults.order("transfer", number)
        error = failure(lambda: getattr(puller, operation)("kv", KEY, [0, 1], [2, 3]))
        assert faults.left() == 0
        assert error.status_code == status
        assert error.raw == number
        assert f"HIXL status {number}" in str(error)
        assert name in str(error)
        # What CANN itself says of it.
        assert "ordered fault at transfer" in str(error)
        check(source, before)
        check(target, target.filled())
        # The link is a link still, and connects again if it has to.
        getattr(puller, operation)("kv", KEY, [5], [5])
        if operation == "pull":
            check(target, moved(target.filled(), source.filled(), [5], [5]))
            puller.call("fill", "kv", 2)
        else:
            before = moved(source.filled(), target.filled(), [5], [5])
            check(source, before)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(103901, S.LLM_TIMEOUT, id="timeout"),
        pytest.param(103902, S.LLM_LINK_FAILED, id="not-connected"),
        pytest.param(203900, S.LLM_LINK_FAILED, id="resources"),
        pytest.param(507057, S.LLM_SUSPECT_REMOTE_ERROR, id="suspect-remote"),
        pytest.param(424242, S.LLM_LINK_FAILED, id="unknown"),
    ],
)
def test_linking(peers, faults, number, status):
    owner = peers.start(OWNER)
    puller = peers.start(PULLER, listen=None)
    source = owner.register("kv", SMALL, 1, 0)
    target = puller.register("kv", SMALL, 2)
    faults.order("connect", number)
    assert puller.link(owner) == status
    assert faults.left() == 0
    assert puller.call("links") == []
    # The next try succeeds.
    assert puller.link(owner) == S.LLM_SUCCESS
    puller.pull("kv", KEY, [0], [1])
    check(target, moved(target.filled(), source.filled(), [0], [1]))


def test_connected_already_is_disconnected_first(peers, faults):
    owner = peers.start(OWNER)
    puller = peers.start(PULLER, listen=None)
    owner.register("kv", SMALL, 1, 0)
    puller.register("kv", SMALL, 2)
    faults.order("connect", 103903)
    assert puller.link(owner) == S.LLM_SUCCESS
    assert faults.left() == 0
    puller.pull("kv", KEY, [0], [1])


@pytest.mark.parametrize(("number", "status"), OF_ACL)
@pytest.mark.parametrize("point", ["memcpy", "synchronize"])
def test_a_local_copy(peers, faults, point, number, status):
    peer = peers.start(OWNER, device_pool=8 << 20)
    cache = peer.allocate("kv", SMALL, 1)
    faults.order(point, number)
    error = failure(lambda: peer.call(copy_blocks, 0, 1))
    assert faults.left() == 0
    assert error.status_code == status
    assert error.raw == number
    assert f"ACL error {number}" in str(error)
    assert f"ordered fault at {point}" in str(error)
    peer.call(copy_blocks, 2, 3)
    assert (cache.read()[:, 3] == cache.filled()[:, 2]).all()


def copy_blocks(actor, src: int, dst: int) -> None:
    actor.datadist.cache_manager.copy_blocks(actor.caches["kv"].cache, {src: [dst]})


@pytest.mark.parametrize(
    ("point", "number", "status"),
    [
        pytest.param("initialize", 103900, S.LLM_PARAM_INVALID, id="hixl"),
        pytest.param("malloc", 207001, S.LLM_OUT_OF_MEMORY, id="memory"),
        pytest.param("register", 503900, S.LLM_FAILED, id="registration-of-the-pool"),
    ],
)
def test_opening(peers, faults, point, number, status):
    faults.order(point, number)
    error = failure(lambda: peers.start(OWNER, device_pool=8 << 20))
    assert faults.left() == 0
    assert error.status_code == status
    assert error.raw == number
    # Nothing of it is left: the next one opens.
    peers.start(OWNER, device_pool=8 << 20)


def test_registering(peers, faults):
    peer = peers.start(OWNER)
    faults.order("register", 203900)
    error = failure(lambda: peer.register("kv", SMALL, 1))
    assert (error.status_code, error.raw) == (S.LLM_FAILED, 203900)
    peer.register("kv", SMALL, 1)


def test_memory_that_hixl_does_not_give_back(peers, faults):
    owner, puller, source, target = linked_pair(peers)
    puller.pull("kv", KEY, [9], [9])
    # A refusal or two would be outlasted.
    faults.order("deregister", 503900, times=100_000)
    error = failure(lambda: owner.call("unregister", "kv"))
    assert (error.status_code, error.raw) == (S.LLM_TIMEOUT, 503900)
    # For peers it is gone all the same.
    gone = failure(lambda: puller.pull("kv", KEY, [0], [0]))
    assert gone.status_code == S.LLM_FAILED
    check(target, moved(target.filled(), source.filled(), [9], [9]))
    # The same range again works meanwhile.
    owner.call(register_again)
    faults.order("deregister", 503900, times=0)
    assert puller.unlink(owner) == puller.link(owner) == S.LLM_SUCCESS
    puller.pull("kv", KEY, [3], [3])
    check(target, moved(target.filled(), source.filled(), [3, 9], [3, 9]))


def register_again(actor) -> None:
    addrs = actor.caches["kv"].tensor_addrs
    actor.datadist.cache_manager.register_blocks_cache(SMALL.desc(), addrs, KEY)


@pytest.mark.parametrize("dies", [True, False])
def test_a_failed_transfer_of_a_silent_peer(peers, faults, dies):
    """HIXL does not say that a peer is gone, so it is asked; one that is silent may live."""
    owner = peers.start(OWNER)
    puller = peers.start(PULLER, listen=None, sync_timeout_ms=20_000 if dies else 500)
    owner.register("kv", SMALL, 1, 0)
    puller.register("kv", SMALL, 2)
    assert puller.link(owner) == S.LLM_SUCCESS
    puller.pull("kv", KEY, [0], [0])
    owner.stop()
    faults.order("transfer", 503900)
    pull = puller.start_call("pull", "kv", KEY, [0], [1])
    eventually(lambda: faults.left() == 0, "HIXL has failed")
    if dies:
        owner.kill()
    error = pull.exception()
    assert isinstance(error, LLMException)
    assert error.raw == 503900
    assert error.status_code == (S.LLM_TIMEOUT if dies else S.LLM_FAILED)
    assert ("connection closed" in str(error)) == dies
    if not dies:
        owner.go_on()
