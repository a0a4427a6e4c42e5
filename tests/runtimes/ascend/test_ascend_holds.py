# SPDX-License-Identifier: Apache-2.0
"""Memory that is taken back keeps peers from transferring for a while; nothing of that stays when
one of them goes in the middle.
"""

from __future__ import annotations

import uuid

from llm_datadist import BlocksCacheKey, LLMStatusCode, Placement
from llm_datadist.testing import Geometry, check, eventually, moved
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance import speaker as wire
from tests.conformance.communicators import joined
from tests.conformance.relay import Said, relay

S = LLMStatusCode
OWNER, PULLER = 7, 8
SMALL = Geometry()
# Of csrc/ascend/connection.cc: what the owner asks of its peers before it takes memory back.
DISCONNECT = 2


def keeps_away(said: Said) -> bool:
    """Whether the client has answered the server's wish that it disconnects and waits."""
    of_client, of_server = (wire.frames_of(bytes(each)) for each in said)
    asked = {
        request_id
        for kind, request_id, body in of_server
        if kind == wire.MESSAGE and body[:1] == bytes([DISCONNECT])
    }
    return any(
        kind == wire.MESSAGE | wire.ANSWER and request_id in asked
        for kind, request_id, _ in of_client
    )


def test_a_link_that_breaks_while_its_peer_is_kept_away(peers):
    """The peer's other link to the same engine goes on: it uses the same HIXL connection."""
    scope = {"LLM_DATADIST_SCOPE": str(uuid.uuid4())}
    owner = peers.start(OWNER, environment=scope, sync_timeout_ms=5000)
    puller = peers.start(PULLER, listen=None, environment=scope, sync_timeout_ms=5000)
    owner.register("taken", SMALL, 1, 0)
    source = owner.register("kept", SMALL, 3, 1)
    target = puller.register("kv", SMALL, 2)
    with relay(owner.listen_address, cut_after=keeps_away) as passing:
        assert puller.link_to(ClusterAddress(OWNER, passing.address)).status == S.LLM_SUCCESS
        joined(owner, puller)
        puller.pull("kv", BlocksCacheKey(OWNER, 1), [0], [0])
        owner.call("unregister", "taken")
        eventually(lambda: keeps_away(passing.said[0]), "the link was cut")
    states = {link.state.name for link in puller.call("links")}
    eventually(
        lambda: {link.state.name for link in puller.call("links")} == {"LIVE", "PEER_GONE"},
        f"one link is gone, one lives: {states}",
    )
    puller.pull("kv", BlocksCacheKey(OWNER, 1), [1], [1])
    check(target, moved(target.filled(), source.filled(), [0, 1], [0, 1]))


def copy_blocks(actor) -> None:
    actor.datadist.cache_manager.copy_blocks(actor.caches["kv"].cache, {0: [1], 2: [3]})


def test_copies_of_host_memory_are_no_work_of_a_stream(peers):
    """The fake refuses them there."""
    peer = peers.start(OWNER, host_pool=8 << 20)
    cache = peer.allocate("kv", SMALL, 1, placement=Placement.HOST)
    peer.call(copy_blocks)
    check(cache, moved(cache.filled(), cache.filled(), [0, 2], [1, 3]))
