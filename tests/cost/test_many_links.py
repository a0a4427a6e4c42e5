# SPDX-License-Identifier: Apache-2.0
"""Several engines a process, many links: what they share, what each costs, and that the end of one
is no matter to the others.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from llm_datadist import (
    BlocksCacheKey,
    CacheDesc,
    DataType,
    LLMException,
    LLMStatusCode,
    Placement,
)
from llm_datadist.testing import Geometry, Peer, Stamp, eventually, wait_until_given_back
from llm_datadist.testing.actor import ClusterAddress, EngineSpec

OWNERS, PULLERS = 100, 10
NUM_OWNERS, NUM_PULLERS = 16, 4  # every puller links to every owner: 64 links
# Large enough for helper threads.
BLOCKS, BLOCK_BYTES = 8, 64 << 10
ALL = list(range(BLOCKS))


def open_engines(actor, first: int, count: int) -> list[tuple[str, int]]:
    """Open engines in this process, each with a cache that says whose it is."""
    actor.engines = {}
    desc = CacheDesc(1, [BLOCKS, BLOCK_BYTES], DataType.DT_UINT8, Placement.DEVICE)
    for cluster_id in range(first, first + count):
        engine = EngineSpec(cluster_id, listen="127.0.0.1:0", several_in_a_process=True).open()
        memory = np.full((BLOCKS, BLOCK_BYTES), cluster_id, np.uint8)
        cache = engine.cache_manager.register_blocks_cache(
            desc, [memory.ctypes.data], BlocksCacheKey(cluster_id, 0)
        )
        actor.engines[cluster_id] = (engine, memory, cache)
    return [engine.listen_address for engine, _, _ in actor.engines.values()]


def link(actor, cluster_id: int, clusters: list[ClusterAddress]) -> None:
    answer = actor.engines[cluster_id][0].link_clusters([each.info() for each in clusters], 20000)
    assert answer[0] == LLMStatusCode.LLM_SUCCESS


def unlink(actor, cluster_id: int, clusters: list[ClusterAddress]) -> None:
    answer = actor.engines[cluster_id][0].unlink_clusters([each.info() for each in clusters], 20000)
    assert answer[0] == LLMStatusCode.LLM_SUCCESS


def pull(actor, cluster_id: int, owner: int) -> None:
    engine, memory, cache = actor.engines[cluster_id]
    memory[:] = 0
    engine.cache_manager.pull_blocks(BlocksCacheKey(owner, 0), cache, ALL, ALL)
    assert (memory == owner).all()


def finalize(actor, cluster_id: int) -> None:
    actor.engines.pop(cluster_id)[0].finalize()


@contextmanager
def processes() -> Iterator[tuple[Peer, Peer, list[ClusterAddress]]]:
    """A process of owners and one of pullers, not linked, and where the owners are."""
    with Peer.start() as owners, Peer.start() as pullers:
        addresses = owners.call(open_engines, OWNERS, NUM_OWNERS)
        pullers.call(open_engines, PULLERS, NUM_PULLERS)
        clusters = [ClusterAddress(OWNERS + i, each) for i, each in enumerate(addresses)]
        yield owners, pullers, clusters
        for peer, first, count in ((owners, OWNERS, NUM_OWNERS), (pullers, PULLERS, NUM_PULLERS)):
            for cluster_id in range(first, first + count):
                peer.call(finalize_if_open, cluster_id)
        for peer in (owners, pullers):
            assert not [name for name in peer.resources().threads if name.startswith("lldd")]


def finalize_if_open(actor, cluster_id: int) -> None:
    if cluster_id in actor.engines:
        finalize(actor, cluster_id)


@pytest.mark.sanitize
@pytest.mark.threads
def test_sixty_four_links_share_their_threads_and_leave_nothing():
    with processes() as (owners, pullers, clusters):
        # What is made once, with the first link and the first large pull.
        sockets = owners.resources().descriptors["socket:"]
        pullers.call(link, PULLERS, clusters[:1])
        pullers.call(pull, PULLERS, OWNERS)
        pullers.call(unlink, PULLERS, clusters[:1])
        # The owner closes its end after its answer.
        eventually(lambda: owners.resources().descriptors["socket:"] <= sockets, "it is closed", 10)
        before = [peer.resources() for peer in (owners, pullers)]
        helpers = before[1].threads["lldd-copy"]

        for puller in range(PULLERS, PULLERS + NUM_PULLERS):
            pullers.call(link, puller, clusters)
            for owner in range(OWNERS, OWNERS + NUM_OWNERS):
                pullers.call(pull, puller, owner)
        for peer, then in zip((owners, pullers), before):
            now = peer.resources()
            assert now.threads["lldd-io"] == 1
            assert now.threads["lldd-copy"] == then.threads["lldd-copy"]
            assert now.threads == then.threads
            # The control connection, and nothing else.
            more = now.descriptors - then.descriptors
            assert more == {"socket:": NUM_PULLERS * NUM_OWNERS}
        assert pullers.resources().threads["lldd-copy"] == helpers

        for puller in range(PULLERS, PULLERS + NUM_PULLERS):
            pullers.call(unlink, puller, clusters)
        for peer, then in zip((owners, pullers), before):
            wait_until_given_back(then, peer.resources, 10)


@pytest.mark.sanitize
@pytest.mark.threads
def test_the_end_of_an_engine_is_no_matter_to_the_others():
    with processes() as (owners, pullers, clusters):
        for puller in range(PULLERS, PULLERS + NUM_PULLERS):
            pullers.call(link, puller, clusters)
        # One that pulled, and one that was pulled from; then all but two of either.
        for gone in range(NUM_PULLERS - 1):
            pullers.call(finalize, PULLERS + gone)
            owners.call(finalize, OWNERS + gone)
            with pytest.raises(LLMException) as raised:
                pullers.call(pull, PULLERS + NUM_PULLERS - 1, OWNERS + gone)
            assert raised.value.status_code == LLMStatusCode.LLM_TIMEOUT
            for puller in range(PULLERS + gone + 1, PULLERS + NUM_PULLERS):
                for owner in range(OWNERS + gone + 1, OWNERS + NUM_OWNERS):
                    pullers.call(pull, puller, owner)
        assert owners.resources().threads["lldd-io"] == 1


# Of wire.h. Whose connection says this may go on to link.
HELLO = struct.pack("<IHBBIQ16s", 0x44444C4C, 2, 1, 0, 0, 4711, bytes(16))
# Fewer than there are places for those who have proved nothing, see docs/security.md.
SILENT = 128


@pytest.mark.sanitize
def test_many_who_began_to_link_and_are_silent_hold_nobody_up():
    with Peer.start() as owner, Peer.start() as puller, ExitStack() as strangers:
        owner.init(1, listen="127.0.0.1:0")
        puller.init(2, listen="127.0.0.1:0")
        geometry = Geometry(num_tensors=1, num_blocks=4, block_bytes=4096)
        owner.register("kv", geometry, Stamp(1), 0)
        puller.register("kv", geometry, Stamp(2))
        linking = []
        for _ in range(SILENT):
            stranger = strangers.enter_context(socket.create_connection(owner.listen_address, 10))
            stranger.sendall(HELLO)
            assert stranger.recv(len(HELLO), socket.MSG_WAITALL)[:4] == HELLO[:4]
            linking.append(stranger)
        assert puller.link(owner) == LLMStatusCode.LLM_SUCCESS
        puller.pull("kv", BlocksCacheKey(1, 0), [1], [2])
        # Nor had any of them to make room.
        for stranger in linking:
            stranger.setblocking(False)
            with pytest.raises(BlockingIOError):
                stranger.recv(1)


@pytest.mark.sanitize
def test_over_tcp_whoever_asks_adds_one_stream():
    tcp = {"LLM_DATADIST_MOCK_TRANSPORT": "tcp"}
    with Peer.start(tcp) as owner, Peer.start(tcp) as puller:
        geometry = Geometry(num_tensors=1, num_blocks=4, block_bytes=4096)
        for cluster_id, peer in enumerate((owner, puller), 1):
            peer.init(cluster_id, listen="127.0.0.1:0")
            peer.register("kv", geometry, Stamp(cluster_id), 0)
        before = [peer.resources().descriptors for peer in (owner, puller)]
        assert puller.link(owner) == LLMStatusCode.LLM_SUCCESS
        for sockets, transfer in (
            (2, lambda: puller.pull("kv", BlocksCacheKey(1, 0), [1], [2])),
            (2, lambda: puller.push("kv", BlocksCacheKey(1, 0), [1], [2])),
            (3, lambda: owner.pull("kv", BlocksCacheKey(2, 0), [1], [2])),
        ):
            transfer()
            for peer, then in zip((owner, puller), before):
                assert peer.resources().descriptors - then == {"socket:": sockets}
