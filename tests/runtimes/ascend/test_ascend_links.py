# SPDX-License-Identifier: Apache-2.0
"""What the Ascend runtime does about HIXL's own rules: who connects, when memory is known, under
which address.
"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest

from llm_datadist import (
    BlocksCacheKey,
    CacheDesc,
    DataType,
    LLMException,
    LLMStatusCode,
    Placement,
)
from llm_datadist.testing import Geometry, Peer, check, device, eventually, memory, moved
from tests.runtimes.ascend.ascend_peers import Peers
from tests.support.fake_cann import toolkit

S = LLMStatusCode
pytestmark = pytest.mark.versions
OWNER, PULLER = 7, 8
SMALL = Geometry()
HOST_IP = "LLM_DATADIST_HOST_IP"


def key(cluster_id: int, model_id: int = 0) -> BlocksCacheKey:
    return BlocksCacheKey(cluster_id, model_id)


def move_both_ways(owner: Peer, puller: Peer) -> None:
    """Register, link, and pull and push from either end."""
    there = owner.register("kv", SMALL, 1, 0)
    here = puller.register("kv", SMALL, 2, 0)
    assert puller.link(owner) == S.LLM_SUCCESS
    puller.pull("kv", key(OWNER), [0], [1])
    puller.push("kv", key(OWNER), [2], [3])
    expected_here = moved(here.filled(), there.filled(), [0], [1])
    expected_there = moved(there.filled(), here.filled(), [2], [3])
    check(here, expected_here)
    check(there, expected_there)
    # The end that was linked to has a HIXL connection of its own.
    owner.pull("kv", key(PULLER), [4], [5])
    owner.push("kv", key(PULLER), [6], [7])
    check(there, moved(expected_there, here.filled(), [4], [5]))
    check(here, moved(expected_here, there.filled(), [6], [7]))


def engine_of(peer: Peer, other: Peer) -> str:
    """The name of the other's HIXL engine."""
    (info, _) = peer.call("link_paths", other.cluster_id)
    return info.reason.rsplit(" ", 1)[1]


def test_both_ends_pull_and_push(peers):
    owner, puller = peers.start(OWNER), peers.start(PULLER, listen=None)
    move_both_ways(owner, puller)
    # Without an address of its own the client uses the one that it reaches the owner from, and
    # neither takes the port of the control protocol.
    for peer, other in ((owner, puller), (puller, owner)):
        ip, _, port = engine_of(peer, other).rpartition(":")
        assert ip == "127.0.0.1"
        assert int(port) != owner.listen_address[1]


def test_nothing_is_warned_of_when_all_goes_well(on_fake, capfd):
    with ExitStack() as exits:
        peers = Peers({**on_fake, "ASCEND_GLOBAL_LOG_LEVEL": "2"}, exits)
        owner, puller = peers.start(OWNER), peers.start(PULLER, listen=None)
        move_both_ways(owner, puller)
        assert puller.unlink(owner) == S.LLM_SUCCESS
        for peer in (owner, puller):
            peer.call("unregister", "kv")
    # HIXL is ended with a connection yet.
    with ExitStack() as exits:
        peers = Peers({**on_fake, "ASCEND_GLOBAL_LOG_LEVEL": "2"}, exits)
        owner, puller = peers.start(OWNER), peers.start(PULLER, listen=None)
        assert puller.link(owner) == S.LLM_SUCCESS
        puller.finalize()
        owner.finalize()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("forced", [False, True])
def test_memory_can_go_at_once_after_the_last_link(peers, forced):
    """No HIXL connection of either end is left that knows it."""
    owner, puller = peers.start(OWNER), peers.start(PULLER, listen=None)
    move_both_ways(owner, puller)
    assert puller.unlink(owner, force=forced) == S.LLM_SUCCESS
    begin = time.monotonic()
    for peer in (owner, puller):
        peer.call("unregister", "kv")
    assert time.monotonic() - begin < 5


def register_a_byte(actor) -> None:
    actor.byte = memory.of_client(1, Placement.DEVICE, device.id_of(device.options_of(0)))
    desc = CacheDesc(1, [1, 1], DataType.DT_INT8, Placement.DEVICE)
    manager = actor.datadist.cache_manager
    actor.cache = manager.register_blocks_cache(desc, [actor.byte.address], key(OWNER))


def pull_a_byte(actor) -> None:
    actor.datadist.cache_manager.pull_blocks(
        key(OWNER), actor.cache, [0], [0], tensor_num_per_layer=1
    )


def test_memory_of_one_byte(peers):
    owner, puller = peers.start(OWNER), peers.start(PULLER, listen=None)
    for peer in (owner, puller):
        peer.call(register_a_byte)
    assert puller.link(owner) == S.LLM_SUCCESS
    puller.call(pull_a_byte)


def test_ipv6(peers):
    owner = peers.start(OWNER, listen="[::1]:0")
    puller = peers.start(PULLER, listen=None)
    move_both_ways(owner, puller)
    assert engine_of(puller, owner).startswith("[::1]:")
    assert engine_of(owner, puller).startswith("[::1]:")


def test_listening_everywhere_needs_an_address(peers):
    with pytest.raises(LLMException) as caught:
        peers.start(OWNER, listen="0.0.0.0:0")
    assert caught.value.status_code == S.LLM_PARAM_INVALID
    assert HOST_IP in str(caught.value)
    there = peers.start(OWNER, listen="0.0.0.0:0", environment={HOST_IP: "127.0.0.1"})
    there.listen_address = ("127.0.0.1", there.listen_address[1])
    move_both_ways(there, peers.start(PULLER, listen=None))


def test_the_address_that_is_named_beats_the_route(peers):
    owner = peers.start(OWNER, environment={HOST_IP: "127.0.0.3"})
    puller = peers.start(PULLER, listen=None, environment={HOST_IP: "127.0.0.2"})
    move_both_ways(owner, puller)
    assert engine_of(owner, puller).startswith("127.0.0.2:")
    # But not the one that the client listens at.
    assert engine_of(puller, owner).startswith("127.0.0.1:")


def test_memory_registered_after_the_link_costs_one_connection(peers, faults):
    owner, puller = peers.start(OWNER), peers.start(PULLER, listen=None)
    source = owner.register("kv", SMALL, 1, 0)
    puller.register("early", SMALL, 2, 0)
    assert puller.link(owner) == S.LLM_SUCCESS
    # The owner's connection, which is made in the background, is there.
    owner.pull("kv", key(PULLER), [9], [9])
    late = puller.register("late", SMALL, 3)
    # The transfer connects anew: it meets the fault of a connect.
    faults.order("connect", 103901)
    with pytest.raises(LLMException) as caught:
        puller.pull("late", key(OWNER), [0], [0])
    assert (caught.value.status_code, caught.value.raw) == (S.LLM_TIMEOUT, 103901)
    puller.pull("late", key(OWNER), [1], [1])
    check(late, moved(late.filled(), source.filled(), [1], [1]))
    # Then it is as any other.
    faults.order("connect", 103901)
    puller.pull("late", key(OWNER), [2], [2])
    assert faults.left() == 1


def test_a_link_made_anew_knows_what_was_registered_meanwhile(peers):
    owner, puller = peers.start(OWNER), peers.start(PULLER, listen=None)
    owner.register("early", SMALL, 1, 1)
    target = puller.register("kv", SMALL, 2)
    assert puller.link(owner) == S.LLM_SUCCESS
    late = owner.register("kv", SMALL, 3, 0)
    with pytest.raises(LLMException, match="registered after the link was made"):
        puller.pull("kv", key(OWNER), [0], [0])
    # Forced, the owner keeps its end, and with it a HIXL connection that does not know the memory.
    assert puller.unlink(owner, force=True) == S.LLM_SUCCESS
    assert puller.link(owner) == S.LLM_SUCCESS
    puller.pull("kv", key(OWNER), [0], [0])
    check(target, moved(target.filled(), late.filled(), [0], [0]))


def test_taking_memory_back_and_registering_it_again(peers):
    owner, puller = peers.start(OWNER), peers.start(PULLER, listen=None)
    source = owner.register("kv", SMALL, 1, 0)
    other = owner.register("other", SMALL, 5, 1)
    target = puller.register("kv", SMALL, 2)
    assert puller.link(owner) == S.LLM_SUCCESS
    puller.pull("kv", key(OWNER), [0], [0])
    owner.call("unregister", "kv")
    with pytest.raises(LLMException, match="withdrawn by its owner") as caught:
        puller.pull("kv", key(OWNER), [1], [1])
    assert caught.value.status_code == S.LLM_FAILED
    # The same range again is another registration, which this link does not know.
    owner.call(register_again)
    with pytest.raises(LLMException, match="withdrawn by its owner"):
        puller.pull("kv", key(OWNER), [1], [1])
    # What else there is goes on, over a connection made anew.
    puller.pull("kv", key(OWNER, 1), [2], [2])
    expected = moved(target.filled(), source.filled(), [0], [0])
    check(target, moved(expected, other.filled(), [2], [2]))


def register_once_more(actor) -> None:
    addrs = actor.caches["kv"].tensor_addrs
    actor.datadist.cache_manager.register_blocks_cache(SMALL.desc(), addrs, key(OWNER, 1))


def test_memory_of_two_caches_stays_with_the_second(peers):
    owner, puller = peers.start(OWNER), peers.start(PULLER, listen=None)
    source = owner.register("kv", SMALL, 1, 0)
    owner.call(register_once_more)
    target = puller.register("kv", SMALL, 2)
    assert puller.link(owner) == S.LLM_SUCCESS
    owner.call("unregister", "kv")
    puller.pull("kv", key(OWNER, 1), [0], [0])
    check(target, moved(target.filled(), source.filled(), [0], [0]))


def register_at(actor, address: int) -> None:
    desc = CacheDesc(1, [1, 512], DataType.DT_INT8, Placement.DEVICE)
    actor.datadist.cache_manager.register_blocks_cache(desc, [address], key(OWNER))


def test_memory_past_the_address_space(peers):
    owner = peers.start(OWNER)
    for address in (2**64 - 511, 2**64 - 1):
        with pytest.raises(LLMException, match="past the address space") as caught:
            owner.call(register_at, address)
        assert caught.value.status_code == S.LLM_PARAM_INVALID


def register_again(actor) -> None:
    addrs = actor.caches["kv"].tensor_addrs
    actor.datadist.cache_manager.register_blocks_cache(SMALL.desc(), addrs, key(OWNER))


def test_a_peer_that_does_not_answer_keeps_the_memory(peers):
    owner = peers.start(OWNER, sync_timeout_ms=300)
    puller = peers.start(PULLER, listen=None)
    owner.register("kv", SMALL, 1, 0)
    puller.register("kv", SMALL, 2)
    assert puller.link(owner) == S.LLM_SUCCESS
    puller.pull("kv", key(OWNER), [0], [0])
    puller.stop()
    with pytest.raises(LLMException, match="must not be used yet") as caught:
        owner.call("unregister", "kv")
    assert caught.value.status_code == S.LLM_TIMEOUT
    puller.go_on()
    # It hears of it as soon as it goes on.
    eventually(lambda: failure_of_a_pull(puller) == S.LLM_FAILED, "the withdrawal is known")


def failure_of_a_pull(puller: Peer):
    error = puller.start_call("pull", "kv", key(OWNER), [0], [0]).exception()
    return getattr(error, "status_code", None)


def test_a_peer_on_the_mock_is_refused(peers):
    owner = peers.start(OWNER)
    with Peer.start({"LLM_DATADIST_BACKEND": "mock"}) as other:
        other.wait_for("ready")
        other.init(PULLER, listen="127.0.0.1:0")
        for peer, to in ((owner, other), (other, owner)):
            answer = peer.link_to(to.cluster())
            assert answer.status == S.LLM_FAILED
            assert peer.call("links") == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("llm.RdmaTrafficClass", "132"),
        ("llm.RdmaServiceLevel", "4"),
        ("llm.LocalCommRes", '{"version": "1.3"}'),
        ("llm.GlobalResourceConfig", '{"a": 1}'),
    ],
)
def test_options_reach_hixl(peers, option, value):
    owner = peers.start(OWNER, options={option: value})
    move_both_ways(owner, peers.start(PULLER, listen=None, options={option: value}))


# That it is refused shows that it arrives.
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("llm.LocalCommRes", "nonsense"),
        ("llm.RdmaTrafficClass", "133"),
        ("llm.RdmaServiceLevel", "8"),
    ],
)
def test_what_hixl_refuses_fails_init(peers, option, value):
    if toolkit.chosen() == "8.5.0" and option == "llm.LocalCommRes":
        pytest.skip("capability LocalCommRes: HIXL 8.5.0 does not know it")
    with pytest.raises(LLMException) as caught:
        peers.start(OWNER, options={option: value})
    assert caught.value.status_code == S.LLM_PARAM_INVALID
    assert caught.value.raw == 103900
    assert option.removeprefix("llm.") in str(caught.value)


def test_a_port_that_is_taken(peers):
    # The engine's own listener is told to take it, so HIXL must find another one.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    owner = peers.start(OWNER, listen=f"127.0.0.1:{port}")
    assert owner.listen_address == ("127.0.0.1", port)
    move_both_ways(owner, peers.start(PULLER, listen=None))


def test_device_and_host_memory(peers):
    """Pools of either kind, in both directions."""
    owner = peers.start(OWNER, device_pool=8 << 20, host_pool=8 << 20)
    puller = peers.start(PULLER, listen=None, device_pool=8 << 20, host_pool=8 << 20)
    held = {}
    for peer, stamp in ((owner, 1), (puller, 5)):
        for model, placement in enumerate((Placement.DEVICE, Placement.HOST)):
            name = placement.name
            held[peer, model] = peer.allocate(name, SMALL, stamp + model, model, placement)
    assert puller.link(owner) == S.LLM_SUCCESS
    for there in range(2):
        for here, placement in enumerate((Placement.DEVICE, Placement.HOST)):
            block = 2 * there + here
            puller.pull(placement.name, key(OWNER, there), [block], [block])
            now = held[puller, here].read()
            assert (now[:, block] == held[owner, there].filled()[:, block]).all()
