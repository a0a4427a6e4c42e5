# SPDX-License-Identifier: Apache-2.0
"""Peers that vanish without closing anything: what the kernel, and what the engine, notices."""

from __future__ import annotations

from typing import Any

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.introspection import LinkState
from llm_datadist.testing import Geometry, Peer, check, eventually, moved
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance.connections import connections
from tests.conformance.paths import ON_ASCEND, Path, helped_path
from tests.conformance.refusals import check_refusal
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked, links_of
from tests.conformance.stalls import stalling_relay

S = LLMStatusCode
PEER_TIMEOUT = "lldd.PeerTimeout"
KEEPALIVE = "02"


def timers(actor: Any) -> list[str]:
    return [each.timer for each in connections()]


def own_ends(actor: Any) -> set[str]:
    return {each.own for each in connections()}


@pytest.mark.rule("C10-210")
@pytest.mark.parametrize(("option", "timer"), [({}, KEEPALIVE), ({PEER_TIMEOUT: "0"}, "00")])
def test_the_kernel_watches_every_connection_of_a_link(
    stage: Stage, option: dict[str, str], timer: str
) -> None:
    path = helped_path()
    owner = stage.engine(OWNER, path, options=option)
    puller = stage.engine(PULLER, path, listen=None, options=option)
    for peer in (owner, puller):
        path.cache(peer, "kv", SMALL, 1, 0)
    linked(puller, owner)
    for peer, other in ((puller, OWNER), (owner, PULLER)):
        peer.pull("kv", BlocksCacheKey(other, 0), [0], [0])
    # The control connection, and on the mock a stream for each end that asks.
    expected = [timer] * (1 if ON_ASCEND else 3)
    for peer in (owner, puller):
        # Until what was sent is acknowledged, another timer runs.
        eventually(
            lambda peer=peer: (
                (found := peer.call(timers)) == expected or (ON_ASCEND and timer in found)
            ),
            "every connection has this timer",
        )


def states(*ends: tuple[Peer, int]) -> list[LinkState]:
    """How each peer sees its link to the other one."""
    return [links_of(peer)[other] for peer, other in ends]


@pytest.mark.rule("C10-211", "C10-212")
@pytest.mark.parametrize("one_sided", [True, False])
def test_a_network_that_goes_silent_and_comes_back(stage: Stage, one_sided: bool) -> None:
    path = helped_path()
    spec = {"one_sided": one_sided, "sync_timeout_ms": 300, "options": {PEER_TIMEOUT: "2000"}}
    owner = stage.engine(OWNER, path, **spec)
    puller = stage.engine(PULLER, path, listen=None, **spec)
    source = path.cache(owner, "kv", SMALL, 1, 0)
    target = path.cache(puller, "kv", SMALL, 2, 0)
    ends = ((puller, OWNER), (owner, PULLER))
    with stalling_relay(owner.listen_address) as network:
        assert puller.link_to(ClusterAddress(OWNER, network.address)).status == S.LLM_SUCCESS
        puller.pull("kv", BlocksCacheKey(OWNER, 0), [0], [0])
        assert states(*ends) == [LinkState.LIVE] * 2
        network.hold()
        error = puller.start_call("pull", "kv", BlocksCacheKey(OWNER, 0), [1], [1]).exception()
        check_refusal(error, S.LLM_TIMEOUT, OWNER)
        assert "connection closed" not in str(error)
        eventually(lambda: states(*ends) == [LinkState.SILENT] * 2, "both ends say so", 3 + 2)
        for peer in (owner, puller):
            counters = peer.call("counters")
            assert (counters.links_silent, counters.links_lost) == (1, 0)
        network.release()
        eventually(lambda: states(*ends) == [LinkState.LIVE] * 2, "the peers answer", 2)
        eventually(
            lambda: (
                puller.start_call("pull", "kv", BlocksCacheKey(OWNER, 0), [2], [2]).exception()
                is None
            ),
            "the link works",
        )
        check(target, moved(target.filled(), source.filled(), [0, 2], [0, 2]))
        assert puller.call("counters").links_silent == 1


@pytest.mark.rule("C10-47", "C10-211", "C10-212")
@pytest.mark.sanitize
@pytest.mark.threads
def test_a_stopped_peer_is_silent_and_its_link_stays(stage: Stage, path: Path) -> None:
    large = Geometry(2, 64, 64 << 10)
    pair = stage.pair(path, large, sync_timeout_ms=20000, options={PEER_TIMEOUT: "1000"})
    owner, puller = pair.owner, pair.puller
    everything = list(range(large.num_blocks))
    # So that the table is known, and over TCP the stream is open.
    puller.push("kv", BlocksCacheKey(OWNER, 0), [0], [0])
    owner.stop()
    # Over TCP more than the buffers of a stream hold: the kernel ends one after the other.
    push = puller.start_call("push", "kv", BlocksCacheKey(OWNER, 0), everything, everything)
    streams = puller.call(own_ends)
    eventually(lambda: states((puller, OWNER)) == [LinkState.SILENT], "it is stopped")
    if path.name == "tcp":
        eventually(
            lambda: puller.call(own_ends) - streams,
            "the kernel has ended the stream, and there is another one",
        )
    if not path.needs_the_peer:
        # Its memory is there.
        push.result()
    owner.go_on()
    eventually(lambda: states((puller, OWNER)) == [LinkState.LIVE], "it goes on")
    push.result()
    check(pair.source, pair.target.filled())
    assert puller.call("counters").links_lost == 0


@pytest.mark.rule("C10-213")
def test_all_links_of_peers_that_are_gone_are_dropped_at_once(stage: Stage) -> None:
    owner, other = stage.engine(OWNER), stage.engine(OWNER + 1)
    clients = [stage.engine(PULLER + number, listen=None) for number in range(3)]
    for client in clients:
        linked(client, owner)
    linked(owner, other)
    assert owner.call(drop_gone_links) == 0
    for gone in (clients[0], clients[1], other):
        gone.kill()
    lost = {PULLER, PULLER + 1, OWNER + 1}
    eventually(
        lambda: (
            {each for each, state in links_of(owner).items() if state is LinkState.PEER_GONE}
            == lost
        ),
        "the owner sees that they are gone",
    )
    assert owner.call(drop_gone_links) == 3
    assert links_of(owner) == {PULLER + 2: LinkState.LIVE}
    assert owner.call(drop_gone_links) == 0


def drop_gone_links(actor: Any) -> int:
    return actor.datadist.drop_gone_links()
