# SPDX-License-Identifier: Apache-2.0
"""Peers on two hosts, over a network that loses, delays and reorders packets, or is cut."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.introspection import MemoryKind
from llm_datadist.testing import Geometry, Peer, eventually
from tests.conformance.netns import Host, Quality, Wire, two_hosts
from tests.conformance.paths import ON_ASCEND, path_to
from tests.conformance.refusals import check_refusal
from tests.conformance.stage import OWNER, PULLER, linked, notices

pytestmark = pytest.mark.skipif(
    ON_ASCEND, reason="capability HIXL between namespaces: the fake's hardware is one host's"
)
PEER_TIMEOUT_MS = 1500
LONG_MS = 30000
# Nothing else is on these hosts.
RENDEZVOUS_PORT = 26000
GONE = "connection closed"
LARGE = Geometry(num_blocks=32, block_bytes=8192)


@dataclass
class Far:
    """An owner and a puller, each on its host, with a registered cache each, and linked."""

    owner: Peer
    puller: Peer
    wire: Wire


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host, Wire]]:
    with two_hosts() as made:
        yield made


@pytest.fixture
def far(hosts: tuple[Host, Host, Wire]) -> Iterator[Far]:
    near_host, far_host, wire = hosts
    with ExitStack() as exits:
        peers = []
        for host in (far_host, near_host):
            with host.inside():
                peers.append(exits.enter_context(Peer.start()))
        owner, puller = peers
        meeting = f"{far_host.address}:{RENDEZVOUS_PORT}"
        spec = {
            "sync_timeout_ms": LONG_MS,
            "options": {"lldd.PeerTimeout": str(PEER_TIMEOUT_MS)},
            "environment": {"LLM_DATADIST_RENDEZVOUS": meeting},
        }
        owner.init(OWNER, listen=f"{far_host.address}:0", **spec)
        puller.init(PULLER, **spec)
        owner.register("kv", LARGE, 1, model_id=0)
        puller.register("kv", LARGE, 2)
        linked(puller, owner)
        yield Far(owner, puller, wire)


def test_a_pull_over_a_network_that_loses_delays_and_reorders(far: Far) -> None:
    assert path_to(far.puller, far.owner, MemoryKind.REGISTERED).path == "tcp"
    blocks = list(range(LARGE.num_blocks))
    far.wire.quality = Quality(loss=0.02, duplicates=0.05, delay=0.001, jitter=0.002)
    carried = far.wire.carried
    far.puller.pull("kv", BlocksCacheKey(OWNER, 0), blocks, blocks)
    far.wire.quality = Quality()
    assert far.wire.carried > carried
    assert far.wire.lost > 0
    held = far.puller.call("read", "kv")
    assert np.array_equal(held, far.owner.call("read", "kv"))


def join(actor: Any, name: str, members: dict[int, int]) -> int:
    return actor.datadist.link(name, members, "{}")


def sockets_of(peer: Peer) -> int:
    return peer.resources().descriptors["socket:"]


@pytest.mark.rule("C10-24", "C10-210", "C7.6-1")
def test_a_cut_cable_is_a_peer_that_is_gone(far: Far) -> None:
    owner, puller = far.owner, far.puller
    # A member of a communicator that waits at the rendezvous, which the owner holds.
    members = {OWNER: 0, PULLER: 1, PULLER + 1: 2}
    owner.call(join, "three", members)
    alone = sockets_of(owner)
    puller.call(join, "three", members)
    # Its card came over one connection, and another one is the link between the two.
    eventually(lambda: sockets_of(owner) == alone + 2, "the member has come")
    puller.pull("kv", BlocksCacheKey(OWNER, 0), [0], [0])
    before = puller.call("read", "kv")
    far.wire.cut()
    begun = time.monotonic()
    error = puller.start_call("pull", "kv", BlocksCacheKey(OWNER, 0), [1], [1]).exception()
    # The time, and as much again for what the kernel had begun before, and a margin.
    assert time.monotonic() - begun < 2 * PEER_TIMEOUT_MS / 1000 + 3
    check_refusal(error, LLMStatusCode.LLM_TIMEOUT, OWNER)
    assert GONE in str(error)
    assert np.array_equal(puller.call("read", "kv"), before)
    notices(puller, OWNER)
    notices(owner, PULLER)
    # Neither control connection nor data stream is left, and nothing of the dead member.
    eventually(lambda: sockets_of(owner) == alone - 1, "the rendezvous has dropped the member")
    assert puller.unlink(owner, force=True) == LLMStatusCode.LLM_SUCCESS
    far.wire.mend()
    linked(puller, owner)
    puller.pull("kv", BlocksCacheKey(OWNER, 0), [1], [1])
    assert np.array_equal(puller.call("read", "kv")[:, 1], owner.call("read", "kv")[:, 1])
