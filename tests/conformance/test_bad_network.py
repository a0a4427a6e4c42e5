# SPDX-License-Identifier: Apache-2.0
"""Transfers between two hosts whose network loses, delays and reorders packets, or is cut and comes
back: right bytes, or none once a failed transfer is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode, TransferConfig
from llm_datadist.testing import Geometry, Peer, PeerCache, check, eventually, moved
from tests.conformance.layers import WAIT_MS, Ready
from tests.conformance.netns import Quality, Wire, two_hosts
from tests.conformance.paths import ON_ASCEND
from tests.conformance.refusals import check_refusal
from tests.conformance.stage import OWNER, PULLER, linked

pytestmark = pytest.mark.skipif(
    ON_ASCEND, reason="capability HIXL between namespaces: the fake's hardware is one host's"
)
S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
GEOMETRY = Geometry(num_tensors=4, num_blocks=64, block_bytes=16 << 10)
ALL = list(range(GEOMETRY.num_blocks))
# What an owner puts into blocks that it gives to another request.
ANOTHER = 77
BAD = Quality(loss=0.01, duplicates=0.02, delay=0.0005, jitter=0.001)
# A timeout that a network without packets exceeds, and one that retransmissions do not.
SHORT_MS, LONG_MS = 300, 20_000
# FIN_WAIT1, FIN_WAIT2, LAST_ACK and CLOSING, as /proc/net/tcp has them.
ENDING = {"04", "05", "09", "0B"}


@dataclass
class Far:
    """An owner and a puller, each on a host of its own."""

    owner: Peer
    puller: Peer
    source: PeerCache  # of the owner, model 0
    target: PeerCache
    wire: Wire

    def sockets_that_end(self) -> list[str]:
        """Tell the TCP sockets of the puller's host that still have something to send."""
        with open(f"/proc/{self.puller.pid}/net/tcp") as table:
            rows = [line.split() for line in table.read().splitlines()[1:]]
        return [row[3] for row in rows if row[3] in ENDING]


@pytest.fixture
def exits() -> Iterator[ExitStack]:
    with ExitStack() as exits:
        yield exits


def far(exits: ExitStack, timeout_ms: int, one_sided: bool = True) -> Far:
    near_host, far_host, wire = exits.enter_context(two_hosts())
    peers = []
    for host in (far_host, near_host):
        with host.inside():
            peers.append(exits.enter_context(Peer.start()))
    owner, puller = peers
    spec = {"sync_timeout_ms": timeout_ms, "one_sided": one_sided}
    owner.init(OWNER, listen=f"{far_host.address}:0", **spec)
    puller.init(PULLER, **spec)
    source = owner.register("kv", GEOMETRY, 1, model_id=0)
    target = puller.register("kv", GEOMETRY, 2)
    linked(puller, owner)
    return Far(owner, puller, source, target, wire)


def send(actor, addrs: list[int], blocks: list[int]) -> str:
    """Send blocks to addresses of the owner, in request mode."""
    config = TransferConfig(OWNER, addrs, range(GEOMETRY.num_tensors // 2))
    manager = actor.datadist.cache_manager
    cache = actor.caches["kv"].cache
    task = manager.transfer_cache_async(cache, Ready(), [config], blocks, blocks)
    return task.synchronize(WAIT_MS).name


def test_every_transfer_brings_its_bytes_over_a_bad_network(exits: ExitStack) -> None:
    pair = far(exits, LONG_MS)
    pair.wire.quality = BAD
    pulled, pushed = ALL[::2], ALL[1::2]
    pair.puller.pull("kv", KEY, pulled, pulled)
    pair.puller.push("kv", KEY, pushed, pushed)
    pair.wire.quality = Quality()
    assert pair.wire.lost > 0
    first, second = pair.source.filled(), pair.target.filled()
    check(pair.target, moved(second, first, pulled, pulled))
    check(pair.source, moved(first, second, pushed, pushed))


def test_so_do_those_of_request_mode(exits: ExitStack) -> None:
    pair = far(exits, LONG_MS, one_sided=False)
    pair.wire.quality = BAD
    pulled, sent = ALL[::2], ALL[1::2]
    pair.puller.pull("kv", KEY, pulled, pulled)
    answer = pair.puller.call(send, list(pair.source.tensor_addrs), sent)
    pair.wire.quality = Quality()
    assert answer == "LLM_SUCCESS"
    first, second = pair.source.filled(), pair.target.filled()
    check(pair.target, moved(second, first, pulled, pulled))
    check(pair.source, moved(first, second, sent, sent))


@pytest.mark.rule("C6.6-2")
@pytest.mark.parametrize("barrier", ["forced unlink", "unregister"])
def test_nothing_of_a_push_lands_when_the_network_comes_back(
    exits: ExitStack, barrier: str
) -> None:
    pair = far(exits, SHORT_MS)
    pair.puller.push("kv", KEY, [0], [0])
    # The bytes are on the way when the network is cut, and in the buffers of both hosts.
    pair.wire.quality = Quality(delay=0.02)
    carried = pair.wire.carried
    push = pair.puller.start_call("push", "kv", KEY, ALL, ALL)
    eventually(lambda: pair.wire.carried > carried + 3, "packets of the push are carried")
    pair.wire.cut()
    check_refusal(push.exception(), S.LLM_TIMEOUT, "the peer has not confirmed the end")
    if barrier == "unregister":
        pair.owner.call("unregister", "kv")
    else:
        assert pair.owner.unlink(pair.puller, force=True) == S.LLM_SUCCESS
    pair.owner.call("fill", "kv", ANOTHER)
    pair.wire.mend()
    # What the kernels had kept was sent again, and was acknowledged or refused.
    eventually(lambda: not pair.sockets_that_end(), "the stream of the push has ended", 20)
    check(pair.source, GEOMETRY.filled(ANOTHER))


@pytest.mark.rule("C6.6-4")
def test_nothing_of_a_pull_lands_when_the_network_comes_back(exits: ExitStack) -> None:
    pair = far(exits, SHORT_MS)
    pair.puller.pull("kv", KEY, [0], [0])
    pair.wire.quality = Quality(delay=0.02)
    carried = pair.wire.carried
    pull = pair.puller.start_call("pull", "kv", KEY, ALL, ALL)
    eventually(lambda: pair.wire.carried > carried + 3, "packets of the pull are carried")
    pair.wire.cut()
    check_refusal(pull.exception(), S.LLM_TIMEOUT)
    pair.puller.call("fill", "kv", ANOTHER)
    pair.wire.mend()
    # The link goes on: the next pull comes over another stream.
    pair.wire.quality = Quality()
    eventually(lambda: pulls(pair, [3]), "the link is usable again", 20)
    check(pair.target, moved(GEOMETRY.filled(ANOTHER), pair.source.filled(), [3], [3]))


def pulls(pair: Far, blocks: list[int]) -> bool:
    return pair.puller.start_call("pull", "kv", KEY, blocks, blocks).exception() is None
