# SPDX-License-Identifier: Apache-2.0
"""What transfer_cache_async checks before it starts, and in which order: contract 6.2."""

from __future__ import annotations

import threading

import pytest

from llm_datadist import (
    BlocksCacheKey,
    CacheKeyByIdAndIndex,
    LLMStatusCode,
    Placement,
    TransferConfig,
    TransferWithCacheKeyConfig,
)
from llm_datadist.testing import Geometry
from tests.conformance.layers import WAIT_MS, Ready
from tests.conformance.orders import check_order
from tests.conformance.refusals import refused
from tests.conformance.stage import OWNER, PULLER, SMALL
from tests.conformance.together import NearPeer, NearStage

S = LLMStatusCode
PI = S.LLM_PARAM_INVALID
KEY = BlocksCacheKey(OWNER, 0)
LAYERS = SMALL.num_tensors // 2


@pytest.fixture(params=[True, False], ids=["one-sided", "request"])
def sender(together: NearStage, request: pytest.FixtureRequest) -> NearPeer:
    """Has contiguous, paged, host and odd caches; not linked, so nothing is sent."""
    peer = together.engine(PULLER, listen=None, one_sided=request.param)
    peer.contiguous("entries", SMALL, 1, allocated=False)
    peer.register("blocks", SMALL, 2)
    peer.register("host", SMALL, 3, placement=Placement.HOST)
    peer.register("odd", Geometry(num_tensors=3), 4)
    return peer


def one_sided(sender: NearPeer) -> bool:
    return sender.manager._engine.options.one_sided


def config_of(sender: NearPeer, layers: range = range(LAYERS), batch_index: int = 0):
    """A good config of the sender's mode."""
    if one_sided(sender):
        by_id = CacheKeyByIdAndIndex(OWNER, 1)
        return TransferWithCacheKeyConfig(by_id, layers, layers, batch_index)
    return TransferConfig(OWNER, [4096] * 2 * len(layers), layers, batch_index)


def other_config(sender: NearPeer):
    """A config of the other mode."""
    if one_sided(sender):
        return TransferConfig(OWNER, [4096, 4096], range(1))
    return TransferWithCacheKeyConfig(KEY, range(1), range(1))


def start(sender: NearPeer, name: str = "entries", **changes):
    arguments = {
        "src_cache": sender.cache(name),
        "layer_synchronizer": Ready(),
        "transfer_configs": [config_of(sender)],
    }
    return sender.manager.transfer_cache_async(**{**arguments, **changes})


@pytest.mark.rule(
    "C6.2-1", "C6.2-2", "C6.2-3", "C6.2-4", "C6.2-5", "C6.2-7", "C6.2-8", "C6.2-10", "C6.2-13"
)
def test_c6_2_1_order_with_both_block_lists(sender: NearPeer) -> None:
    good = {
        "src_cache": sender.cache("blocks"),
        "layer_synchronizer": Ready(),
        "transfer_configs": [config_of(sender)],
        "src_block_indices": [0],
        "dst_block_indices": [0],
    }
    before = threading.active_count()
    steps = [
        ({"src_cache": None}, TypeError, "src_cache"),
        ({"src_cache": sender.cache("host")}, PI, "host memory"),
        ({"dst_block_indices": 7}, TypeError, "dst_block_indices"),
        ({"src_block_indices": [0, "1"]}, TypeError, "src_block_indices"),
        ({"dst_block_memory_size": "1"}, TypeError, "dst_block_memory_size"),
        ({"dst_block_memory_size": 2**64}, ValueError, "dst_block_memory_size"),
        ({"src_block_indices": [0, 1, 2], "dst_block_indices": [0]}, PI, "3 and 1"),
        ({"layer_synchronizer": None}, TypeError, "layer_synchronizer"),
        ({"layer_synchronizer": object()}, TypeError, "layer_synchronizer"),
        ({"transfer_configs": None}, TypeError, "transfer_configs"),
        ({"transfer_configs": [other_config(sender)]}, TypeError, "transfer_configs"),
        ({"src_cache": sender.cache("odd")}, PI, "whole"),
        ({"transfer_configs": [config_of(sender, range(1, 3), 1)]}, PI, "src_batch_index"),
        ({"transfer_configs": [config_of(sender, range(1, 3))]}, PI, "src_layer_range"),
    ]
    check_order(sender.manager.transfer_cache_async, good, steps)
    assert threading.active_count() == before, "a call that was refused started its thread"


@pytest.mark.rule("C6.2-6", "C6.2-7")
def test_c6_2_6_destination_blocks_alone_need_their_size(sender: NearPeer) -> None:
    good = {
        "src_cache": sender.cache("entries"),
        "layer_synchronizer": Ready(),
        "transfer_configs": [config_of(sender)],
    }
    steps = [
        ({"dst_block_indices": [0]}, PI, "dst_block_memory_size"),
        ({"layer_synchronizer": None}, TypeError, "layer_synchronizer"),
    ]
    check_order(sender.manager.transfer_cache_async, good, steps)


@pytest.mark.rule("C6.2-5")
def test_c6_2_5_source_blocks_need_destination_blocks(sender: NearPeer) -> None:
    for dst in (None, []):
        with refused(PI, 2, 0):
            start(sender, "blocks", src_block_indices=[0, 1], dst_block_indices=dst)


@pytest.mark.rule("C6.2-9")
@pytest.mark.parametrize("dst", [None, []])
def test_c6_2_9_a_block_size_without_destination_blocks(sender: NearPeer, dst) -> None:
    with refused(PI, "dst_block_memory_size"):
        start(sender, dst_block_memory_size=512, dst_block_indices=dst)
    for size in (None, 0):
        task = start(sender, dst_block_memory_size=size, dst_block_indices=dst)
        assert task.synchronize(WAIT_MS) == S.LLM_NOT_YET_LINK


@pytest.mark.rule("C6.2-8")
@pytest.mark.parametrize("empty", [[], ()])
def test_c6_2_8_no_configs_are_allowed_and_nothing_is_asked(sender: NearPeer, empty) -> None:
    layers = Ready()
    task = start(sender, transfer_configs=empty, layer_synchronizer=layers)
    assert task.get_results(WAIT_MS) == []
    assert task.synchronize(WAIT_MS) == S.LLM_SUCCESS
    assert layers.asked == []


@pytest.mark.rule("C6.2-11")
def test_c6_2_11_a_missing_source_range_is_put_into_the_callers_object(sender: NearPeer) -> None:
    config = config_of(sender)
    config.src_layer_range = None
    layers = Ready()
    task = start(sender, transfer_configs=(config,), layer_synchronizer=layers)
    assert config.src_layer_range == range(LAYERS)
    assert task.synchronize(WAIT_MS) == S.LLM_NOT_YET_LINK
    assert layers.asked == [(0, None)]


@pytest.mark.rule("C6.2-12")
def test_c6_2_12_no_batch_index_with_source_blocks(sender: NearPeer) -> None:
    lists = {"src_block_indices": [0], "dst_block_indices": [0]}
    with refused(PI, "src_batch_index", 1):
        start(sender, "blocks", transfer_configs=[config_of(sender, batch_index=1)], **lists)


@pytest.mark.rule("C6.2-41")
def test_c6_2_41_a_batch_index_outside_a_contiguous_source(sender: NearPeer) -> None:
    layers, entries = Ready(), SMALL.num_blocks
    with refused(PI, "transfer_configs[1]", "src_batch_index", entries):
        bad = config_of(sender, batch_index=entries)
        start(sender, transfer_configs=[config_of(sender), bad], layer_synchronizer=layers)
    assert layers.asked == []
    task = start(sender, transfer_configs=[config_of(sender, batch_index=entries - 1)])
    assert task.synchronize(WAIT_MS) == S.LLM_NOT_YET_LINK


@pytest.mark.rule("C6.2-44")
def test_c6_2_44_the_extension_is_refused_in_strict_hardware_mode(
    together: NearStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_DATADIST_STRICT_HARDWARE", "1")
    sender = together.engine(PULLER, listen=None)
    sender.register("blocks", SMALL, 2)
    for count in (1, 2):
        with pytest.raises(TypeError, match="extension that CANN does not have: in strict"):
            start(sender, "blocks", tensor_num_per_layer=count)


@pytest.mark.rule("C6.2-13", "C6.2-15")
def test_c6_2_13_ranges_end_at_half_the_tensors(sender: NearPeer) -> None:
    with refused(PI, "src_layer_range", "transfer_configs[1]", LAYERS):
        bad = config_of(sender, range(LAYERS - 1, LAYERS + 1))
        start(sender, transfer_configs=[config_of(sender), bad])
    task = start(sender, transfer_configs=[config_of(sender, range(LAYERS - 1, LAYERS))])
    assert task.synchronize(WAIT_MS) == S.LLM_NOT_YET_LINK


@pytest.mark.rule("C6.2-14")
@pytest.mark.parametrize("count", [0, 1, 3, 5, 8])
def test_c6_2_14_two_addresses_a_layer(together: NearStage, count: int) -> None:
    sender = together.engine(PULLER, listen=None, one_sided=False)
    sender.register("blocks", SMALL, 2)
    with refused(PI, "dst_addrs", 4, count):
        start(sender, "blocks", transfer_configs=[TransferConfig(OWNER, [4096] * count, range(2))])


@pytest.mark.rule("C6.2-10")
def test_c6_2_10_an_odd_number_of_tensors(sender: NearPeer) -> None:
    with refused(PI, "whole", 3, 2):
        start(sender, "odd", transfer_configs=[config_of(sender, range(1))])


@pytest.mark.rule("C6.2-2")
def test_c6_2_2_host_memory(sender: NearPeer) -> None:
    with refused(PI, "host memory"):
        start(sender, "host")
