# SPDX-License-Identifier: Apache-2.0
"""The connector on real transfers: its own tests, and the failures of the connector suite."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence

import metadata
import numpy as np
import pytest
from kv_connector import KVConnector, LoadError, Metadata

from llm_datadist import LLMException
from llm_datadist.testing import DatadistCalls, DatadistFaults, Geometry
from llm_datadist.testing.connector_suite import Adapter, ConnectorSuite, Remote

LAYERS, BLOCKS, HEADS, TOKENS, SIZE = 2, 8, 4, 4, 16


# ---- the failures that every connector must survive ----


class KVAdapter(Adapter):
    """The connector as the suite drives it."""

    failures = (LoadError,)

    def open(self, cluster_id: int, geometry: Geometry, timeout_ms: int) -> None:
        shape = (geometry.num_blocks, *(geometry.block_shape or ()))
        self._kv = [np.zeros(shape, np.float16) for _ in range(geometry.num_tensors)]
        self._connector = KVConnector(
            cluster_id, self._kv, num_heads=shape[1], timeout_ms=timeout_ms
        )
        self.key = self._connector.key

    def connect(self, remote: Remote) -> None:
        self._connector.add_remote(Metadata(remote.cluster_id, *remote.address))

    def load(self, remote: Remote, src_blocks: Sequence[int], dst_blocks: Sequence[int]) -> bool:
        self._connector.load([remote.cluster_id], src_blocks, dst_blocks)
        return True

    def tensors(self) -> list[np.ndarray]:
        return [each.view(np.uint64).reshape(len(each), -1) for each in self._kv]

    def close(self) -> None:
        self._connector.close()


class TestFailures(ConnectorSuite):
    geometry = Geometry(
        2 * LAYERS, BLOCKS, HEADS * TOKENS * SIZE * 2, block_shape=(HEADS, TOKENS, SIZE)
    )
    # One of mapped, cma (process_vm) and tcp; not set: cma.
    transport = os.environ.get("CONNECTOR_TRANSPORT", "cma")

    def make_adapter(self) -> Adapter:
        return KVAdapter()


# ---- what is special to this connector ----


class Instance:
    """All ranks of a prompt, or of a decoder, in this process; each head has bytes of its own."""

    def __init__(self, first_id: int, ranks: int, fill: int) -> None:
        self.ids = list(range(first_id, first_id + ranks))
        heads = HEADS // ranks
        whole = np.arange(LAYERS * 2 * BLOCKS * HEADS * TOKENS * SIZE, dtype=np.int32) + fill
        self.kv = whole.reshape(LAYERS * 2, BLOCKS, HEADS, TOKENS, SIZE)
        self.of_rank = [
            [np.ascontiguousarray(kv[:, rank * heads : (rank + 1) * heads]) for kv in self.kv]
            for rank in range(ranks)
        ]
        self.ranks = [
            KVConnector(number, kv, num_heads=HEADS, rank=rank, ranks=ranks, timeout_ms=5000)
            for rank, (number, kv) in enumerate(zip(self.ids, self.of_rank))
        ]

    def now(self) -> np.ndarray:
        """What the caches contain, with all heads together."""
        return np.concatenate([np.stack(kv) for kv in self.of_rank], axis=2)

    def meets(self, other: Instance) -> None:
        """Give the metadata of all ranks to all ranks of the other one."""
        for rank in self.ranks:
            for there in other.ranks:
                there.add_remote(rank.metadata)


@pytest.fixture
def instances(datadist_scope: str) -> Iterator[list[Instance]]:
    made: list[Instance] = []
    yield made
    for instance in made:
        for rank in instance.ranks:
            rank.close()


@pytest.mark.parametrize(("prompts", "decoders"), [(1, 1), (4, 2), (1, 4)])
def test_heads_find_their_ranks(
    instances: list[Instance], datadist_calls: DatadistCalls, prompts: int, decoders: int
) -> None:
    prompt, decoder = Instance(1, prompts, 0), Instance(101, decoders, 1 << 20)
    instances += [prompt, decoder]
    prompt.meets(decoder)
    expected = decoder.kv.copy()
    expected[:, [0, 2]] = prompt.kv[:, [3, 1]]
    for rank in decoder.ranks:
        rank.load(prompt.ids, [3, 1], [0, 2])
    assert np.array_equal(decoder.now(), expected)
    assert datadist_calls.bytes == 2 * LAYERS * 2 * HEADS * TOKENS * SIZE * 4


def test_layers_are_pushed_when_they_are_ready(
    instances: list[Instance], datadist_faults: DatadistFaults
) -> None:
    prompt, decoder = Instance(1, 1, 0), Instance(101, 1, 1 << 20)
    instances += [prompt, decoder]
    decoder.meets(prompt)
    expected = decoder.kv.copy()
    expected[:, [0, 2]] = prompt.kv[:, [3, 1]]
    for _ in range(2):  # The second one over the link of the first.
        push = prompt.ranks[0].push(101, [3, 1], [0, 2])
        for layer in range(LAYERS):
            push.layer_is_ready(layer)
        push.finish()
        assert np.array_equal(decoder.now(), expected)
    with datadist_faults.inject("write status=LLM_SUSPECT_REMOTE_ERROR"):
        push = prompt.ranks[0].push(101, [3, 1], [0, 2])
        push.layer_is_ready(0)
        push.layer_is_ready(1)
        with pytest.raises(LoadError, match="the push ended with"):
            push.finish()


def test_a_rank_that_nobody_knows(instances: list[Instance]) -> None:
    instances.append(Instance(101, 1, 0))
    with pytest.raises(LoadError, match="no metadata of cluster 7"):
        instances[0].ranks[0].load([7], [0], [0])


def test_a_push_without_a_link(instances: list[Instance]) -> None:
    instances.append(Instance(1, 1, 0))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        instances[0].ranks[0].add_remote(Metadata(101, *nobody.getsockname()))
    with pytest.raises(LoadError, match=r"cluster_id=101.*no link"):
        instances[0].ranks[0].push(101, [0], [0])


def test_caches_that_cannot_be_registered_leave_no_engine(datadist_engine: object) -> None:
    """datadist_engine finds engines that are left open."""
    rows = np.zeros((2, BLOCKS, HEADS, TOKENS, SIZE), np.float16)
    with pytest.raises(LLMException, match="not contiguous"):
        KVConnector(1, [rows[0, ::2], rows[1, ::2]], num_heads=HEADS)


def test_metadata_goes_over_the_network() -> None:
    mine = Metadata(7, "127.0.0.1", 26000, rank=1, ranks=2)
    ways = [(metadata.MetadataServer, metadata.fetch)]
    if metadata.zmq is not None:
        ways.append((metadata.ZmqMetadataServer, metadata.fetch_by_zmq))
    for serve, fetch in ways:
        server = serve(mine)
        try:
            assert fetch(server.address) == mine
        finally:
            server.close()
        with pytest.raises((OSError, TimeoutError)):
            fetch(server.address, 0.2)
    for text in (b"", b"[1]", b'{"cluster_id": 1}'):
        with pytest.raises(ValueError, match="is no metadata"):
            metadata.parse(text)


def test_tensors_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="capability torch: not installed")
    kv = [torch.zeros((BLOCKS, HEADS, TOKENS, SIZE), dtype=torch.bfloat16) for _ in range(4)]
    connector = KVConnector(1, kv, num_heads=HEADS)
    assert connector.metadata.cluster_id == 1
    connector.close()
