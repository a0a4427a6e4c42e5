# SPDX-License-Identifier: Apache-2.0
"""How copies and transfers are cut into calls of ACL and HIXL: at each limit and one beyond.

Nothing is moved: the fake CANN writes down what it was asked for (FAKE_CANN_CALLS).
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from llm_datadist import BlocksCacheKey, CacheDesc, DataType, LLMStatusCode, Placement
from llm_datadist.testing import Peer
from tests.runtimes.ascend.ascend_peers import Peers

S = LLMStatusCode
OWNER, PULLER = 7, 8
MIB = 1 << 20
MOST_BYTES_OF_A_TRANSFER = 256 * MIB
MOST_PIECES_OF_A_TRANSFER = 65536
MOST_BYTES_OF_A_COPY = 4096 * MIB


class Calls:
    """What the fake was asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def taken(self) -> list[str]:
        """The calls since the last time."""
        lines = self.path.read_text().splitlines()
        self.path.write_text("")
        return lines


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    path = tmp_path / "calls"
    path.write_text("")
    return Calls(path)


@pytest.fixture
def dry_peers(on_fake: dict[str, str], calls: Calls):
    with ExitStack() as exits:
        yield Peers({**on_fake, "FAKE_CANN_CALLS": str(calls.path)}, exits)


def allocate(actor: Any, blocks: int, block_bytes: int) -> None:
    """Allocate a cache of one tensor that nobody has touched."""
    desc = CacheDesc(1, [blocks, block_bytes], DataType.DT_INT8, Placement.DEVICE)
    key = BlocksCacheKey(actor.datadist.cluster_id, 0)
    actor.held = actor.datadist.cache_manager.allocate_blocks_cache(desc, key)


def move(actor: Any, operation: str, blocks: list[int]) -> None:
    call = getattr(actor.datadist.cache_manager, f"{operation}_blocks")
    key = BlocksCacheKey(OWNER, 0)
    call(key, actor.held, blocks, blocks, tensor_num_per_layer=1)


def linked_pair(peers: Peers, blocks: int, block_bytes: int) -> Peer:
    """The puller of two ends that have such a cache each."""
    pool = blocks * block_bytes + 64 * MIB
    owner = peers.start(OWNER, device_pool=pool)
    puller = peers.start(PULLER, listen=None, device_pool=pool)
    for peer in (owner, puller):
        peer.call(allocate, blocks, block_bytes)
    assert puller.link(owner) == S.LLM_SUCCESS
    return puller


@pytest.mark.parametrize("operation", ["pull", "push"])
def test_bytes_of_a_transfer(dry_peers: Peers, calls: Calls, operation: str) -> None:
    size = MOST_BYTES_OF_A_TRANSFER // 2
    puller = linked_pair(dry_peers, 5, size)
    for blocks, expected in (
        ([0], [f"transfer 1 {size}"]),
        ([0, 1], [f"transfer 1 {2 * size}"]),
        ([0, 2], [f"transfer 2 {2 * size}"]),
        ([0, 1, 2], [f"transfer 1 {2 * size}", f"transfer 1 {size}"]),
        # The second of the two is cut in the middle.
        ([0, 2, 3, 4], [f"transfer 2 {2 * size}", f"transfer 1 {2 * size}"]),
    ):
        puller.call(move, operation, blocks)
        assert calls.taken() == expected, blocks


def test_one_byte_more_than_a_transfer_has(dry_peers: Peers, calls: Calls) -> None:
    puller = linked_pair(dry_peers, 1, MOST_BYTES_OF_A_TRANSFER + 1)
    puller.call(move, "pull", [0])
    assert calls.taken() == [f"transfer 1 {MOST_BYTES_OF_A_TRANSFER}", "transfer 1 1"]


def test_pieces_of_a_transfer(dry_peers: Peers, calls: Calls) -> None:
    most = MOST_PIECES_OF_A_TRANSFER
    puller = linked_pair(dry_peers, 2 * (most + 1), 8)
    scattered = list(range(0, 2 * (most + 1), 2))
    puller.call(move, "pull", scattered[:most])
    assert calls.taken() == [f"transfer {most} {8 * most}"]
    puller.call(move, "pull", scattered)
    assert calls.taken() == [f"transfer {most} {8 * most}", "transfer 1 8"]


def copy(actor: Any, pairs: dict[int, list[int]]) -> None:
    actor.datadist.cache_manager.copy_blocks(actor.held, pairs)


@pytest.mark.parametrize("more", [0, 1])
def test_bytes_of_a_copy(dry_peers: Peers, calls: Calls, more: int) -> None:
    size = MOST_BYTES_OF_A_COPY + more
    peer = dry_peers.start(OWNER, device_pool=2 * size + 64 * MIB)
    peer.call(allocate, 2, size)
    peer.call(copy, {0: [1]})
    assert calls.taken() == ["stream", f"copy {MOST_BYTES_OF_A_COPY}", "copy 1"][: 2 + more]


def test_a_stream_is_used_again(dry_peers: Peers, calls: Calls) -> None:
    peer = dry_peers.start(OWNER, device_pool=64 * MIB)
    peer.call(allocate, 2, MIB)
    for _ in range(3):
        peer.call(copy, {0: [1]})
    assert calls.taken() == ["stream", *[f"copy {MIB}"] * 3]
