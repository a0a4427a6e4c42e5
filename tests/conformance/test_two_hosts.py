# SPDX-License-Identifier: Apache-2.0
"""Peers on two hosts, over a network that loses, delays and reorders packets, or is cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pytest

from llm_datadist import BlocksCacheKey
from llm_datadist.introspection import MemoryKind
from llm_datadist.testing import Geometry, Peer
from tests.conformance.paths import ON_ASCEND, path_to
from tests.conformance.stage import OWNER, PULLER, linked
from tests.support.netns import Host, Quality, Wire, two_hosts

pytestmark = pytest.mark.skipif(
    ON_ASCEND, reason="capability HIXL between namespaces: the fake's hardware is one host's"
)
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
        owner.init(OWNER, listen=f"{far_host.address}:0", sync_timeout_ms=10000)
        puller.init(PULLER, sync_timeout_ms=10000)
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
