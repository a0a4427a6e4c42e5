# SPDX-License-Identifier: Apache-2.0
"""transfer_cache_async over a mocked library: contract 1.9 and 6.2, decisions 16 and 17."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    CacheKey,
    CacheKeyByIdAndIndex,
    DataType,
    LayerSynchronizer,
    LLMException,
    LLMStatusCode,
    Placement,
    TransferConfig,
    TransferWithCacheKeyConfig,
)
from tests.api.managed import assert_invalid

S = LLMStatusCode
DESC = CacheDesc(8, [4, 16], DataType.DT_INT8)
CACHE = Cache(5, DESC, list(range(1, 9)), False)
KEY = BlocksCacheKey(9)
BY_ID = CacheKeyByIdAndIndex(8, 3, 1)
WAIT = 30_000


class Layers(LayerSynchronizer):
    """Says yes, and records; acts sets what to do at a layer instead."""

    def __init__(self, **acts):
        self.asked = []
        self.acts = {int(name[1:]): act for name, act in acts.items()}

    def synchronize_layer(self, layer_index, timeout_in_millis):
        self.asked.append((layer_index, timeout_in_millis, threading.current_thread()))
        act = self.acts.get(layer_index)
        return True if act is None else act()


def raise_error():
    raise ArithmeticError("in synchronize_layer")


class TestConfigs:
    @pytest.mark.rule("C1.9-16", "C1.9-18")
    def test_transfer_config(self):
        config = TransferConfig(1, [2, 3], range(1), 4)
        assert (config.dst_cluster_id, config.dst_addrs) == (1, [2, 3])
        assert (config.src_layer_range, config.src_batch_index) == (range(1), 4)
        assert config.dst_layer_range is None
        config.src_layer_range = None
        config.dst_addrs = (7,)
        config.dst_cluster_id = 2**64 - 1
        assert TransferConfig(1, []).src_layer_range is None

    @pytest.mark.rule("C1.9-16", "C1.9-17", "C1.9-26")
    @pytest.mark.parametrize(
        ("member", "value", "error"),
        [
            ("dst_cluster_id", None, TypeError),
            ("dst_cluster_id", -1, ValueError),
            ("dst_addrs", None, TypeError),
            ("dst_addrs", {1}, TypeError),
            ("dst_addrs", ["1"], TypeError),
            ("dst_addrs", [-1], ValueError),
            ("dst_addrs", [2**64], ValueError),
            ("src_layer_range", [0], TypeError),
            ("src_layer_range", range(0), LLMException),
            ("src_layer_range", range(0, 4, 2), LLMException),
            ("src_batch_index", None, TypeError),
            ("src_batch_index", 2**32, ValueError),
        ],
    )
    def test_transfer_config_checks(self, member, value, error):
        good = {"dst_cluster_id": 1, "dst_addrs": [1, 2]}
        with pytest.raises(error):
            TransferConfig(**{**good, member: value})
        config = TransferConfig(**good)
        with pytest.raises(error):
            setattr(config, member, value)

    @pytest.mark.rule("C1.9-23", "C1.9-24", "C1.9-25")
    def test_key_config(self):
        config = TransferWithCacheKeyConfig(BY_ID, range(2), range(4, 6), 3)
        assert (config.cache_key, config.dst_cluster_id, config.src_batch_index) == (BY_ID, 8, 3)
        config.cache_key = KEY
        assert config.dst_cluster_id == 8
        config.src_layer_range = None
        config.dst_layer_range = range(9)
        assert (config.src_layer_range, config.dst_layer_range) == (None, range(9))

    @pytest.mark.rule("C1.9-19", "C1.9-20", "C1.9-21", "C1.9-22", "C1.9-26")
    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ((None, range(1), range(1)), TypeError),
            ((CacheKey(1, 2), range(1), range(1)), TypeError),
            ((KEY,), TypeError),
            ((KEY, range(1)), TypeError),
            ((KEY, None, range(1)), TypeError),
            ((KEY, range(1), range(2)), LLMException),
            ((KEY, range(2**70), range(1)), LLMException),
            ((KEY, range(1), range(1), -1), ValueError),
            ((KEY, range(1), range(1), 1), LLMException),
        ],
    )
    def test_key_config_checks(self, arguments, error):
        with pytest.raises(error):
            TransferWithCacheKeyConfig(*arguments)


class TestArguments:
    def call(self, manager, **changes):
        arguments = {
            "src_cache": CACHE,
            "layer_synchronizer": Layers(),
            "transfer_configs": [TransferWithCacheKeyConfig(KEY, range(1), range(1))],
        }
        return manager.transfer_cache_async(**{**arguments, **changes})

    @pytest.mark.rule("C1.10-18")
    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"src_cache": None}, TypeError),
            ({"layer_synchronizer": None}, TypeError),
            ({"layer_synchronizer": object()}, TypeError),
            ({"transfer_configs": None}, TypeError),
            ({"transfer_configs": [TransferConfig(1, [1, 2])]}, TypeError),
            ({"dst_block_indices": 5}, TypeError),
            ({"dst_block_indices": [-1]}, TypeError),
            ({"src_block_indices": ["1"]}, TypeError),
            ({"dst_block_memory_size": -1}, ValueError),
            ({"dst_block_memory_size": "1"}, TypeError),
        ],
    )
    def test_builtin_errors(self, manager, changes, error):
        with pytest.raises(error) as caught:
            self.call(manager, **changes)
        assert not isinstance(caught.value, LLMException)

    @pytest.mark.rule("C1.10-18")
    def test_param_invalid(self, native, manager):
        host = Cache(5, CacheDesc(8, [4, 16], DataType.DT_INT8, Placement.HOST), [1] * 8, False)
        odd = Cache(5, CacheDesc(7, [4, 16], DataType.DT_INT8), [1] * 7, False)
        too_far = TransferWithCacheKeyConfig(KEY, range(3, 5), range(2))
        no_destination = TransferWithCacheKeyConfig(KEY, range(1), range(1))
        no_destination.dst_layer_range = None
        batch = TransferWithCacheKeyConfig(BY_ID, range(1), range(1), 1)
        for changes, text in (
            ({"src_cache": host}, "host memory"),
            ({"src_block_indices": [1]}, "1 and 0 elements"),
            ({"src_block_indices": [1], "dst_block_indices": [1, 2]}, "1 and 2 elements"),
            ({"dst_block_indices": [1]}, "dst_block_memory_size"),
            ({"dst_block_memory_size": 5}, "dst_block_indices"),
            ({"src_cache": odd}, "7 tensors are no whole number of layers of 2"),
            ({"transfer_configs": [too_far]}, r"transfer_configs\[0\]: src_layer_range"),
            ({"transfer_configs": [no_destination]}, "dst_layer_range"),
            (
                {"transfer_configs": [batch], "src_block_indices": [1], "dst_block_indices": [1]},
                "src_batch_index",
            ),
        ):
            assert_invalid(lambda c=changes: self.call(manager, **c), text)
        assert native.of("transfer_layer") == []

    def test_request_mode(self, native, request_manager):
        with pytest.raises(TypeError):
            self.call(request_manager)
        for count in (7, 9):
            config = TransferConfig(1, [1] * count)
            assert_invalid(
                lambda c=config: self.call(request_manager, transfer_configs=[c]), "8 dst_addrs"
            )

    def test_no_config_at_all(self, native, manager):
        task = self.call(manager, transfer_configs=[])
        assert task.synchronize(WAIT) is S.LLM_SUCCESS
        assert task.get_results(WAIT) == []


class TestTransfer:
    def test_one_sided_layers_in_order(self, native, manager):
        layers = Layers()
        task = manager.transfer_cache_async(
            CACHE,
            layers,
            [
                TransferWithCacheKeyConfig(BY_ID, range(1, 3), range(5, 7), 2),
                TransferWithCacheKeyConfig(KEY, range(2, 4), range(0, 2)),
            ],
        )
        assert task.synchronize(WAIT) is S.LLM_SUCCESS
        assert task.get_results() == [S.LLM_SUCCESS] * 2
        assert task.exception() is None
        # Layer 0 is covered by nobody; layer 2 by both, and asked for once.
        assert [(layer, timeout) for layer, timeout, _ in layers.asked] == [
            (1, None),
            (2, None),
            (3, None),
        ]
        assert {thread for *_, thread in layers.asked} != {threading.current_thread()}
        sent = [args for _, args in native.of("transfer_layer")]
        assert [(a["key"]["kind"], a["src_layer"], a["dst_layer"]) for a in sent] == [
            (2, 1, 5),
            (2, 2, 6),
            (3, 2, 0),
            (3, 3, 1),
        ]
        assert [a["src_batch_index"] for a in sent] == [2, 2, 0, 0]
        assert {(a["cache_id"], a["tensors_per_layer"], a["num_dst_blocks"]) for a in sent} == {
            (5, 2, 0)
        }

    def test_request_mode_addresses(self, native, request_manager):
        config = TransferConfig(9, [10, 11, 20, 21], range(2, 4))
        everything = TransferConfig(7, list(range(100, 108)))
        task = request_manager.transfer_cache_async(CACHE, Layers(), (config, everything))
        assert task.synchronize(WAIT) is S.LLM_SUCCESS
        assert everything.src_layer_range == range(4)
        sent = [args for _, args in native.of("transfer_layer")]
        assert all(args["key"] is None for args in sent)
        assert [(a["dst_cluster_id"], a["src_layer"], a["dst_addrs"]) for a in sent] == [
            (7, 0, [100, 101]),
            (7, 1, [102, 103]),
            (9, 2, [10, 11]),
            (7, 2, [104, 105]),
            (9, 3, [20, 21]),
            (7, 3, [106, 107]),
        ]

    def test_blocks(self, native, manager):
        config = [TransferWithCacheKeyConfig(KEY, range(1), range(1))]
        task = manager.transfer_cache_async(CACHE, Layers(), config, np.array([3, 1]), (0, 2), 16)
        assert task.synchronize(WAIT) is S.LLM_SUCCESS
        _, args = native.last("transfer_layer")
        assert (args["src_blocks"], args["dst_blocks"], args["dst_block_size"]) == (
            [3, 1],
            [0, 2],
            16,
        )

    def test_a_refused_layer_stops_everything(self, native, manager):
        configs = [
            TransferWithCacheKeyConfig(KEY, range(2), range(2)),
            TransferWithCacheKeyConfig(BY_ID, range(2, 4), range(2)),
        ]
        layers = Layers(_1=lambda: False)
        task = manager.transfer_cache_async(CACHE, layers, configs)
        assert task.synchronize(WAIT) is S.LLM_PARAM_INVALID
        assert task.get_results() == [S.LLM_PARAM_INVALID, S.LLM_FAILED]
        assert len(layers.asked) == 2
        assert len(native.of("transfer_layer")) == 1

    def test_a_failed_layer_stops_everything(self, native, manager):
        native.fail("transfer_layer", S.LLM_NOT_YET_LINK)
        configs = [
            TransferWithCacheKeyConfig(KEY, range(2), range(2)),
            TransferWithCacheKeyConfig(BY_ID, range(2), range(2)),
        ]
        task = manager.transfer_cache_async(CACHE, Layers(), configs)
        assert task.get_results(WAIT) == [S.LLM_NOT_YET_LINK, S.LLM_FAILED]
        assert task.synchronize() is S.LLM_NOT_YET_LINK
        assert "[transfer_cache_async] failed" in str(task.exception())
        assert len(native.of("transfer_layer")) == 1

    def test_an_exception_is_not_a_success(self, native, manager):
        config = [TransferWithCacheKeyConfig(KEY, range(2), range(2))]
        task = manager.transfer_cache_async(CACHE, Layers(_1=raise_error), config)
        assert task.synchronize(WAIT) is S.LLM_FAILED
        assert task.get_results() == [S.LLM_FAILED]
        assert isinstance(task.exception(), ArithmeticError)

    @pytest.mark.rule("C1.9-27")
    def test_a_running_task_times_out_and_goes_on(self, native, manager):
        go = threading.Event()
        layers = Layers(_0=lambda: go.wait(30))
        config = [TransferWithCacheKeyConfig(KEY, range(1), range(1))] * 2
        task = manager.transfer_cache_async(CACHE, layers, config)
        try:
            assert task.synchronize(0) is S.LLM_TIMEOUT
            assert task.get_results(1) == [S.LLM_TIMEOUT] * 2
        finally:
            go.set()
        assert task.synchronize() is S.LLM_SUCCESS

    @pytest.mark.rule("C1.9-27")
    @pytest.mark.parametrize(
        ("timeout", "error"), [("1", TypeError), (-1, ValueError), (2**32, ValueError)]
    )
    def test_timeouts_are_uint32(self, native, manager, timeout, error):
        task = manager.transfer_cache_async(CACHE, Layers(), [])
        with pytest.raises(error):
            task.synchronize(timeout)
        with pytest.raises(error):
            task.get_results(timeout)

    def test_configs_for_one_cluster_share_a_result(self, native, manager):
        configs = [
            TransferWithCacheKeyConfig(KEY, range(1), range(1)),
            TransferWithCacheKeyConfig(BlocksCacheKey(9, 5), range(1, 2), range(1)),
        ]
        task = manager.transfer_cache_async(CACHE, Layers(_1=lambda: False), configs)
        assert task.get_results(WAIT) == [S.LLM_PARAM_INVALID] * 2

    @pytest.mark.rule("C6.2-42")
    def test_a_shared_result_is_a_failure_if_either_did_not_succeed(self, native, manager):
        configs = [
            TransferWithCacheKeyConfig(KEY, range(1), range(1)),
            TransferWithCacheKeyConfig(BlocksCacheKey(9, 5), range(1, 2), range(1)),
        ]
        task = manager.transfer_cache_async(CACHE, Layers(_1=raise_error), configs)
        assert task.get_results(WAIT) == [S.LLM_FAILED] * 2
        assert task.synchronize() is S.LLM_FAILED

    @pytest.mark.rule("C6.2-43", "C6.2-14")
    def test_another_number_of_tensors_per_layer(self, native, request_manager):
        odd = Cache(5, CacheDesc(3, [4, 16], DataType.DT_INT8), [1, 2, 3], False)
        config = TransferConfig(9, [10, 20, 30])
        task = request_manager.transfer_cache_async(odd, Layers(), [config], tensor_num_per_layer=1)
        assert task.synchronize(WAIT) is S.LLM_SUCCESS
        sent = [args for _, args in native.of("transfer_layer")]
        assert [(a["tensors_per_layer"], a["src_layer"], a["dst_addrs"]) for a in sent] == [
            (1, 0, [10]),
            (1, 1, [20]),
            (1, 2, [30]),
        ]
        for value, error in (
            (0, LLMException),
            (2, LLMException),
            (-1, ValueError),
            ("1", TypeError),
        ):
            with pytest.raises(error, match="layer"):
                request_manager.transfer_cache_async(
                    odd, Layers(), [config], tensor_num_per_layer=value
                )
