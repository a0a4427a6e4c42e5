# SPDX-License-Identifier: Apache-2.0
"""Pulls of a CacheManager over a mocked library: contract 1.10 and chapter 5."""

from __future__ import annotations

import sys
import threading
from array import array

import numpy as np
import pytest

from llm_datadist import BlocksCacheKey, Cache, CacheKey, LLMDataDistWarning, LLMException
from llm_datadist import LLMStatusCode as S
from llm_datadist._native import marshal
from tests.api.managed import BLOCKS, BY_ID, CONTIGUOUS, DESC, KEY, UNSET, assert_invalid
from tests.conformance.tensors import ForeignTensor


def leave_a_notice(native):
    """Let every pull succeed with a notice."""
    notice = b"look here"
    native.fail("pull", marshal.constant(native.ffi, "LLDD_NOTICE_LEFT"))

    def write(engine, chars, size, length):
        native.ffi.memmove(chars, notice + b"\0", len(notice) + 1)
        length[0] = len(notice)
        native.on("engine_next_notice", lambda *_: None)

    native.on("engine_next_notice", write)


class TestPullBlocks:
    @pytest.mark.parametrize(
        "form",
        [
            list,
            tuple,
            lambda ids: np.array(ids, np.uint64),
            lambda ids: np.array(ids),
            lambda ids: array("Q", ids),
        ],
    )
    def test_what_reaches_the_library(self, native, manager, form):
        assert manager.pull_blocks(KEY, BLOCKS, form([5, 6, 9]), form([0, 2, 1])) is None
        _, args = native.last("pull")
        assert (args["key"]["kind"], args["key"]["cluster_id"], args["key"]["model_id"]) == (
            3,
            9,
            2,
        )
        assert (args["cache_id"], args["size"], args["batch_index"]) == (5, -1, 0)
        assert (args["src_blocks"], args["dst_blocks"]) == ([5, 6, 9], [0, 2, 1])
        assert args["tensors_per_layer"] == 2
        assert (args["src_layer_count"], args["dst_layer_count"]) == (0, 0)

    def test_one_that_leaves_a_notice_warns_and_succeeds(self, native, manager):
        # By either way of the lists.
        for ids in ([1], np.arange(100)):
            leave_a_notice(native)
            with pytest.warns(LLMDataDistWarning, match="look here"):
                manager.pull_blocks(KEY, BLOCKS, ids, ids)

    def test_by_a_manager_that_is_kept(self, open_datadist):
        datadist = open_datadist()
        manager = datadist.cache_manager
        datadist.finalize()
        with pytest.raises(LLMException) as caught:
            manager.pull_blocks(KEY, BLOCKS, [1], [2])
        assert caught.value.status_code is S.LLM_ENGINE_FINALIZED

    @pytest.mark.rule("C1.10-22")
    def test_layers(self, native, manager):
        manager.pull_blocks(
            KEY,
            BLOCKS,
            [1],
            [2],
            src_layer_range=range(3, 5),
            dst_layer_range=range(1, 3),
            tensor_num_per_layer=7,
        )
        _, args = native.last("pull")
        layers = [
            args[f"{end}_layer_{what}"] for end in ("src", "dst") for what in ("start", "count")
        ]
        assert layers == [3, 2, 1, 2]
        assert args["tensors_per_layer"] == 7
        manager.pull_blocks(KEY, BLOCKS, [1], [2], src_layer_range=range(0), dst_layer_range=None)
        _, args = native.last("pull")
        assert (args["src_layer_count"], args["dst_layer_count"], args["tensors_per_layer"]) == (
            0,
            0,
            2,
        )

    @pytest.mark.parametrize(
        ("kwargs", "error"),
        [
            ({"src_layer_range": [0, 1]}, TypeError),
            ({"dst_layer_range": 1}, TypeError),
            ({"src_layer_range": range(2**32, 2**32 + 1)}, ValueError),
            ({"dst_layer_range": range(2**70)}, ValueError),
            ({"tensor_num_per_layer": None}, TypeError),
            ({"tensor_num_per_layer": -1}, ValueError),
            ({"tensor_num_per_layer": 2**32}, ValueError),
        ],
    )
    def test_builtin_errors_of_layers(self, manager, kwargs, error):
        with pytest.raises(error) as caught:
            manager.pull_blocks(KEY, BLOCKS, [1], [2], **kwargs)
        assert not isinstance(caught.value, LLMException)

    @pytest.mark.parametrize(
        "kwargs",
        [
            {"src_layer_range": range(0, 4, 2)},
            {"dst_layer_range": range(-1, 2)},
            {"dst_layer_range": range(3, -1, -1)},
            {"tensor_num_per_layer": 0},
        ],
    )
    def test_param_invalid_of_layers(self, manager, kwargs):
        assert_invalid(lambda: manager.pull_blocks(KEY, BLOCKS, [1], [2], **kwargs))

    def test_other_keys(self, native, manager):
        manager.pull_blocks(BY_ID, BLOCKS, dst_blocks=[1, 2])
        _, args = native.last("pull")
        assert (args["key"]["kind"], args["key"]["cache_id"], args["key"]["batch_index"]) == (
            2,
            3,
            1,
        )
        assert (args["num_src_blocks"], args["dst_blocks"]) == (0, [1, 2])
        manager.pull_blocks(CacheKey(9, 4), BLOCKS, (), [1])
        assert native.last("pull")[1]["key"]["req_id"] == 4
        with pytest.raises(TypeError, match="src_blocks"):
            manager.pull_blocks(BY_ID, BLOCKS, None, [1])

    @pytest.mark.rule("C1.2-11", "C1.10-15")
    def test_types(self, native, manager):
        for arguments in (
            (None, BLOCKS, [1], [1]),
            (9, BLOCKS, [1], [1]),
            (KEY, None, [1], [1]),
            (KEY, 5, [1], [1]),
            (KEY, BLOCKS, "1", [1]),
            (KEY, BLOCKS, [1], {1}),
            (KEY, BLOCKS, [-1], [1]),
            (KEY, BLOCKS, [1], [2**64]),
        ):
            with pytest.raises(TypeError):
                manager.pull_blocks(*arguments)
        assert native.of("pull") == []

    @pytest.mark.rule("C1.10-15")
    def test_param_invalid(self, native, manager):
        for arguments, text in (
            ((KEY, CONTIGUOUS, [1], [1]), "no blocks"),
            ((KEY, BLOCKS, [1], []), "dst_blocks is empty"),
            ((KEY, BLOCKS, [], []), "dst_blocks is empty"),
            (
                (KEY, BLOCKS, np.empty(0, np.uint64), np.empty(0, np.uint64)),
                "dst_blocks is empty",
            ),
            ((KEY, BLOCKS, [1]), "dst_blocks is empty"),
            ((KEY, BLOCKS, [1], None), "dst_blocks is empty"),
            ((KEY, BLOCKS, [], [1]), "src_blocks is empty"),
            ((KEY, BLOCKS, None, [1]), "src_blocks is empty"),
            ((BY_ID, BLOCKS, [1], [1]), "src_blocks must be empty"),
            ((CacheKey(1, 2, 3, 4), BLOCKS, [], [1]), "exactly one"),
            ((CacheKey(1, UNSET), BLOCKS, [], [1]), "exactly one"),
        ):
            assert_invalid(lambda a=arguments: manager.pull_blocks(*a), text)
        assert native.of("pull") == []

    def test_an_engine_failure(self, native, manager):
        native.fail("pull", S.LLM_NOT_YET_LINK)
        native.detail = "no link to cluster 9"
        with pytest.raises(LLMException) as caught:
            manager.pull_blocks(KEY, BLOCKS, np.array([1]), [1])
        assert str(caught.value) == (
            "[pull_blocks] failed, error code is LLMStatusCode.LLM_NOT_YET_LINK, "
            "no link to cluster 9."
        )

    def test_short_and_long_lists_of_every_form_in_turn(self, native, manager):
        other = Cache(7, DESC, [1, 2, 3, 4], True)
        forms = [np.uint64, np.int64, None, np.ulonglong, np.int32, np.uint32]
        for round_number, count in enumerate([1, 3, 3, 64, 65, 200, 2, 64, 1] * len(forms)):
            form = forms[round_number % len(forms)]
            src = list(range(round_number, round_number + count))
            dst = src[::-1]
            cache = other if round_number % 3 else BLOCKS
            key = BlocksCacheKey(round_number % 5, 2)
            lists = [ids if form is None else np.array(ids, form) for ids in (src, dst)]
            layers = {"src_layer_range": range(1, 3)} if round_number % 7 == 6 else {}
            manager.pull_blocks(key, cache, *lists, **layers)
            _, args = native.last("pull")
            assert (args["src_blocks"], args["dst_blocks"]) == (src, dst)
            assert args["key"]["cluster_id"] == round_number % 5
            assert (args["cache_id"], args["src_layer_count"]) == (
                cache.cache_id,
                2 if layers else 0,
            )

    @pytest.mark.parametrize(
        "blocks",
        [
            np.array([1.0, 2.0]),
            np.array([1, 2], np.int16),
            np.array([1, 2], ">i4"),
            np.array([1, 2], ">u8"),
            np.array([[1], [2]], np.uint64),
            np.array(1, np.uint64),
            np.array([True, False]),
            np.array([1, 2], object),
            np.array(["1", "2"]),
            np.array([1, 2], "M8[s]"),
            np.zeros(2, [("a", np.uint64)]),
            np.array([1 + 0j, 2]),
        ],
    )
    def test_other_arrays_are_refused_on_either_side(self, native, manager, blocks):
        good = np.array([1, 2], np.uint64)
        for lists, name in (((blocks, good), "src_blocks"), ((good, blocks), "dst_blocks")):
            with pytest.raises(TypeError, match=name):
                manager.pull_blocks(KEY, BLOCKS, *lists)
        assert native.of("pull") == []

    def test_arrays_with_a_step_between_and_mixed_types(self, native, manager):
        ids = np.arange(10, dtype=np.uint64)
        manager.pull_blocks(KEY, BLOCKS, ids[::-3], np.array([7, 8, 9, 6], np.int64))
        _, args = native.last("pull")
        assert (args["src_blocks"], args["dst_blocks"]) == ([9, 6, 3, 0], [7, 8, 9, 6])

    def test_negative_numbers_in_a_buffer(self, native, manager):
        native.fail("pull", S.LLM_PARAM_INVALID)
        with pytest.raises(TypeError, match=r"dst_blocks\[1\].*-3"):
            manager.pull_blocks(KEY, BLOCKS, [1, 2], np.array([1, -3]))
        assert native.last("pull")[1]["dst_blocks"] == [1, 2**64 - 3]

    @pytest.mark.rule("C10-66")
    def test_negative_numbers_of_what_is_converted(self, native, manager):
        for form in (
            lambda ids: np.array(ids, np.int32),
            lambda ids: range(ids[0], ids[1] - 1, ids[1] - ids[0]),
            lambda ids: ForeignTensor(np.array(ids, np.int64)),
        ):
            for lists, name in ((([1, 2], form([1, -3])), "dst"), ((form([1, -3]), [1, 2]), "src")):
                with pytest.raises(TypeError, match=rf"^{name}_blocks\[1\] .*-3"):
                    manager.pull_blocks(KEY, BLOCKS, *lists)
        assert native.of("pull") == []

    def test_a_refused_pull_of_converted_ids_is_the_engines(self, native, manager):
        native.fail("pull", S.LLM_PARAM_INVALID)
        for blocks in (np.array([1], np.uint32), range(1), ForeignTensor(np.array([1]))):
            assert_invalid(lambda ids=blocks: manager.pull_blocks(KEY, BLOCKS, ids, ids))

    def test_calls_at_one_time_do_not_share_a_frame(self, native, manager):
        inside, seen = threading.Barrier(4, timeout=30), []

        def pull(engine, args):
            inside.wait()  # all four calls are in here now
            seen.append((args.key.model_id, args.dst_blocks[0]))
            return 0

        native.facade.pull = pull
        threads = [
            threading.Thread(
                target=manager.pull_blocks, args=(BlocksCacheKey(9, n), BLOCKS, [n], [n])
            )
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(seen) == [(n, n) for n in range(4)]

    def test_a_warm_call_makes_no_structs(self, native, manager, mocker):
        manager.pull_blocks(KEY, BLOCKS, [1], [2])
        native.facade.pull = lambda engine, args: 0
        new = mocker.patch("llm_datadist._native.marshal.new", side_effect=AssertionError)
        for model_id in range(10):
            manager.pull_blocks(BlocksCacheKey(9, model_id), BLOCKS, [1], [2])
        new.assert_not_called()

    def test_buffers_are_free_after_the_call(self, native, manager):
        blocks = array("Q", [1, 2])
        native.facade.pull = lambda engine, args: 0
        before = sys.getrefcount(blocks)
        manager.pull_blocks(KEY, BLOCKS, blocks, blocks)
        assert sys.getrefcount(blocks) == before
        blocks.append(3)  # BufferError while anything exports it

    def test_strict_hardware_mode(self, native, open_datadist, monkeypatch):
        monkeypatch.setenv("LLM_DATADIST_STRICT_HARDWARE", "1")
        manager = open_datadist().cache_manager
        # STRICT_HARDWARE and TELL_NOTICES.
        assert native.last("engine_open")[0]["flags"] == 1 | 4
        manager.pull_blocks(KEY, BLOCKS, [1], [2])
        with pytest.raises(TypeError, match="src_blocks"):
            manager.pull_blocks(KEY, BLOCKS, np.array([1]), [2])


class TestPullCache:
    def test_what_reaches_the_library(self, native, manager):
        manager.pull_cache(BY_ID, CONTIGUOUS, 3, 64, dst_layer_range=range(1, 2))
        _, args = native.last("pull")
        assert (args["key"]["kind"], args["cache_id"]) == (2, 6)
        assert (args["batch_index"], args["size"], args["tensors_per_layer"]) == (3, 64, 2)
        assert (args["num_src_blocks"], args["num_dst_blocks"]) == (0, 0)
        assert (args["dst_layer_start"], args["dst_layer_count"]) == (1, 1)

    def test_keys_of_each_mode(self, native, open_datadist, manager):
        for key in (KEY, CacheKey(9, 1), None):
            with pytest.raises(TypeError, match="cache_key only support"):
                manager.pull_cache(key, CONTIGUOUS)

    def test_keys_of_request_mode(self, native, request_manager):
        request_manager.pull_cache(CacheKey(9, 1), CONTIGUOUS)
        request_manager.pull_cache(CacheKey(9, UNSET, 0, 1), CONTIGUOUS)
        assert len(native.of("pull")) == 2
        with pytest.raises(TypeError, match="cache_key only support"):
            request_manager.pull_cache(KEY, CONTIGUOUS)
        assert_invalid(
            lambda: request_manager.pull_cache(CacheKey(9, UNSET), CONTIGUOUS), "exactly one"
        )

    @pytest.mark.rule("C1.10-14")
    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ((None,), TypeError),
            ((CONTIGUOUS, -1), ValueError),
            ((CONTIGUOUS, None), TypeError),
            ((CONTIGUOUS, 0, 2**63), ValueError),
        ],
    )
    def test_builtin_errors(self, manager, arguments, error):
        with pytest.raises(error):
            manager.pull_cache(BY_ID, *arguments)

    @pytest.mark.rule("C1.10-14")
    def test_param_invalid(self, manager):
        assert_invalid(lambda: manager.pull_cache(BY_ID, BLOCKS), "has blocks")
        for size in (0, -2):
            assert_invalid(lambda s=size: manager.pull_cache(BY_ID, CONTIGUOUS, 0, s), "size")
        assert_invalid(lambda: manager.pull_cache(BY_ID, CONTIGUOUS, tensor_num_per_layer=0))


@pytest.mark.rule("C1.10-20")
def test_check_cache_key(manager):
    manager.check_cache_key(CacheKey(1, 2))
    manager.check_cache_key(CacheKey(1, UNSET, 0, 3))
    assert_invalid(lambda: manager.check_cache_key(CacheKey(1, 2, 0, 3)))
    assert_invalid(lambda: manager.check_cache_key(CacheKey(1, UNSET)))
