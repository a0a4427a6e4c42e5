# SPDX-License-Identifier: Apache-2.0
"""Which bytes transfer_cache_async moves: contract 6.2, on every path and in both modes."""

from __future__ import annotations

import numpy as np
import pytest

from llm_datadist import (
    BlocksCacheKey,
    CacheKeyByIdAndIndex,
    LLMStatusCode,
    TransferConfig,
    TransferWithCacheKeyConfig,
)
from llm_datadist.testing import Geometry, PeerCache, check, moved
from tests.conformance.layers import WAIT_MS, Ready
from tests.conformance.paths import Path
from tests.conformance.refusals import check_refusal, refused
from tests.conformance.stage import OWNER, PULLER
from tests.conformance.together import NearPeer, NearStage

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
# Three layers of paged memory, and four entries of 1280 bytes: two blocks and a half.
BLOCKS = Geometry(num_tensors=6, num_blocks=16, block_bytes=512)
ENTRIES = Geometry(num_tensors=6, num_blocks=4, block_bytes=1280)
ALL = range(3)


class Pair:
    """A sender that linked to an owner; caches are made before the link."""

    def __init__(self, stage: NearStage, path: Path, one_sided: bool) -> None:
        self.stage, self.path, self.one_sided = stage, path, one_sided
        self.owner: NearPeer = stage.engine(OWNER, path, one_sided=one_sided)
        self.sender: NearPeer = stage.engine(PULLER, path, listen=None, one_sided=one_sided)

    def destination(self, geometry: Geometry, blocks: bool) -> PeerCache:
        return self._cache(self.owner, geometry, blocks, 1, 0)

    def source(self, geometry: Geometry, blocks: bool) -> PeerCache:
        return self._cache(self.sender, geometry, blocks, 2, None)

    def _cache(self, peer: NearPeer, geometry: Geometry, blocks: bool, stamp: int, model_id):
        if blocks:
            return self.path.cache(peer, "kv", geometry, stamp, model_id)
        return self.stage.contiguous(peer, self.path, "kv", geometry, stamp)

    def send(self, destination: PeerCache, *lists, src=ALL, dst=ALL, batch=0, dst_batch=0):
        """Link, send, wait; returns the task."""
        if not self.sender.call("links"):
            assert self.sender.link(self.owner) == S.LLM_SUCCESS
            self.path.require(self.sender, self.owner, self.stage.process_vm_refused)
        if self.one_sided:
            key = CacheKeyByIdAndIndex(OWNER, destination.cache_id, dst_batch)
            config = TransferWithCacheKeyConfig(key, src, dst, batch)
        else:
            # Whoever sends to addresses counts the batch entry in.
            offset = dst_batch * destination.geometry.block_bytes
            addrs = [
                destination.tensor_addrs[2 * layer + i] + offset for layer in dst for i in (0, 1)
            ]
            config = TransferConfig(OWNER, addrs, src, batch)
        task = self.sender.manager.transfer_cache_async(
            self.sender.cache("kv"), Ready(), [config], *lists
        )
        task.synchronize(WAIT_MS)
        return task

    def sent(self, destination: PeerCache, *lists, **options) -> None:
        task = self.send(destination, *lists, **options)
        assert task.synchronize(WAIT_MS) == S.LLM_SUCCESS, task.exception()

    def refused(self, texts, destination: PeerCache, *lists, **options) -> None:
        task = self.send(destination, *lists, **options)
        assert task.get_results(WAIT_MS) == [S.LLM_PARAM_INVALID]
        check_refusal(task.exception(), S.LLM_PARAM_INVALID, *texts)
        check(destination, destination.filled())


@pytest.fixture(params=[True, False], ids=["one-sided", "request"])
def pair(together: NearStage, path: Path, request: pytest.FixtureRequest) -> Pair:
    return Pair(together, path, request.param)


@pytest.fixture
def one_sided(together: NearStage, path: Path) -> Pair:
    return Pair(together, path, True)


@pytest.mark.rule("C6.2-25", "C6.2-29", "C6.2-19")
@pytest.mark.parametrize(("batch", "dst_batch"), [(0, 0), (3, 1), (0, 3)])
def test_c6_2_25_a_batch_entry_of_a_contiguous_source(
    pair: Pair, batch: int, dst_batch: int
) -> None:
    destination, source = pair.destination(ENTRIES, False), pair.source(ENTRIES, False)
    pair.sent(destination, batch=batch, dst_batch=dst_batch)
    check(destination, moved(destination.filled(), source.filled(), [batch], [dst_batch]))
    counters = pair.sender.call("counters")
    assert (counters.pushes, counters.bytes_out) == (3, 6 * 1280)


@pytest.mark.rule("C6.2-29")
def test_c6_2_29_the_batch_index_of_the_key_counts_in_remote_strides(pair: Pair) -> None:
    there = Geometry(num_tensors=6, num_blocks=3, block_bytes=2048)
    destination, source = pair.destination(there, False), pair.source(ENTRIES, False)
    pair.sent(destination, batch=1, dst_batch=2)
    expected = destination.filled()
    expected[:, 2, : ENTRIES.words_per_block] = source.filled()[:, 1]
    check(destination, expected)


@pytest.mark.rule("C6.2-25", "C6.2-19")
def test_c6_2_25_batch_indices_out_of_range(pair: Pair) -> None:
    destination = pair.destination(ENTRIES, False)
    pair.source(ENTRIES, False)
    with refused(S.LLM_PARAM_INVALID, "src_batch_index", 4):
        pair.send(destination, batch=4)
    check(destination, destination.filled())
    if pair.one_sided:
        pair.refused(["batch index", 4, "remote"], destination, dst_batch=4)


@pytest.mark.rule("C6.2-26")
def test_c6_2_26_a_paged_source_without_lists_sends_block_0(pair: Pair) -> None:
    destination, source = pair.destination(BLOCKS, False), pair.source(BLOCKS, True)
    pair.sent(destination, dst_batch=5)
    check(destination, moved(destination.filled(), source.filled(), [0], [5]))


@pytest.mark.rule("C6.2-28", "C6.2-22")
@pytest.mark.parametrize("size", [None, 0, 512])
def test_c6_2_28_blocks_to_blocks(pair: Pair, size: int | None) -> None:
    destination, source = pair.destination(BLOCKS, True), pair.source(BLOCKS, True)
    src, dst = [11, 0, 15, 3, 4], [4, 15, 1, 0, 9]
    pair.sent(destination, src, dst, size, src=range(1, 3), dst=range(2))
    expected = moved(destination.filled(), source.filled(), src, dst, [2, 3, 4, 5], [0, 1, 2, 3])
    check(destination, expected)


@pytest.mark.rule("C6.2-28")
def test_c6_2_28_block_ids_and_sizes_that_do_not_fit(pair: Pair) -> None:
    destination = pair.destination(BLOCKS, True)
    pair.source(BLOCKS, True)
    pair.refused([256, 512, "equal"], destination, [0], [0], 256)
    pair.refused(["src_blocks", 16], destination, [16], [0])
    pair.refused([16], destination, [0], [16])


@pytest.mark.rule("C6.2-38", "C6.2-27")
@pytest.mark.parametrize("dst", [[7], [3, 2], [9, 0, 15]])
@pytest.mark.parametrize("batch", [0, 3])
def test_c6_2_38_contiguous_to_blocks(pair: Pair, dst: list[int], batch: int) -> None:
    destination, source = pair.destination(BLOCKS, True), pair.source(ENTRIES, False)
    pair.sent(destination, None, dst, 512, batch=batch)
    expected = destination.filled()
    entry = source.filled()[:, batch]
    for position, block in enumerate(dst):
        piece = entry[:, 64 * position : 64 * (position + 1)]
        # Of the third piece only 256 bytes are left; the rest of its block stays as it was.
        expected[:, block, : piece.shape[1]] = piece
    check(destination, expected)


@pytest.mark.rule("C6.2-36", "C6.2-37")
def test_c6_2_36_sizes_and_numbers_of_pieces_that_do_not_fit(pair: Pair) -> None:
    destination = pair.destination(BLOCKS, True)
    pair.source(ENTRIES, False)
    pair.refused([0, "size"], destination, None, [0], 0)
    pair.refused([ENTRIES.tensor_bytes], destination, None, [0], ENTRIES.tensor_bytes)
    pair.refused([4, 3], destination, None, [0, 1, 2, 3], 512)


@pytest.mark.rule("C6.2-36")
def test_c6_2_36_one_byte_less_than_a_tensor_will_do(together: NearStage, path: Path) -> None:
    pair = Pair(together, path, False)
    small = Geometry(num_tensors=2, num_blocks=1, block_bytes=64)
    destination, source = pair.destination(small, True), pair.source(small, False)
    pair.sent(destination, None, [0], 63, src=range(1), dst=range(1))
    expected = destination.filled().view(np.uint8)
    expected[..., :63] = source.filled().view(np.uint8)[..., :63]
    check(destination, expected.view(np.uint64))


@pytest.mark.rule("C6.2-37", "C6.1-21")
def test_c6_1_21_the_piece_must_be_a_block_of_the_destination(one_sided: Pair) -> None:
    destination = one_sided.destination(BLOCKS, True)
    one_sided.source(ENTRIES, False)
    one_sided.refused([256, 512, "equal"], destination, None, [0], 256)
    one_sided.refused(["dst_blocks", 16], destination, None, [0, 16], 512)


@pytest.mark.rule("C6.2-28", "C6.2-8")
def test_c6_2_28_by_the_blocks_key(one_sided: Pair) -> None:
    destination, source = one_sided.destination(BLOCKS, True), one_sided.source(BLOCKS, True)
    assert one_sided.sender.link(one_sided.owner) == S.LLM_SUCCESS
    config = TransferWithCacheKeyConfig(KEY, range(1, 2), range(2, 3))
    task = one_sided.sender.manager.transfer_cache_async(
        one_sided.sender.cache("kv"), Ready(), [config], np.array([3, 5]), (6, 1)
    )
    assert task.synchronize(WAIT_MS) == S.LLM_SUCCESS
    expected = moved(destination.filled(), source.filled(), [3, 5], [6, 1], [2, 3], [4, 5])
    check(destination, expected)


@pytest.mark.rule("C6.1-20")
def test_c6_1_20_destination_layers_out_of_range(one_sided: Pair) -> None:
    destination = one_sided.destination(BLOCKS, True)
    one_sided.source(BLOCKS, True)
    one_sided.refused(["dst_layer_range"], destination, [0], [0], src=range(1), dst=range(3, 4))


@pytest.mark.rule("C6.2-19")
def test_c6_2_19_addresses_must_lie_inside_a_cache_of_the_peer(
    together: NearStage, path: Path
) -> None:
    pair = Pair(together, path, False)
    destination, source = pair.destination(BLOCKS, True), pair.source(BLOCKS, True)
    assert pair.sender.link(pair.owner) == S.LLM_SUCCESS
    manager, cache = pair.sender.manager, pair.sender.cache("kv")

    def send(addrs: list[int], *lists):
        config = TransferConfig(OWNER, addrs, range(1))
        task = manager.transfer_cache_async(cache, Ready(), [config], *lists)
        return task.synchronize(WAIT_MS), task.exception()

    first, second = destination.tensor_addrs[:2]
    end = first + BLOCKS.tensor_bytes
    for wrong in (8, end - 511, first - 8):
        status, error = send([wrong, second])
        assert status == S.LLM_PARAM_INVALID
        check_refusal(error, S.LLM_PARAM_INVALID, "dst_addrs[0]" if wrong > first else hex(wrong))
    # The last block that fits, and blocks counted from an address in the middle.
    status, error = send([first + 8 * 512, second], [0], [8])
    assert status == S.LLM_PARAM_INVALID
    check(destination, destination.filled())
    assert send([end - 512, second])[0] == S.LLM_SUCCESS
    assert send([first + 8 * 512, second], [1], [6])[0] == S.LLM_SUCCESS
    expected = moved(destination.filled(), source.filled(), [0, 1], [15, 14], [0], [0])
    expected = moved(expected, source.filled(), [0, 1], [0, 6], [1], [1])
    check(destination, expected)


@pytest.mark.rule("C6.2-19", "C6.1-31")
def test_c6_2_19_request_mode_reaches_caches_that_are_not_remote_accessible(
    together: NearStage, registered_path: Path
) -> None:
    pair = Pair(together, registered_path, False)
    hidden = pair.owner.register("kv", BLOCKS, 1, 0, remote_accessible=False)
    source = pair.sender.register("kv", BLOCKS, 2, remote_accessible=False)
    pair.sent(hidden, [2], [3])
    check(hidden, moved(hidden.filled(), source.filled(), [2], [3]))
    assert pair.owner.call("counters").pulls == 0


@pytest.mark.rule("C6.2-43", "C10-41")
@pytest.mark.parametrize("blocks", [True, False], ids=["blocks", "entries"])
@pytest.mark.parametrize("per_layer", [1, 3])
def test_c6_2_43_layers_of_other_numbers_of_tensors(
    pair: Pair, per_layer: int, blocks: bool
) -> None:
    """Of five tensors in layers of one, the last three; of six in layers of three, the last."""
    tensors = {1: 5, 3: 6}[per_layer]
    geometry = Geometry(num_tensors=tensors, num_blocks=4, block_bytes=512)
    destination, source = pair.destination(geometry, blocks), pair.source(geometry, blocks)
    assert pair.sender.link(pair.owner) == S.LLM_SUCCESS
    layers = range(tensors // per_layer - (3 if per_layer == 1 else 1), tensors // per_layer)
    moved_tensors = list(range(layers.start * per_layer, tensors))
    if pair.one_sided:
        key = KEY if blocks else CacheKeyByIdAndIndex(OWNER, destination.cache_id)
        config = TransferWithCacheKeyConfig(key, layers, layers)
    else:
        config = TransferConfig(OWNER, destination.tensor_addrs[moved_tensors[0] :], layers)
    lists = ([2, 1], [1, 3]) if blocks else ()
    ready = Ready()
    task = pair.sender.manager.transfer_cache_async(
        pair.sender.cache("kv"), ready, [config], *lists, tensor_num_per_layer=per_layer
    )
    assert task.synchronize(WAIT_MS) == S.LLM_SUCCESS, task.exception()
    assert [layer for layer, _ in ready.asked] == list(layers)
    src, dst = lists or ([0], [0])
    expected = moved(destination.filled(), source.filled(), src, dst, moved_tensors, moved_tensors)
    check(destination, expected)
