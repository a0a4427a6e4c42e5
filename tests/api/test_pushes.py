# SPDX-License-Identifier: Apache-2.0
"""Pushes of a CacheManager over a mocked library: contract 1.10 and 6.1."""

from __future__ import annotations

import numpy as np
import pytest

from llm_datadist import (
    Cache,
    CacheDesc,
    CacheKey,
    CacheKeyByIdAndIndex,
    DataType,
    LLMDataDistWarning,
    LLMException,
)
from llm_datadist import LLMStatusCode as S
from tests.api.managed import ALL, BLOCKS, BY_ID, CONTIGUOUS, KEY, assert_invalid


class TestPush:
    def test_blocks(self, native, manager):
        manager.push_blocks(KEY, BLOCKS, [5, 6], np.array([0, 2]))
        _, args, done = native.last("push")
        assert (args["key"]["kind"], args["cache_id"], done) == (3, 5, None)
        assert (args["src_blocks"], args["dst_blocks"]) == ([5, 6], [0, 2])
        assert (args["src_layer_start"], args["dst_layer_start"], args["num_layers"]) == (0, 0, ALL)
        manager.push_blocks(KEY, BLOCKS, None, [1], range(1, 2), range(3, 4), 1)
        _, args, _ = native.last("push")
        assert (args["num_src_blocks"], args["tensors_per_layer"]) == (0, 1)
        assert (args["src_layer_start"], args["dst_layer_start"], args["num_layers"]) == (1, 3, 1)

    def test_cache(self, native, manager):
        manager.push_cache(BY_ID, CONTIGUOUS, 3, tensor_num_per_layer=4)
        _, args, _ = native.last("push")
        assert (args["key"]["cache_id"], args["cache_id"], args["src_batch_index"]) == (3, 6, 3)
        assert (args["num_layers"], args["num_dst_blocks"]) == (ALL, 0)

    def test_one_sided_mode_only(self, request_manager):
        assert_invalid(lambda: request_manager.push_blocks(None, None), "one-sided")
        assert_invalid(lambda: request_manager.push_cache(None, None), "one-sided")

    @pytest.mark.rule("C1.2-11", "C1.2-16", "C1.10-16", "C1.10-17", "C6.1-34")
    def test_types(self, manager):
        for call in (
            lambda: manager.push_blocks(None, BLOCKS, [1], [1]),
            lambda: manager.push_blocks(CacheKey(1, 2), BLOCKS, [1], [1]),
            lambda: manager.push_blocks(KEY, None, [1], [1]),
            lambda: manager.push_blocks(KEY, BLOCKS, [-1], [1]),
            lambda: manager.push_blocks(KEY, BLOCKS, [1], [1], src_layer_range=[0]),
            lambda: manager.push_blocks(KEY, BLOCKS, [1], [1], tensor_num_per_layer=None),
            lambda: manager.push_blocks(BY_ID, BLOCKS, [1], [1]),
            lambda: manager.push_cache(None, CONTIGUOUS),
            lambda: manager.push_cache(KEY, CONTIGUOUS),
            lambda: manager.push_cache(BY_ID, None),
            lambda: manager.push_cache(BY_ID, CONTIGUOUS, None),
            lambda: manager.push_cache(BY_ID, CONTIGUOUS, size=None),
            lambda: manager.push_cache(CacheKeyByIdAndIndex(9, -1), CONTIGUOUS),
        ):
            with pytest.raises(TypeError):
                call()

    @pytest.mark.rule("C1.10-16", "C1.10-17")
    def test_param_invalid(self, native, manager):
        for call, text in (
            (lambda: manager.push_blocks(KEY, CONTIGUOUS, [1], [1]), "no blocks"),
            (lambda: manager.push_blocks(KEY, BLOCKS, [1], []), "dst_blocks is empty"),
            (
                lambda: manager.push_blocks(KEY, BLOCKS, [1], [1], tensor_num_per_layer=0),
                "positive",
            ),
            (lambda: manager.push_blocks(KEY, BLOCKS, [1], [1], range(0)), "src_layer_range"),
            (lambda: manager.push_blocks(KEY, BLOCKS, [1], [1], range(1)), "one length"),
            (lambda: manager.push_blocks(KEY, BLOCKS, [1], [1], None, range(3)), "one length"),
            (lambda: manager.push_cache(BY_ID, BLOCKS), "has blocks"),
            (lambda: manager.push_cache(BY_ID, CONTIGUOUS, size=5), "size"),
        ):
            assert_invalid(call, text)
        assert native.of("push") == []

    def test_layers_beyond_uint32(self, manager):
        with pytest.raises(ValueError, match="end of a layer range"):
            manager.push_cache(BY_ID, CONTIGUOUS, 0, range(2**70), range(2**70))

    def test_fewer_tensors_than_a_layer_warn(self, native, manager):
        three = Cache(5, CacheDesc(3, [8, 16], DataType.DT_INT8), [1, 2, 3], True)
        with pytest.warns(LLMDataDistWarning, match="nothing is pushed") as caught:
            manager.push_blocks(KEY, three, [1], [1], tensor_num_per_layer=4)
        assert caught[0].filename == __file__
        assert native.of("push") == []
        # The engine is asked for what is not a whole number of layers, and refuses it.
        manager.push_blocks(KEY, three, [1], [1])
        assert native.last("push")[1]["num_layers"] == ALL

    def test_cache_id_zero_warns(self, native, manager):
        with pytest.warns(LLMDataDistWarning, match="req_id 0, model_id 0") as caught:
            manager.push_cache(CacheKeyByIdAndIndex(9, 0), CONTIGUOUS)
        assert caught[0].filename == __file__
        assert len(native.of("push")) == 1

    def test_failures(self, native, manager):
        native.fail("push", S.LLM_TIMEOUT)
        for call, name in (
            (lambda: manager.push_blocks(KEY, BLOCKS, [1], [1]), "push_blocks"),
            (lambda: manager.push_cache(BY_ID, CONTIGUOUS), "push_cache"),
        ):
            with pytest.raises(LLMException, match=rf"\[{name}\] failed") as caught:
                call()
            assert caught.value.status_code is S.LLM_TIMEOUT
        with pytest.raises(TypeError, match=r"src_blocks\[0\]"):
            manager.push_blocks(KEY, BLOCKS, np.array([-1]), [1])
