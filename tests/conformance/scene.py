# SPDX-License-Identifier: Apache-2.0
"""Two peers over TCP whose connections go through a relay that stalls: what may land late?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.testing import Geometry, Peer, PeerCache, check
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance.paths import helped_path
from tests.conformance.stage import OWNER, PULLER, Stage
from tests.conformance.stalls import Flow, StallingRelay, stalling_relay

S = LLMStatusCode
CONFIRMED = "the peer has confirmed that none of its bytes lands any more"
UNCONFIRMED = "the peer has not confirmed the end"
# A push of all of it is 8 requests of 1 MiB.
GEOMETRY = Geometry(num_tensors=2, num_blocks=64, block_bytes=64 << 10)
ALL = list(range(GEOMETRY.num_blocks))
MIB = 1 << 20
HELLO, HEAD = 36, 48
WHOLE = 8 * (HEAD + MIB)
# What the owner puts into blocks that it gives to another request.
ANOTHER = 77


@dataclass
class Scene:
    """A pusher, an owner of memory, and the relay that all their connections go through."""

    pusher: Peer
    owner: Peer
    target: PeerCache
    relay: StallingRelay
    pusher_dials: bool

    @property
    def key(self) -> BlocksCacheKey:
        return BlocksCacheKey(self.owner.cluster_id, 0)

    def push(self, blocks: list[int]) -> BaseException | None:
        return self.pusher.start_call("push", "kv", self.key, blocks, blocks).exception()

    def stall_next_push(self, after: int) -> int:
        """Stall the stream of the next push after so many bytes; tell its number."""
        if self.pusher_dials:
            self.relay.stall_next(client=HELLO + after)
        else:
            self.relay.stall_next(server=after)
        return self.relay.count()

    def stall_next_answer(self) -> int:
        """Hold back what the owner answers to the next push."""
        if self.pusher_dials:
            self.relay.stall_next(server=0)
        else:
            self.relay.stall_next(client=HELLO)
        return self.relay.count()

    def release(self, number: int) -> None:
        """Let all bytes of a stream go, and wait until the owner has taken or refused them."""
        stream = self.relay.passage(number)
        stream.from_client.release()
        stream.from_server.release()
        stream.wait_for_the_end()

    def from_pusher(self, number: int) -> Flow:
        """What the pusher says on a connection; number 0 is the control connection."""
        passage = self.relay.passage(number)
        return passage.from_client if self.pusher_dials else passage.from_server

    def give_to_another(self) -> None:
        self.owner.call("fill", "kv", ANOTHER)

    def untouched(self) -> None:
        check(self.target, GEOMETRY.filled(ANOTHER))


def scene(stage: Stage, pusher_dials: bool, **spec: int) -> Iterator[Scene]:
    path = helped_path()
    server = stage.engine(OWNER, path, **spec)
    client = stage.engine(PULLER, path, listen=None, **spec)
    caches = {
        peer: peer.register("kv", GEOMETRY, i + 1, 0) for i, peer in enumerate((server, client))
    }
    with stalling_relay(server.listen_address) as relay:
        linked_to = client.link_to(ClusterAddress(OWNER, relay.address))
        assert linked_to.status == S.LLM_SUCCESS, linked_to
        pusher, owner = (client, server) if pusher_dials else (server, client)
        yield Scene(pusher, owner, caches[owner], relay, pusher_dials)
